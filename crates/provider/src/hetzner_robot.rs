//! Hetzner Robot's failover addresses (Robot Webservice documentation, «Failover»). Servers are their main addresses. A
//! switch takes 40 to 110 seconds by Hetzner's own word, and is answered when it is done.

use std::net::{IpAddr, Ipv6Addr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::api::{Api, Body, Proof};
use crate::{Assign, MoveError};

pub(crate) const URL: &str = "https://robot-ws.your-server.de";

#[derive(Debug)]
pub(crate) struct HetznerRobot {
    api: Api,
}

#[derive(Deserialize)]
struct Answer {
    failover: Failover,
}

#[derive(Deserialize)]
struct Failover {
    active_server_ip: Option<String>,
}

impl HetznerRobot {
    pub(crate) fn new(api: Api) -> HetznerRobot {
        HetznerRobot { api }
    }

    pub(crate) async fn find(&self, ip: IpAddr) -> Result<Option<String>, MoveError> {
        let answer: Answer = self
            .api
            .ask(Method::GET, &path(ip), self.login()?, Body::Empty)
            .await?;
        Ok(answer.failover.active_server_ip)
    }

    pub(crate) async fn assign(&self, assign: Assign<'_>) -> Result<(), MoveError> {
        let target: IpAddr = assign
            .target
            .parse()
            .map_err(|_| MoveError::NoTarget(assign.claim.to.clone()))?;
        // Only a colon of IPv6 would need to be written otherwise.
        let body = Body::Form(format!(
            "active_server_ip={}",
            target.to_string().replace(':', "%3A")
        ));
        match self
            .api
            .tell(Method::POST, &path(assign.claim.ip), self.login()?, body)
            .await
        {
            // What is wanted is so already: the look that follows says whether that is true.
            Err(MoveError::Locked { said, .. }) if said.contains("FAILOVER_ALREADY_ROUTED") => Ok(()),
            told => told,
        }
    }

    fn login(&self) -> Result<Vec<Proof>, MoveError> {
        let secret = self.api.secret()?;
        let line = |name: &str| secret.need(name).map_err(MoveError::Credentials);
        let plain = Zeroizing::new(format!("{}:{}", line("user")?, line("password")?));
        let coded = Zeroizing::new(BASE64_STANDARD.encode(plain.as_bytes()));
        Ok(vec![(AUTHORIZATION, Zeroizing::new(format!("Basic {}", *coded)))])
    }
}

/// Of IPv6 networks move, and are named by their first address.
fn path(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("/failover/{ip}"),
        IpAddr::V6(ip) => {
            let network = Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64);
            format!("/failover/{}", network.to_string().replace(':', "%3A"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_named_by_its_first_address() {
        assert_eq!(path("198.51.100.7".parse().unwrap()), "/failover/198.51.100.7");
        assert_eq!(
            path("2001:db8:1:2::80".parse().unwrap()),
            "/failover/2001%3Adb8%3A1%3A2%3A%3A"
        );
    }
}
