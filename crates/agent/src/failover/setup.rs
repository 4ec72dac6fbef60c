//! From the configuration to what the protocol needs to know.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_config::{Config, Db, Durability, Failover, Lease, LeaseStore, WhenAlone};
use pontoon_decide::failover::{Mode, Policy, Setup, Timing};
use pontoon_fleet::{Role, ServerName};
use pontoon_replication::work::Peer;

/// Whether `config` has its lease in a store that servers share, so that the primary can change.
pub(crate) fn is_shared(config: &Config) -> bool {
    config.lease_store() != LeaseStore::Single && config.db.as_ref().is_some_and(Db::is_ours)
}

/// Whether `server` takes part: it has a database of the fleet, and the lease is in a shared store.
pub(crate) fn takes_part(config: &Config, server: &ServerName) -> bool {
    let entry = config.server(server);
    is_shared(config) && entry.is_some_and(|entry| config.runs_database(entry))
}

/// What an acknowledged write is worth in `config`.
pub(crate) fn policy(db: &Db) -> Policy {
    let mode = match db.durability {
        Some(Durability::OneCopy) => Mode::Available,
        Some(Durability::Quorum) => Mode::Quorum,
        Some(Durability::TwoCopies) | None => Mode::Safe,
    };
    Policy {
        mode,
        acks: match mode {
            Mode::Available => 0,
            Mode::Safe => 1,
            Mode::Quorum => db.acks,
        },
        max_lag: db.max_lag,
    }
}

/// The lengths of time for a lease of `lease.ttl`: a renewal that gets lost once leaves time for the next one.
pub(crate) fn timing(lease: &Lease) -> Timing {
    let base = match lease.store {
        LeaseStore::Etcd { .. } => Timing::etcd(),
        LeaseStore::S3 { .. } | LeaseStore::Single => Timing::s3(),
    };
    if lease.ttl == base.ttl {
        return base;
    }
    let usable = lease.ttl.saturating_sub(base.fence + base.margin);
    let quarter = Duration::from_millis(u64::try_from(usable.as_millis() / 4).unwrap_or(u64::MAX));
    Timing {
        ttl: lease.ttl,
        renew: quarter,
        request: quarter,
        look: base.look.min(quarter),
        take_back: lease.ttl,
        ..base
    }
}

/// What does not change while the node lives. `founder` is the server whose database served the application before there
/// was a record.
pub(crate) fn setup(
    config: &Config,
    db: &Db,
    lease: &Lease,
    me: &ServerName,
    founder: bool,
    relay_survives: bool,
) -> Setup {
    let base = Setup::new(config.fleet.name.clone(), me.clone(), timing(lease), policy(db));
    Setup {
        founder,
        automatic: db.failover == Some(Failover::Auto),
        bystanders: delayed(config).collect(),
        source: config.server(me).and_then(|server| server.source.clone()),
        continue_alone: db.when_alone != Some(WhenAlone::Stop),
        relay_survives,
        ..base
    }
}

/// The servers whose copy stays behind on purpose.
pub(crate) fn delayed(config: &Config) -> impl Iterator<Item = ServerName> {
    let servers = config.with_role(Role::Db);
    servers
        .filter(|server| server.delay.is_some())
        .map(|server| server.name.clone())
}

/// The other database servers.
pub(crate) fn peers(config: &Config, db: &Db, me: &ServerName) -> BTreeMap<ServerName, Peer> {
    config
        .with_role(Role::Db)
        .filter(|server| server.name != *me)
        .map(|server| {
            let peer = Peer {
                address: server.private,
                port: db.server_port,
                delayed: server.delay.is_some(),
            };
            (server.name.clone(), peer)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> Config {
        let text = format!(
            "version = 1\n[fleet]\nname = \"notes\"\n[[server]]\nname = \"a\"\nprivate = \"10.0.0.1\"\n\
             [[server]]\nname = \"b\"\nprivate = \"10.0.0.2\"\n[db]\nengine = \"mariadb\"\nlisten = [\"127.0.0.1:3306\"]\n{rest}"
        );
        Config::parse(&text).unwrap()
    }

    #[test]
    fn a_shipped_ttl_gives_the_shipped_lengths_and_every_other_keeps_the_rule() {
        for (store, ttl) in [
            ("store = \"s3\"\nbucket = \"xyz\"", None),
            ("store = \"etcd\"\nendpoints = [\"10.0.0.9:2379\"]", None),
            ("store = \"s3\"\nbucket = \"xyz\"", Some("8s")),
            ("store = \"s3\"\nbucket = \"xyz\"", Some("60s")),
            ("store = \"etcd\"\nendpoints = [\"10.0.0.9:2379\"]", Some("4s")),
        ] {
            let line = ttl.map_or_else(String::new, |ttl| format!("ttl = \"{ttl}\"\n"));
            let config = config(&format!("[lease]\n{store}\n{line}"));
            let timing = timing(config.lease.as_ref().unwrap());
            assert_eq!(timing.check(), Ok(()), "{store} {ttl:?}");
            if ttl.is_none() {
                assert!(timing == Timing::s3() || timing == Timing::etcd(), "{timing:?}");
            }
        }
    }

    #[test]
    fn the_default_is_safe_and_the_others_are_asked_for() {
        let mode = |line: &str| policy(config(line).db.as_ref().unwrap()).mode;
        assert_eq!(mode(""), Mode::Safe);
        assert_eq!(mode("durability = \"two-copies\"\n"), Mode::Safe);
        assert_eq!(mode("durability = \"one-copy\"\n"), Mode::Available);
    }

    #[test]
    fn who_takes_part_has_a_database_and_a_shared_store() {
        let a: ServerName = "a".parse().unwrap();
        assert!(!takes_part(&config(""), &a));
        let shared = config("[lease]\nstore = \"s3\"\nbucket = \"xyz\"\n");
        assert!(takes_part(&shared, &a));
        assert!(!takes_part(&shared, &"x".parse().unwrap()));
        let peers = peers(&shared, shared.db.as_ref().unwrap(), &a);
        assert_eq!(peers.keys().map(ServerName::as_str).collect::<Vec<_>>(), ["b"]);
    }
}
