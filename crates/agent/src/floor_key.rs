//! The key with which the fleet's edges sign the cookie that says what a visitor must see.
//!
//! The keeper makes it once and says it in its heartbeats, which are encrypted and go to members only; the others write
//! down what the keeper says. The tiers read the file. A server without it believes no cookie and refuses none: it
//! asks the primary instead. Nor can who steals it do harm: a floor is held against the primary's own position.

use std::fmt::Write;
use std::path::Path;

use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_rt::files;

use crate::core::Agent;

const LENGTH: usize = 32;
/// The tiers' group reads it.
const MODE: u32 = 0o640;
const MAX_FILE: u64 = 4096;

/// What this server's heartbeats say of the key: the keeper's, when the application's reads are spread; it is made when
/// there is none.
pub(crate) fn to_tell(agent: &Agent) -> Option<String> {
    let membership = agent.membership()?;
    let active = agent.active()?;
    let spread = active.config.db.as_ref()?.reads.is_some_and(|reads| reads.split);
    if membership.keeper != membership.me || !spread {
        return None;
    }
    match known_or_made(&agent.paths.floor_key_file()) {
        Ok(key) => Some(hex(&key)),
        Err(refusal) => {
            tracing::warn!(%refusal, "there is no key for the edges' cookies");
            None
        }
    }
}

/// Takes over what the keeper said; what anybody else says is nothing.
pub(crate) fn hear(agent: &Agent, from: &ServerName, said: Option<&str>) {
    let keeper = agent.membership().map(|membership| membership.keeper);
    let (Some(key), true) = (said.and_then(unhex), keeper.as_ref() == Some(from)) else {
        return;
    };
    keep(&agent.paths.floor_key_file(), key);
}

/// Writes a key down, if it is not there already.
pub(crate) fn keep(path: &Path, key: [u8; LENGTH]) {
    let same = files::read_limited(path, MAX_FILE).is_ok_and(|known| known.as_deref() == Some(&key[..]));
    if !same && let Err(error) = files::write_atomic(path, &key, MODE) {
        tracing::warn!(%error, path = %path.display(), "a key of the fleet was not kept");
    }
}

/// The key in `path`, made if there is none.
pub(crate) fn known_or_made(path: &Path) -> Result<[u8; LENGTH], Refusal> {
    if let Some(known) = files::read_limited(path, MAX_FILE)?
        && let Ok(key) = known.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| Refusal::new(Code::N006, "the system gives no random numbers"))?;
    files::write_atomic(path, &key, MODE)?;
    Ok(key)
}

/// As it travels.
pub(crate) fn hex(key: &[u8]) -> String {
    key.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// [`hex`] again; `None` when it is not the text of a key.
pub(crate) fn unhex(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; LENGTH];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const SPREAD: &str = r#"
[db]
engine = "mariadb"
listen = ["127.0.0.1:3306"]
reads = { split = true }
"#;

    #[tokio::test]
    async fn the_keeper_makes_the_key_once_and_only_where_reads_are_spread() {
        let single = testing::founder().await;
        assert_eq!(to_tell(&single.agent), None);
        let fixture = testing::founder_of(&testing::two_servers(SPREAD)).await;
        let key = to_tell(&fixture.agent).unwrap();
        assert_eq!(to_tell(&fixture.agent), Some(key.clone()));
        let on_disk = std::fs::read(fixture.agent.paths.floor_key_file()).unwrap();
        assert_eq!(unhex(&key).unwrap()[..], on_disk);
        fixture.keep_at("b");
        assert_eq!(to_tell(&fixture.agent), None, "it is for the keeper to say");
    }

    #[tokio::test]
    async fn the_keeper_is_believed_and_nobody_else() {
        let fixture = testing::founder_of(&testing::two_servers(SPREAD)).await;
        fixture.keep_at("b");
        let (b, c): (ServerName, ServerName) = ("b".parse().unwrap(), "c".parse().unwrap());
        let path = fixture.agent.paths.floor_key_file();
        let key = "0f".repeat(32);
        hear(&fixture.agent, &c, Some(&key));
        for wrong in ["", "zz", &"0f".repeat(31), &"é".repeat(32), &"+1".repeat(32)] {
            hear(&fixture.agent, &b, Some(wrong));
        }
        hear(&fixture.agent, &b, None);
        assert!(!path.exists());
        hear(&fixture.agent, &b, Some(&key));
        assert_eq!(std::fs::read(&path).unwrap(), [15; 32]);
    }
}
