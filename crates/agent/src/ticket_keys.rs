//! The keys with which every edge opens the session tickets that another edge gave a visitor.
//!
//! As with `floor_key`: the keeper makes them, changes them twice a day and says them in its heartbeats, which are
//! encrypted and go to members only; the others write down what the keeper says, and the edges read the file. An edge
//! without them gives no tickets: its visitors make full handshakes.

use pontoon_certs::TicketKeys;
use pontoon_fleet::ServerName;
use pontoon_rt::files;

use crate::core::Agent;

/// The tiers' group reads it.
const MODE: u32 = 0o640;
const MAX_FILE: u64 = 4096;

/// Makes and changes the keys, where this server is the keeper and visitors come over HTTPS. To be called again and
/// again.
pub(crate) fn keep(agent: &Agent) {
    if !is_mine(agent) {
        return;
    }
    let secret = || {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).ok().map(|()| secret)
    };
    let known = read(agent).unwrap_or_else(TicketKeys::none);
    if let Some(keys) = known.changed(agent.clock.unix(), secret) {
        write(agent, &keys);
    }
}

/// What this server's heartbeats say of the keys: the keeper's.
pub(crate) fn to_tell(agent: &Agent) -> Option<String> {
    is_mine(agent)
        .then(|| read(agent).map(|keys| keys.to_text()))
        .flatten()
}

/// Takes over what the keeper said; what anybody else says is nothing.
pub(crate) fn hear(agent: &Agent, from: &ServerName, said: Option<&str>) {
    let keeper = agent.membership().map(|membership| membership.keeper);
    if let (Some(keys), true) = (said.and_then(TicketKeys::parse), keeper.as_ref() == Some(from))
        && read(agent).as_ref() != Some(&keys)
    {
        write(agent, &keys);
    }
}

fn is_mine(agent: &Agent) -> bool {
    let served = agent
        .active()
        .is_some_and(|active| active.config.edge.tls.is_some());
    served
        && agent
            .membership()
            .is_some_and(|membership| membership.keeper == membership.me)
}

fn read(agent: &Agent) -> Option<TicketKeys> {
    let bytes = files::read_limited(&agent.paths.ticket_keys_file(), MAX_FILE).ok()??;
    TicketKeys::parse(&String::from_utf8(bytes).ok()?)
}

fn write(agent: &Agent, keys: &TicketKeys) {
    let path = agent.paths.ticket_keys_file();
    if let Err(error) = files::write_atomic(&path, keys.to_text().as_bytes(), MODE) {
        tracing::warn!(%error, "the keys of session tickets were not kept");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing;

    const HTTPS: &str = r#"
[edge.tls]
certificates = [{ certificate = "/etc/notes/chain.pem", key = "/etc/notes/key.pem" }]
"#;

    #[tokio::test]
    async fn the_keeper_makes_keys_where_there_is_https_and_changes_them() {
        let plain = testing::founder().await;
        keep(&plain.agent);
        assert_eq!(to_tell(&plain.agent), None);
        let fixture = testing::founder_of(&testing::two_servers(HTTPS)).await;
        keep(&fixture.agent);
        let first = to_tell(&fixture.agent).unwrap();
        keep(&fixture.agent);
        assert_eq!(to_tell(&fixture.agent).as_ref(), Some(&first));
        fixture.clock.advance(Duration::from_secs(13 * 3600));
        keep(&fixture.agent);
        let both = to_tell(&fixture.agent).unwrap();
        assert!(
            both.len() > first.len() && both.ends_with(&first),
            "the old one stays for a while"
        );
        fixture.keep_at("b");
        assert_eq!(to_tell(&fixture.agent), None, "it is for the keeper to say");
    }

    #[tokio::test]
    async fn the_keeper_is_believed_and_nobody_else() {
        let fixture = testing::founder_of(&testing::two_servers(HTTPS)).await;
        fixture.keep_at("b");
        let (b, c): (ServerName, ServerName) = ("b".parse().unwrap(), "c".parse().unwrap());
        let keys = format!("5 {}\n", "0f".repeat(32));
        hear(&fixture.agent, &c, Some(&keys));
        for wrong in [None, Some("5 0f"), Some("nonsense")] {
            hear(&fixture.agent, &b, wrong);
        }
        assert_eq!(read(&fixture.agent), None);
        hear(&fixture.agent, &b, Some(&keys));
        assert_eq!(read(&fixture.agent).map(|keys| keys.to_text()), Some(keys));
    }
}
