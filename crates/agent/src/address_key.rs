//! The key with which the address tiers of the fleet sign their heartbeats: whoever has it could make addresses move.
//!
//! It travels as that of the edges' cookies does ([`floor_key`]): the keeper makes it once and says it in its heartbeats,
//! which are encrypted and go to members only; the others write it down. Once written it outlives every agent (P5).

use pontoon_fleet::ServerName;

use crate::core::Agent;
use crate::floor_key;

/// What this server's heartbeats say of the key: the keeper's, where addresses move; it is made when there is none.
pub(crate) fn to_tell(agent: &Agent) -> Option<String> {
    let membership = agent.membership()?;
    let moves = agent.active()?.config.takeover().is_some();
    if membership.keeper != membership.me || !moves {
        return None;
    }
    match floor_key::known_or_made(&agent.paths.address_key_file()) {
        Ok(key) => Some(floor_key::hex(&key)),
        Err(refusal) => {
            tracing::warn!(%refusal, "there is no key for heartbeats about addresses");
            None
        }
    }
}

/// Takes over what the keeper said; what anybody else says is nothing.
pub(crate) fn hear(agent: &Agent, from: &ServerName, said: Option<&str>) {
    let keeper = agent.membership().map(|membership| membership.keeper);
    if let (Some(key), true) = (said.and_then(floor_key::unhex), keeper.as_ref() == Some(from)) {
        floor_key::keep(&agent.paths.address_key_file(), key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MOVING: &str = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.11"
public = ["198.51.100.111"]
[[server]]
name = "b"
private = "198.51.100.12"
public = ["198.51.100.112"]
[app]
upstream = "127.0.0.1:8080"
[ip]
method = "arp"
"#;

    #[tokio::test]
    async fn the_keeper_makes_it_where_addresses_move_and_nobody_else_is_believed() {
        let single = testing::founder().await;
        assert_eq!(to_tell(&single.agent), None);
        let fixture = testing::founder_of(MOVING).await;
        let key = to_tell(&fixture.agent).unwrap();
        assert_eq!(to_tell(&fixture.agent), Some(key));
        let mut membership = fixture.agent.membership().unwrap();
        membership.keeper = "b".parse().unwrap();
        fixture.agent.set_membership(Some(membership));
        assert_eq!(to_tell(&fixture.agent), None, "it is for the keeper to say");
        let path = fixture.agent.paths.address_key_file();
        let before = std::fs::read(&path).unwrap();
        hear(&fixture.agent, &"c".parse().unwrap(), Some(&"0f".repeat(32)));
        hear(&fixture.agent, &"b".parse().unwrap(), Some("0f"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        hear(&fixture.agent, &"b".parse().unwrap(), Some(&"0f".repeat(32)));
        assert_eq!(std::fs::read(&path).unwrap(), [15; 32]);
    }
}
