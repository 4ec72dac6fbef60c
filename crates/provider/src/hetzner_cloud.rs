//! Hetzner Cloud's floating addresses (API documentation, «Floating IPs» and «Floating IP Actions»). Servers are numbers.

use std::net::IpAddr;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::api::{Api, Body};
use crate::{Assign, MoveError};

pub(crate) const URL: &str = "https://api.hetzner.cloud/v1";

#[derive(Debug)]
pub(crate) struct HetznerCloud {
    api: Api,
}

#[derive(Deserialize)]
struct List {
    floating_ips: Vec<Floating>,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct Pagination {
    next_page: Option<u32>,
}

#[derive(Deserialize)]
struct Floating {
    id: u64,
    /// An address, or a network of IPv6: `2001:db8::/64`.
    ip: String,
    server: Option<u64>,
}

impl HetznerCloud {
    pub(crate) fn new(api: Api) -> HetznerCloud {
        HetznerCloud { api }
    }

    pub(crate) async fn find(&self, ip: IpAddr) -> Result<Option<String>, MoveError> {
        Ok(self.floating(ip).await?.server.map(|server| server.to_string()))
    }

    pub(crate) async fn assign(&self, assign: Assign<'_>) -> Result<(), MoveError> {
        let server: u64 = assign
            .target
            .parse()
            .map_err(|_| MoveError::NoTarget(assign.claim.to.clone()))?;
        let id = self.floating(assign.claim.ip).await?.id;
        let path = format!("/floating_ips/{id}/actions/assign");
        let body = Body::Json(json!({ "server": server }));
        self.api.tell(Method::POST, &path, self.api.bearer()?, body).await
    }

    /// The interface knows addresses by numbers of its own only.
    async fn floating(&self, ip: IpAddr) -> Result<Floating, MoveError> {
        let mut page = 1;
        for _ in 0..PAGES {
            let path = format!("/floating_ips?page={page}&per_page=50");
            let list: List = self
                .api
                .ask(Method::GET, &path, self.api.bearer()?, Body::Empty)
                .await?;
            if let Some(found) = list
                .floating_ips
                .into_iter()
                .find(|floating| covers(&floating.ip, ip))
            {
                return Ok(found);
            }
            match list.meta.and_then(|meta| meta.pagination?.next_page) {
                Some(next) => page = next,
                None => break,
            }
        }
        Err(MoveError::Unknown {
            place: "Hetzner Cloud".to_owned(),
            said: format!("no floating address of this project is {ip}"),
        })
    }
}

/// Whether `ip` is the address that is written there, or in the network of IPv6.
fn covers(written: &str, ip: IpAddr) -> bool {
    let (base, bits) = match written.split_once('/') {
        Some((base, bits)) => (base.parse().ok(), bits.parse::<u32>().ok()),
        None => (written.parse().ok(), None),
    };
    match (base, ip, bits) {
        (Some(base), ip, None) => base == ip,
        (Some(IpAddr::V6(base)), IpAddr::V6(ip), Some(bits @ 1..=128)) => {
            let shift = 128 - bits;
            u128::from(base) >> shift == u128::from(ip) >> shift
        }
        (Some(base), ip, Some(_)) => base == ip,
        (None, _, _) => false,
    }
}

/// Pages of 50 that are read: more addresses than a project can have.
const PAGES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_by_itself_or_in_its_network() {
        for (written, ip, found) in [
            ("198.51.100.1", "198.51.100.1", true),
            ("198.51.100.1/32", "198.51.100.1", true),
            ("198.51.100.1", "198.51.100.2", false),
            ("2001:db8:1::/64", "2001:db8:1::80", true),
            ("2001:db8:1::/64", "2001:db8:2::80", false),
            ("2001:db8:1::/0", "2001:db8:2::80", false),
            ("2001:db8:1::/999", "2001:db8:1::", true),
            ("", "198.51.100.1", false),
            ("x/64", "2001:db8::1", false),
        ] {
            assert_eq!(covers(written, ip.parse().unwrap()), found, "{written} {ip}");
        }
    }
}
