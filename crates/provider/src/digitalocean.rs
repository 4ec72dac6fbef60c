//! DigitalOcean's reserved addresses (API reference, «Reserved IPs», «Reserved IP Actions» and the same of IPv6). Droplets
//! are numbers.

use std::net::IpAddr;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::api::{Api, Body};
use crate::{Assign, MoveError};

pub(crate) const URL: &str = "https://api.digitalocean.com";

#[derive(Debug)]
pub(crate) struct DigitalOcean {
    api: Api,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(alias = "reserved_ipv6")]
    reserved_ip: Reserved,
}

#[derive(Deserialize)]
struct Reserved {
    droplet: Option<Droplet>,
}

#[derive(Deserialize)]
struct Droplet {
    id: u64,
}

impl DigitalOcean {
    pub(crate) fn new(api: Api) -> DigitalOcean {
        DigitalOcean { api }
    }

    pub(crate) async fn find(&self, ip: IpAddr) -> Result<Option<String>, MoveError> {
        let answer: Answer = self
            .api
            .ask(Method::GET, &path(ip), self.api.bearer()?, Body::Empty)
            .await?;
        Ok(answer.reserved_ip.droplet.map(|droplet| droplet.id.to_string()))
    }

    pub(crate) async fn assign(&self, assign: Assign<'_>) -> Result<(), MoveError> {
        let droplet: u64 = assign
            .target
            .parse()
            .map_err(|_| MoveError::NoTarget(assign.claim.to.clone()))?;
        let path = format!("{}/actions", path(assign.claim.ip));
        let body = Body::Json(json!({ "type": "assign", "droplet_id": droplet }));
        self.api.tell(Method::POST, &path, self.api.bearer()?, body).await
    }
}

fn path(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("/v2/reserved_ips/{ip}"),
        IpAddr::V6(ip) => format!("/v2/reserved_ipv6/{ip}"),
    }
}
