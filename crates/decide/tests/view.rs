//! The view, against what it promises, over generated fleets and observations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_config::Config;
use pontoon_decide::{Observed, ViewInputs, compose};
use pontoon_fleet::{
    AfterWrite, BootMoment, DatabaseReport, DatabaseRole, DrainBook, DrainMark, EdgeReport, Engine, Epoch,
    FleetView, LeaseRecord, Revision, Role, ServerName, ServerReport, ServerState, SpreadReport, SqlReport,
    TierDetail, TierReport, UnixMillis,
};
use proptest::prelude::*;

const LIMIT: Duration = Duration::from_secs(3);

fn name(index: usize) -> ServerName {
    format!("s{index}").parse().unwrap()
}

fn report(server: &ServerName, lag_ms: Option<u64>) -> ServerReport {
    ServerReport {
        server: server.clone(),
        at: UnixMillis(1),
        version: "0.1.0".to_owned(),
        revision: Revision(1),
        settled: Revision(1),
        trouble: None,
        config_digest: String::new(),
        tiers: Vec::new(),
        database: Some(DatabaseReport {
            engine: Engine::Mariadb,
            version: "10.11.6-MariaDB".to_owned(),
            // Every database claims to be primary: none is believed.
            role: DatabaseRole::Primary,
            read_only: false,
            position: "0-1-5".to_owned(),
            lag_ms,
            error: None,
        }),
        load_percent: 0,
        full_disk: None,
        drains: DrainBook::default(),
        lease: None,
        unheard: Vec::new(),
        maintenance: Default::default(),
        purges: Default::default(),
        addresses_changed: pontoon_fleet::UnixMillis::default(),
        elsewhere: Vec::new(),
        routing: None,
    }
}

/// The last server has no database.
fn config(count: usize) -> Config {
    let mut text = String::from("version = 1\n[fleet]\nname = \"notes\"\n");
    for index in 0..count {
        text.push_str(&format!(
            "[[server]]\nname = \"s{index}\"\nprivate = \"10.0.0.{}\"\n",
            index + 1
        ));
        if index > 0 && index + 1 == count {
            text.push_str("roles = [\"edge\", \"app\"]\n");
        }
    }
    text.push_str(
        "[app]\nupstream = \"127.0.0.1:8080\"\n[db]\nengine = \"mariadb\"\nlisten = [\"127.0.0.1:3306\"]\n",
    );
    Config::parse(&text).unwrap()
}

#[derive(Clone, Debug)]
struct Case {
    count: usize,
    me: usize,
    ages: Vec<Option<u64>>,
    drained: Vec<bool>,
    epoch: u64,
    lease: Option<(u64, usize)>,
}

fn cases() -> impl Strategy<Value = Case> {
    (1usize..6).prop_flat_map(|count| {
        (
            0..count,
            prop::collection::vec(prop::option::of(0u64..6_000), count),
            prop::collection::vec(any::<bool>(), count),
            0u64..4,
            prop::option::of((0u64..4, 0usize..7)),
        )
            .prop_map(move |(me, ages, drained, epoch, lease)| Case {
                count,
                me,
                ages,
                drained,
                epoch,
                lease,
            })
    })
}

fn view(case: &Case) -> FleetView {
    let reports: BTreeMap<_, _> = case
        .ages
        .iter()
        .enumerate()
        .filter_map(|(index, age)| {
            let age = Duration::from_millis((*age)?);
            Some((
                name(index),
                Observed {
                    report: report(&name(index), Some(40)),
                    age,
                },
            ))
        })
        .collect();
    let drains = DrainBook(
        case.drained
            .iter()
            .enumerate()
            .map(|(index, drained)| {
                (
                    name(index),
                    DrainMark {
                        at: UnixMillis(1),
                        drained: *drained,
                        app_only: false,
                    },
                )
            })
            .collect(),
    );
    let lease = case.lease.map(|(epoch, leader)| LeaseRecord {
        epoch: Epoch(epoch),
        leader: name(leader),
    });
    compose(&ViewInputs {
        config: &config(case.count),
        revision: Revision(3),
        epoch: Epoch(case.epoch),
        serial: 9,
        me: &name(case.me),
        reports: &reports,
        drains: &drains,
        maintenance: None,
        lease: lease.as_ref(),
        unreachable_after: LIMIT,
        write_until: None,
        opening: false,
        holding: None,
        issued: &Default::default(),
        cache: None,
        addresses: &Default::default(),
    })
}

