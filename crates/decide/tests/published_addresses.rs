//! Which public addresses visitors are sent to, over time: three servers with agents of their own that hear each other
//! or not.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use pontoon_config::Config;
use pontoon_decide::addresses::{Addresses, INTERVAL, Look, unheard};
use pontoon_decide::view::Observed;
use pontoon_fleet::AddressState::{self, Down, Draining, Moving, Up};
use pontoon_fleet::{
    DrainBook, DrainMark, EdgeReport, Revision, ServerName, ServerReport, TierDetail, TierReport, UnixMillis,
};

/// What the world is like: who is off, and between whom nothing comes through.
#[derive(Default)]
struct World {
    now: Duration,
    agents: BTreeMap<ServerName, Agent>,
    off: BTreeSet<ServerName>,
    cut: BTreeSet<(ServerName, ServerName)>,
    without_edge: BTreeSet<ServerName>,
    not_listening: BTreeMap<ServerName, String>,
    taken: BTreeMap<IpAddr, ServerName>,
    moving: BTreeSet<IpAddr>,
    drains: DrainBook,
    config: Option<Config>,
}

#[derive(Default)]
struct Agent {
    addresses: Addresses,
    heard: BTreeMap<ServerName, (ServerReport, Duration)>,
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn world(servers: &[&str]) -> World {
    let mut text = "version = 1\n[fleet]\nname = \"notes\"\n".to_owned();
    for (n, server) in servers.iter().enumerate() {
        let n = n + 1;
        text.push_str(&format!(
            "[[server]]\nname = \"{server}\"\nprivate = \"10.0.0.{n}\"\npublic = [\"192.0.2.{n}\"]\n"
        ));
    }
    text.push_str("[app]\nupstream = \"127.0.0.1:8080\"\n[dns]\nzone = \"example.com\"\n");
    World {
        agents: servers
            .iter()
            .map(|server| (name(server), Agent::default()))
            .collect(),
        config: Some(Config::parse(&text).unwrap()),
        ..World::default()
    }
}

impl World {
    fn report(&self, server: &ServerName) -> ServerReport {
        let config = self.config.as_ref().unwrap();
        let agent = &self.agents[server];
        let edge = TierReport {
            pid: 1,
            view_serial: 1,
            detail: TierDetail::Edge(EdgeReport {
                not_listening: self.not_listening.get(server).cloned().into_iter().collect(),
                ..EdgeReport::default()
            }),
        };
        ServerReport {
            server: server.clone(),
            at: UnixMillis(0),
            version: String::new(),
            revision: Revision(1),
            settled: Revision(1),
            trouble: None,
            config_digest: String::new(),
            tiers: if self.without_edge.contains(server) {
                Vec::new()
            } else {
                vec![edge]
            },
            database: None,
            load_percent: 0,
            full_disk: None,
            drains: DrainBook::default(),
            lease: None,
            unheard: unheard(config, server, &self.observed(server)),
            maintenance: Default::default(),
            purges: Default::default(),
            addresses_changed: agent.addresses.changed(),
            elsewhere: Vec::new(),
            routing: None,
        }
    }

    fn observed(&self, me: &ServerName) -> BTreeMap<ServerName, Observed> {
        let heard = &self.agents[me].heard;
        heard
            .iter()
            .map(|(name, (report, at))| {
                let age = self.now - *at;
                (
                    name.clone(),
                    Observed {
                        report: report.clone(),
                        age,
                    },
                )
            })
            .collect()
    }

