//! The key that signs the zone: whoever has it can say anything in the zone's name.
//!
//! The keeper makes it. Servers that steer the fleet say it in their heartbeats, which are encrypted, and only to those
//! that steer too or answer for the zone; these write it down. Of two keys the one that was made first counts, whoever
//! says it: the zone's parent points to it, and a new one in its place would make the zone bogus to everybody who checks.

use pontoon_dns::ZoneKey;
use pontoon_fleet::Role;
use pontoon_rt::files;

use crate::authorise::Peer;
use crate::core::Agent;

/// The tiers' group reads it.
const MODE: u32 = 0o640;

/// What this server's heartbeats to `peer` say of the key.
pub(crate) fn to_tell(agent: &Agent, peer: &Peer) -> Option<String> {
    let (Peer::Member { roles, control, .. }, true) = (peer, is_wanted(agent) && agent.is_control()) else {
        return None;
    };
    if !control && !roles.contains(&Role::Dns) {
        return None;
    }
    known_or_made(agent).map(|key| key.to_text())
}

/// Takes over what one that steers the fleet said; what anybody else says is nothing.
pub(crate) fn hear(agent: &Agent, peer: &Peer, said: Option<&str>) {
    let Peer::Member { control: true, .. } = peer else {
        return;
    };
    let Some(theirs) = said.and_then(|said| said.parse::<ZoneKey>().ok()) else {
        return;
    };
    match ZoneKey::load(&agent.paths.dnssec_key_file()) {
        Ok(own) if own.as_ref().is_none_or(|own| theirs < *own) => write(agent, &theirs),
        Ok(_) => {}
        Err(reason) => tracing::warn!(reason, "the key of the zone cannot be read"),
    }
}

/// To be called again and again: the keeper has a key as soon as one is wanted, though it is alone.
pub(crate) fn keep(agent: &Agent) {
    if is_wanted(agent) {
        known_or_made(agent);
    }
}

fn is_wanted(agent: &Agent) -> bool {
    let active = agent.active();
    active.is_some_and(|active| active.config.dns.as_ref().is_some_and(|dns| dns.dnssec.is_some()))
}

fn known_or_made(agent: &Agent) -> Option<ZoneKey> {
    match ZoneKey::load(&agent.paths.dnssec_key_file()) {
        Ok(Some(key)) => return Some(key),
        Ok(None) => {}
        // A file that is there and wrong is for an operator to look at: another key is not what the parent points to.
        Err(reason) => {
            tracing::warn!(reason, "the key of the zone cannot be read");
            return None;
        }
    }
    let membership = agent
        .membership()
        .filter(|membership| membership.keeper == membership.me);
    membership?;
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).ok()?;
    let key = ZoneKey {
        made: agent.clock.unix(),
        seed,
    };
    write(agent, &key);
    Some(key)
}

fn write(agent: &Agent, key: &ZoneKey) {
    let path = agent.paths.dnssec_key_file();
    if let Err(error) = files::write_atomic(&path, key.to_text().as_bytes(), MODE) {
        tracing::warn!(%error, "the key of the zone was not kept");
    }
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::UnixMillis;

    use super::*;
    use crate::testing;

    const FLEET: &str = r#"
version = 1
[fleet]
name = "notes"
[[server]]
name = "a"
private = "198.51.100.11"
roles = ["db", "edge", "app"]
[[server]]
name = "b"
private = "198.51.100.12"
roles = ["db", "edge", "app"]
[[server]]
name = "n"
private = "198.51.100.13"
roles = ["dns"]
[[server]]
name = "e"
private = "198.51.100.14"
roles = ["edge"]
[app]
upstream = "127.0.0.1:8080"
[db]
engine = "mariadb"
listen = ["127.0.0.1:3306"]
[dns]
zone = "example.com"
"#;

    #[tokio::test]
    async fn it_goes_to_those_who_need_it_and_nobody_else() {
        let plain = testing::founder_of(FLEET).await;
        let peer = |fixture: &testing::Fixture, name: &str| fixture.agent.peer(Some(name.parse().unwrap()));
        keep(&plain.agent);
        assert_eq!(
            to_tell(&plain.agent, &peer(&plain, "b")),
            None,
            "nothing is signed"
        );
        let signed = testing::founder_of(&format!("{FLEET}[dns.dnssec]\n")).await;
        let key = to_tell(&signed.agent, &peer(&signed, "b")).unwrap();
        assert_eq!(to_tell(&signed.agent, &peer(&signed, "n")), Some(key.clone()));
        assert_eq!(
            to_tell(&signed.agent, &peer(&signed, "e")),
            None,
            "an edge needs no key of the zone"
        );
        assert_eq!(to_tell(&signed.agent, &peer(&signed, "x")), None, "a stranger");
        let path = signed.agent.paths.dnssec_key_file();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
        // Who is not the keeper makes none, and tells the one it has.
        signed.keep_at("b");
        assert_eq!(to_tell(&signed.agent, &peer(&signed, "b")), Some(key));
        std::fs::remove_file(&path).unwrap();
        keep(&signed.agent);
        assert_eq!(to_tell(&signed.agent, &peer(&signed, "b")), None);
        // What is wrong is not written over.
        signed.keep_at("a");
        std::fs::write(&path, "half a ke").unwrap();
        keep(&signed.agent);
        assert_eq!(to_tell(&signed.agent, &peer(&signed, "b")), None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half a ke");
    }

    #[tokio::test]
    async fn of_two_keys_the_first_counts_and_only_who_steers_is_believed() {
        let fixture = testing::founder_of(&format!("{FLEET}[dns.dnssec]\n")).await;
        let agent = &fixture.agent;
        let peer = |name: &str| agent.peer(Some(name.parse().unwrap()));
        keep(agent);
        let path = agent.paths.dnssec_key_file();
        let own = ZoneKey::load(&path).unwrap().unwrap();
        let other = |made: u64| ZoneKey {
            made: UnixMillis(made),
            seed: [9; 32],
        };
        let (older, newer) = (other(own.made.0 - 1), other(own.made.0 + 1));
        hear(agent, &peer("b"), Some(&newer.to_text()));
        hear(agent, &peer("e"), Some(&older.to_text()));
        hear(agent, &peer("x"), Some(&older.to_text()));
        hear(agent, &peer("b"), Some("nonsense"));
        hear(agent, &peer("b"), None);
        assert_eq!(ZoneKey::load(&path).unwrap().as_ref(), Some(&own));
        hear(agent, &peer("b"), Some(&older.to_text()));
        assert_eq!(ZoneKey::load(&path).unwrap(), Some(older));
    }
}