proptest! {
    #[test]
    fn what_a_view_promises(case in cases()) {
        let view = view(&case);
        let names: Vec<_> = view.servers.iter().map(|server| server.name.clone()).collect();
        prop_assert_eq!(names, (0..case.count).map(name).collect::<Vec<_>>(), "unreachable is not removed");
        for (index, server) in view.servers.iter().enumerate() {
            let heard = index == case.me || case.ages[index].is_some_and(|age| age <= 3_000);
            let wanted = match (case.drained[index], heard) {
                (true, _) => ServerState::Draining,
                (false, true) => ServerState::Up,
                (false, false) => ServerState::Unreachable,
            };
            prop_assert_eq!(server.state, wanted);
        }
        prop_assert!(view.epoch >= Epoch(case.epoch), "the epoch never goes back");
        let sql = view.sql.as_ref().unwrap();
        match &sql.primary {
            Some(primary) => {
                let (epoch, leader) = case.lease.unwrap();
                prop_assert_eq!(primary, &name(leader), "the primary is the lease's and nobody else's");
                prop_assert!(epoch >= case.epoch, "an old lease names nobody");
                prop_assert!(view.server(primary).is_some_and(|server| server.roles.contains(&Role::Db)));
            }
            None => {
                let named = case.lease.is_some_and(|(epoch, leader)| {
                    epoch >= case.epoch && view.server(&name(leader)).is_some_and(|s| s.roles.contains(&Role::Db))
                });
                prop_assert!(!named, "a good lease is obeyed, whether its leader's agent answers or not");
            }
        }
        for database in &sql.servers {
            let index: usize = database.server.as_str()[1..].parse().unwrap();
            let heard = case.ages[index].is_some_and(|age| age <= 3_000);
            prop_assert_eq!(database.lag_ms, heard.then_some(40), "nothing old is shown as new");
        }
    }
}

#[test]
fn a_report_under_another_servers_name_is_not_believed() {
    let config = config(3);
    let reports = BTreeMap::from([(
        name(1),
        Observed {
            report: report(&name(0), None),
            age: Duration::ZERO,
        },
    )]);
    let view = compose(&ViewInputs {
        config: &config,
        revision: Revision(1),
        epoch: Epoch(0),
        serial: 1,
        me: &name(0),
        reports: &reports,
        drains: &DrainBook::default(),
        maintenance: None,
        lease: None,
        unreachable_after: LIMIT,
        write_until: None,
        opening: false,
        holding: None,
        issued: &Default::default(),
        cache: None,
        addresses: &Default::default(),
    });
    assert_eq!(view.servers[1].state, ServerState::Unreachable);
    assert_eq!(view.sql.unwrap().primary, None);
}

#[test]
fn floors_of_this_epoch_are_heard_in_one() {
    let mut config = config(3);
    config.db.as_mut().unwrap().reads = Some(pontoon_config::Reads {
        split: true,
        max_lag: Duration::from_secs(2),
        after_write: pontoon_config::AfterWrite::Session,
    });
    let heard = |floors: [Option<&str>; 3]| {
        let reports = floors.into_iter().enumerate().map(|(index, floor)| {
            let mut report = report(&name(index), None);
            report.tiers.push(TierReport {
                pid: 1,
                view_serial: 1,
                detail: TierDetail::Sql(SqlReport {
                    floor: floor.map(str::to_owned),
                    ..SqlReport::default()
                }),
            });
            let age = Duration::ZERO;
            (name(index), Observed { report, age })
        });
        let reports: BTreeMap<_, _> = reports.collect();
        let view = compose(&ViewInputs {
            issued: &Default::default(),
            cache: None,
            config: &config,
            revision: Revision(1),
            epoch: Epoch(2),
            serial: 1,
            me: &name(0),
            reports: &reports,
            drains: &DrainBook::default(),
            maintenance: None,
            lease: Some(&LeaseRecord {
                epoch: Epoch(2),
                leader: name(0),
            }),
            unreachable_after: LIMIT,
            write_until: None,
            opening: false,
            holding: None,
            addresses: &Default::default(),
        });
        let reads = view.sql.unwrap().reads.unwrap();
        assert_eq!((reads.split, reads.max_lag), (true, Duration::from_secs(2)));
        reads.heard
    };
    assert_eq!(
        heard([Some("2@0-1-99"), Some("2@0-1-7"), Some("2@0-2-9,1-1-1")]).as_deref(),
        Some("2@0-2-9,1-1-1")
    );
    // Not its own, not of another epoch, not what is no floor.
    assert_eq!(
        heard([Some("2@0-1-99"), Some("1@0-1-100"), Some("3@0-1-100")]),
        None
    );
    assert_eq!(
        heard([None, Some("2@'; DROP"), Some("2@0-1-3")]).as_deref(),
        Some("2@0-1-3")
    );
}