    /// Lets time pass: a look each interval, heartbeats every half second.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += INTERVAL;
            let names: Vec<ServerName> = self.agents.keys().cloned().collect();
            for (n, from) in names.iter().enumerate() {
                let due = (self.now.as_millis() / INTERVAL.as_millis()) as usize % 5 == n % 5;
                for to in &names {
                    let through = !self.off.contains(from)
                        && !self.off.contains(to)
                        && !self.cut.contains(&(from.clone(), to.clone()));
                    if from == to || (due && through) {
                        let report = self.report(from);
                        let now = self.now;
                        let heard = &mut self.agents.get_mut(to).unwrap().heard;
                        heard.insert(from.clone(), (report, now));
                    }
                }
            }
            for me in &names {
                if self.off.contains(me) {
                    continue;
                }
                let reports = self.observed(me);
                let look = Look {
                    config: self.config.as_ref().unwrap(),
                    me,
                    reports: &reports,
                    drains: &self.drains,
                    taken: &self.taken,
                    moving: &self.moving,
                    now: self.now,
                    unix: UnixMillis(1_800_000_000_000 + self.now.as_millis() as u64),
                };
                self.agents.get_mut(me).unwrap().addresses.look(&look);
            }
        }
    }

    fn states(&self, me: &str) -> Vec<AddressState> {
        let views = self.agents[&name(me)].addresses.views();
        views.iter().map(|view| view.state).collect()
    }

    fn cut_off(&mut self, one: &str, others: &[&str]) {
        for other in others {
            self.cut.insert((name(one), name(other)));
            self.cut.insert((name(other), name(one)));
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_server_that_dies_is_out_within_a_second_and_a_half_and_back_after_it_was_watched() {
    for servers in [&["a", "b"][..], &["a", "b", "c"]] {
        let mut world = world(servers);
        world.pass(20 * SECOND);
        let all_up = vec![Up; servers.len()];
        assert_eq!(world.states("a"), all_up);
        world.off.insert(name("b"));
        world.pass(SECOND * 3 / 2);
        assert_eq!(world.states("a")[1], Down, "of {}", servers.len());
        let changed = world.agents[&name("a")].addresses.changed();
        world.off.clear();
        world.pass(9 * SECOND);
        assert_eq!(world.states("a")[1], Down, "watched for ten seconds");
        world.pass(5 * SECOND);
        assert_eq!(world.states("a"), all_up);
        assert!(world.agents[&name("a")].addresses.changed() > changed);
        // Again within ten minutes: twice as long.
        world.off.insert(name("b"));
        world.pass(2 * SECOND);
        world.off.clear();
        world.pass(15 * SECOND);
        assert_eq!(world.states("a")[1], Down);
        world.pass(10 * SECOND);
        assert_eq!(world.states("a"), all_up);
    }
}

#[test]
fn one_agents_word_is_not_enough_where_a_third_could_be_asked() {
    let mut world = world(&["a", "b", "c"]);
    world.pass(10 * SECOND);
    world.cut_off("a", &["b"]);
    world.pass(20 * SECOND);
    for me in ["a", "b", "c"] {
        assert_eq!(world.states(me), [Up; 3], "{me}: between two of three only");
    }
    world.cut_off("a", &["c"]);
    world.pass(20 * SECOND);
    assert_eq!(
        world.states("a"),
        [Up; 3],
        "who hears nobody says nothing of others"
    );
    for me in ["b", "c"] {
        assert_eq!(world.states(me), [Down, Up, Up], "{me}: two agree");
    }
}

#[test]
fn an_edge_that_is_gone_or_cannot_listen_is_out() {
    let mut world = world(&["a", "b", "c"]);
    world.pass(10 * SECOND);
    world.without_edge.insert(name("b"));
    let text = "192.0.2.3:80: Cannot assign requested address (os error 99)";
    world.not_listening.insert(name("c"), text.to_owned());
    world.pass(2 * SECOND);
    assert_eq!(world.states("a"), [Up, Down, Down]);
    let reason = &world.agents[&name("a")].addresses.views()[2].reason;
    assert!(reason.contains(text), "{reason}");
}

#[test]
fn who_took_an_address_over_keeps_it_published() {
    let mut world = world(&["a", "b"]);
    world.pass(10 * SECOND);
    let address: IpAddr = "192.0.2.2".parse().unwrap();
    world.off.insert(name("b"));
    world.moving.insert(address);
    world.pass(2 * SECOND);
    assert_eq!(world.states("a"), [Up, Moving]);
    world.moving.clear();
    world.taken.insert(address, name("a"));
    world.pass(SECOND);
    assert_eq!(world.states("a"), [Up, Up]);
    assert_eq!(
        world.agents[&name("a")].addresses.views()[1].holder,
        Some(name("a"))
    );
}

#[test]
fn a_drained_server_is_out_at_once_and_back_at_once() {
    let mut world = world(&["a", "b"]);
    world.pass(10 * SECOND);
    for drained in [true, false] {
        let at = UnixMillis(1);
        world.drains.0.insert(
            name("b"),
            DrainMark {
                at,
                drained,
                app_only: false,
            },
        );
        world.pass(INTERVAL);
        assert_eq!(world.states("a"), [Up, if drained { Draining } else { Up }]);
    }
}

#[test]
fn an_address_stays_while_only_the_application_is_drained() {
    let mut world = world(&["a", "b"]);
    world.pass(10 * SECOND);
    for app_only in [true, false] {
        let mark = DrainMark {
            at: UnixMillis(1),
            drained: true,
            app_only,
        };
        world.drains.0.insert(name("b"), mark);
        world.pass(SECOND);
        assert_eq!(world.states("a"), [Up, if app_only { Up } else { Draining }]);
    }
}

#[test]
fn a_new_agent_changes_nothing_until_it_knows() {
    let mut world = world(&["a", "b"]);
    world.pass(10 * SECOND);
    world.off.insert(name("b"));
    world.pass(5 * SECOND);
    assert_eq!(world.states("a"), [Up, Down]);
    let before = world.agents[&name("a")].addresses.clone();
    let agent = world.agents.get_mut(&name("a")).unwrap();
    agent.addresses = Addresses::resume(before.views().to_vec(), before.changed());
    agent.heard.clear();
    world.pass(SECOND);
    assert_eq!(world.states("a"), [Up, Down]);
    assert_eq!(world.agents[&name("a")].addresses.changed(), before.changed());
}

#[test]
fn all_agents_come_to_the_same_moment_of_change() {
    let mut world = world(&["a", "b", "c"]);
    world.pass(10 * SECOND);
    for _ in 0..5 {
        world.off.insert(name("b"));
        world.pass(3 * SECOND);
        world.off.clear();
        world.pass(200 * SECOND);
        let changed: BTreeSet<UnixMillis> = world
            .agents
            .values()
            .map(|agent| agent.addresses.changed())
            .collect();
        assert_eq!(changed.len(), 1, "{changed:?}");
    }
}