#[test]
fn until_everybody_tells_what_is_written_the_primary_is_asked() {
    let mut config = config(3);
    config.db.as_mut().unwrap().reads = Some(pontoon_config::Reads {
        split: true,
        max_lag: Duration::from_secs(2),
        after_write: pontoon_config::AfterWrite::Session,
    });
    // Whether the SQL proxy and the edge of each server said that they take part; nothing for no report at all.
    let after_write = |said: [Option<(bool, bool)>; 3], age: Duration| {
        let reports = said.into_iter().enumerate().filter_map(|(index, said)| {
            let (spreads, carries) = said?;
            let mut report = report(&name(index), None);
            let tier = |detail| TierReport {
                pid: 1,
                view_serial: 1,
                detail,
            };
            report.tiers = vec![
                tier(TierDetail::Sql(SqlReport {
                    spread: spreads.then(SpreadReport::default),
                    ..SqlReport::default()
                })),
                tier(TierDetail::Edge(EdgeReport {
                    carries_floors: carries,
                    ..EdgeReport::default()
                })),
            ];
            Some((name(index), Observed { report, age }))
        });
        let view = compose(&ViewInputs {
            config: &config,
            revision: Revision(1),
            epoch: Epoch(2),
            serial: 1,
            me: &name(0),
            reports: &reports.collect(),
            drains: &DrainBook::default(),
            maintenance: None,
            lease: None,
            write_until: None,
            opening: false,
            holding: None,
            issued: &Default::default(),
            cache: None,
            addresses: &Default::default(),
            unreachable_after: LIMIT,
        });
        view.sql.unwrap().reads.unwrap().after_write
    };
    let (now, all) = (Duration::ZERO, Some((true, true)));
    // What this server's own proxy does it knows itself.
    assert_eq!(after_write([None, all, all], now), AfterWrite::Session);
    // An agent that died later takes nothing back: its tiers go on (P5).
    assert_eq!(after_write([None, all, all], LIMIT * 100), AfterWrite::Session);
    for said in [None, Some((false, true)), Some((true, false))] {
        assert_eq!(
            after_write([all, all, said], now),
            AfterWrite::FleetWide,
            "{said:?}"
        );
    }
}

#[test]
fn a_new_primary_is_named_by_itself_once_it_is_open_and_a_hold_is_for_one_epoch() {
    let (config, lease) = (
        config(2),
        LeaseRecord {
            epoch: Epoch(4),
            leader: name(0),
        },
    );
    let until = BootMoment {
        boot: "x".to_owned(),
        ms: 5,
    };
    let view = |me: usize, opening, held| {
        let view = compose(&ViewInputs {
            issued: &Default::default(),
            cache: None,
            config: &config,
            revision: Revision(3),
            epoch: Epoch(4),
            serial: 9,
            me: &name(me),
            reports: &BTreeMap::new(),
            drains: &DrainBook::default(),
            maintenance: None,
            lease: Some(&lease),
            unreachable_after: LIMIT,
            write_until: None,
            addresses: &Default::default(),
            opening,
            holding: Some((Epoch(held), &until)),
        });
        let sql = view.sql.unwrap();
        (sql.primary, sql.holding)
    };
    assert_eq!(view(0, false, 4), (Some(name(0)), Some(until.clone())));
    assert_eq!(view(0, true, 4).0, None, "its database does not take writes yet");
    assert_eq!(
        view(1, true, 4).0,
        Some(name(0)),
        "another's is not this server's to judge"
    );
    assert_eq!(
        view(0, false, 3).1,
        None,
        "the leader of that epoch has handed over"
    );
}
