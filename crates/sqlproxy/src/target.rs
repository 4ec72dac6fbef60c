//! Where connections go: what this proxy makes of the fleet view. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_fleet::{BootMoment, Epoch, FleetView, ListenAddress, ServerName, SqlView};

/// How an application reached the proxy, and so how the proxy reaches the database: grants for
/// `'user'@'localhost'` hold only over the Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over TCP.
    Tcp,
    /// Over a Unix socket.
    Unix,
}

/// Where connections go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The primary, or why there is none.
    pub primary: Result<Primary, NoPrimary>,
    /// The other database servers, whether they work or not. None while nobody is primary: whom they follow is not
    /// known then.
    pub replicas: Vec<Replica>,
    /// How long a new connection waits for one.
    pub hold: Duration,
    /// Nothing may be sent to the primary after this moment; see [`Target::overdue`].
    pub write_until: Option<BootMoment>,
    /// Nothing new is begun until this moment; see [`Target::held`].
    pub holding: Option<BootMoment>,
}

/// The present primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Whose it is, and since which epoch.
    pub pin: Pin,
    /// The way to it.
    pub way: Way,
}

/// A database server that is not the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whose it is, and the epoch in which it is a replica.
    pub pin: Pin,
    /// The way to it.
    pub way: Way,
}

/// What a connection is bound to for its whole life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The server.
    pub server: ServerName,
    /// The epoch of its being what it is.
    pub epoch: Epoch,
}

/// The way to a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is on this server.
    Local(Local),
    /// Through the SQL relay of its server.
    Relay(SocketAddr),
}

/// Where the database of this server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Over TCP.
    pub tcp: SocketAddr,
    /// As a Unix socket.
    pub socket: Option<PathBuf>,
}

/// Why there is nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPrimary {
    /// No view has arrived yet, or it has no database.
    NoDatabase,
    /// The fleet has no primary at the moment.
    Nobody,
    /// The view names a server that it does not list.
    Unlisted(ServerName),
    /// The view is of an epoch before one that was already obeyed. Following it could mean writing to a server
    /// that is no longer primary (P2).
    OlderEpoch {
        /// The epoch of the view.
        view: Epoch,
        /// The latest that was obeyed.
        obeyed: Epoch,
    },
    /// The database's address is one that the proxy itself listens on.
    Itself(ListenAddress),
    /// This primary is about to hand over: what is under way there goes on, and nothing new is begun.
    HandingOver(Box<Primary>),
    /// The primary's lease ran out, as far as this server has heard: another may be primary by now (P2).
    LeaseRanOut(ServerName),
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPrimary::NoDatabase => write!(f, "the fleet view names no database"),
            NoPrimary::Nobody => write!(f, "no database server is primary at the moment"),
            NoPrimary::Unlisted(server) => write!(f, "the primary {server} is not in the fleet view"),
            NoPrimary::OlderEpoch { view, obeyed } => write!(
                f,
                "the fleet view is of epoch {view} after epoch {obeyed}: restart `pontoon sql` if that is right"
            ),
            NoPrimary::HandingOver(primary) => {
                write!(f, "the primary {} is handing over", primary.pin.server)
            }
            NoPrimary::LeaseRanOut(server) => write!(
                f,
                "the lease of the primary {server} has run out, as far as this server has heard"
            ),
            NoPrimary::Itself(address) => write!(f, "the database's address {address} is the proxy's own"),
        }
    }
}

/// Turns views into targets, one after the other.
#[derive(Debug)]
pub struct Follower {
    me: ServerName,
    obeyed: Epoch,
}

impl Follower {
    /// For the proxy of the server `me`.
    pub fn new(me: ServerName) -> Follower {
        Follower { me, obeyed: Epoch(0) }
    }

    /// The target of the next view.
    pub fn follow(&mut self, view: Option<&FleetView>) -> Target {
        let sql = view.and_then(|view| view.sql.as_ref());
        let hold = sql.map_or(Duration::ZERO, |sql| sql.hold_writes);
        let primary = self.primary(view);
        let replicas = match (&primary, view, sql) {
            (Ok(primary), Some(view), Some(sql)) => self.replicas(view, sql, &primary.pin),
            _ => Vec::new(),
        };
        Target {
            primary,
            replicas,
            hold,
            write_until: sql.and_then(|sql| sql.write_until.clone()),
            holding: sql.and_then(|sql| sql.holding.clone()),
        }
    }

    fn replicas(&self, view: &FleetView, sql: &SqlView, primary: &Pin) -> Vec<Replica> {
        let others = sql.servers.iter().filter(|other| other.server != primary.server);
        others
            .filter_map(|other| {
                let way = if other.server == self.me {
                    Way::Local(local(sql).ok()?)
                } else {
                    Way::Relay(view.server(&other.server)?.sql_relay())
                };
                let pin = Pin {
                    server: other.server.clone(),
                    epoch: primary.epoch,
                };
                Some(Replica { pin, way })
            })
            .collect()
    }

    fn primary(&mut self, view: Option<&FleetView>) -> Result<Primary, NoPrimary> {
        let (view, sql) = view
            .and_then(|view| Some((view, view.sql.as_ref()?)))
            .ok_or(NoPrimary::NoDatabase)?;
        if view.epoch < self.obeyed {
            return Err(NoPrimary::OlderEpoch {
                view: view.epoch,
                obeyed: self.obeyed,
            });
        }
        // An epoch counts from when it was heard of, with or without a primary: the one before is over.
        self.obeyed = view.epoch;
        let server = sql.primary.clone().ok_or(NoPrimary::Nobody)?;
        let way = if server == self.me {
            Way::Local(local(sql)?)
        } else {
            let listed = view
                .server(&server)
                .ok_or_else(|| NoPrimary::Unlisted(server.clone()))?;
            Way::Relay(listed.sql_relay())
        };
        Ok(Primary {
            pin: Pin {
                server,
                epoch: view.epoch,
            },
            way,
        })
    }
}

/// The database of this server.
///
/// # Errors
/// When what is said to be its address is the proxy's own.
pub fn local(sql: &SqlView) -> Result<Local, NoPrimary> {
    let local = Local {
        tcp: sql.backend_tcp,
        socket: sql.backend_socket.clone(),
    };
    let tcp = ListenAddress::Tcp(local.tcp);
    let socket = local.socket.clone().map(ListenAddress::Unix);
    let mut addresses = [Some(tcp), socket].into_iter().flatten();
    match addresses.find(|backend| sql.listen.iter().any(|ours| covers(ours, backend))) {
        Some(own) => Err(NoPrimary::Itself(own)),
        None => Ok(local),
    }
}

/// Whether who dials `backend` reaches the listener `ours`.
fn covers(ours: &ListenAddress, backend: &ListenAddress) -> bool {
    match (ours, backend) {
        (ListenAddress::Tcp(ours), ListenAddress::Tcp(backend)) if ours.ip().is_unspecified() => {
            // `[::]` takes IPv4 too (ipv6(7), IPV6_V6ONLY).
            ours.port() == backend.port() && (ours.is_ipv6() || backend.is_ipv4())
        }
        _ => ours == backend,
    }
}

impl Target {
    /// How long it is until something changes by itself: nothing may be sent to the primary any more, or what is held
    /// goes on. `None` when nothing will. `boot` and `now` are those of the machine's clock that goes on in suspend.
    pub fn left(&self, boot: &str, now: Duration) -> Option<Duration> {
        self.serving().ok()?;
        let held = self.primary.is_err().then_some(self.holding.as_ref()).flatten();
        let moments = [self.write_until.as_ref(), held].into_iter().flatten();
        moments.map(|until| until.left(boot, now)).min()
    }

    /// The primary that what is under way goes to, also while it is about to hand over.
    ///
    /// # Errors
    /// Why there is none.
    pub fn serving(&self) -> Result<&Primary, &NoPrimary> {
        match &self.primary {
            Ok(primary) => Ok(primary),
            Err(NoPrimary::HandingOver(primary)) => Ok(primary),
            Err(reason) => Err(reason),
        }
    }

    /// The same target while nothing new is begun, if that is so now.
    pub fn held(mut self, boot: &str, now: Duration) -> Target {
        let left = self.holding.as_ref().map(|until| until.left(boot, now));
        if left.is_some_and(|left| !left.is_zero()) {
            self.primary = self
                .primary
                .and_then(|primary| Err(NoPrimary::HandingOver(Box::new(primary))));
        }
        self
    }

    /// The end of the present hold, in milliseconds of the machine's clock; `None` while nothing is held.
    pub fn held_until_ms(&self) -> Option<u64> {
        let held = matches!(self.primary, Err(NoPrimary::HandingOver(_)));
        self.holding.as_ref().filter(|_| held).map(|until| until.ms)
    }

    /// The same target with a primary whose time is over taken out. Whoever still reads from its replicas may go on.
    pub fn overdue(mut self, boot: &str, now: Duration) -> Target {
        let left = self.write_until.as_ref().map(|until| until.left(boot, now));
        if left.is_some_and(|left| left.is_zero())
            && let Ok(primary) = &self.primary
        {
            self.primary = Err(NoPrimary::LeaseRanOut(primary.pin.server.clone()));
        }
        self
    }

    /// Whether a connection that was made under `pin` may go on. While nobody is primary it may: its server was
    /// not replaced. It may not once another server is primary, or the same one anew.
    pub fn permits(&self, pin: &Pin) -> bool {
        match self.serving() {
            Ok(primary) => primary.pin.server == pin.server && primary.pin.epoch <= pin.epoch,
            // Here the clock is what keeps two primaries apart: nothing more goes there, also where it went before.
            Err(NoPrimary::LeaseRanOut(_)) => false,
            Err(_) => true,
        }
    }

    /// Whether a connection to a replica that was made under `pin` may go on: until the primary changes. Then the
    /// replica may be the primary, or follow another, or have lost what only the old primary had.
    pub fn permits_replica(&self, pin: &Pin) -> bool {
        match self.serving() {
            Ok(primary) => primary.pin.server != pin.server && primary.pin.epoch <= pin.epoch,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pontoon_fleet::{DatabaseServerView, Engine, Ports, Revision, Role, ServerState, ServerView};

    /// A database server of the view.
    pub(crate) fn database(name: &str) -> DatabaseServerView {
        DatabaseServerView {
            server: name.parse().unwrap(),
            lag_ms: None,
            position: None,
        }
    }

    /// Servers `a` (127.0.0.1) and `b` (127.0.0.2).
    pub(crate) fn view(primary: Option<&str>, epoch: u64) -> FleetView {
        let server = |name: &str, private: &str| ServerView {
            name: name.parse().unwrap(),
            private: private.parse().unwrap(),
            public: Vec::new(),
            roles: Role::ALL.into_iter().collect(),
            zone: None,
            standby: false,
            state: ServerState::Up,
            ports: Ports::from_base(7400),
            edge_listen: Vec::new(),
            weight: 1,
            drained_at: None,
        };
        FleetView {
            fleet: "test".parse().unwrap(),
            revision: Revision(1),
            epoch: Epoch(epoch),
            serial: 1,
            assets: None,
            takeover: None,
            routed: false,
            cache: None,
            servers: vec![server("a", "127.0.0.1"), server("b", "127.0.0.2")],
            app: None,
            https: None,
            limits: Default::default(),
            front: Default::default(),
            dns: None,
            addresses: Vec::new(),
            answers: Default::default(),
            addresses_changed: pontoon_fleet::UnixMillis::default(),
            sql: Some(SqlView {
                engine: Engine::Mariadb,
                listen: vec![ListenAddress::Tcp("127.0.0.1:3306".parse().unwrap())],
                backend_tcp: "127.0.0.1:3307".parse().unwrap(),
                backend_socket: Some("/run/db.sock".into()),
                primary: primary.map(|name| name.parse().unwrap()),
                servers: Vec::new(),
                hold_writes: Duration::from_secs(10),
                write_until: None,
                holding: None,
                reads: None,
            }),
        }
    }

    fn follower() -> Follower {
        Follower::new("a".parse().unwrap())
    }

    #[test]
    fn near_and_far_primaries_have_their_ways() {
        let mut follower = follower();
        let near = follower.follow(Some(&view(Some("a"), 1))).primary.unwrap();
        assert!(matches!(near.way, Way::Local(local) if local.tcp.port() == 3307));
        let far = follower.follow(Some(&view(Some("b"), 2))).primary.unwrap();
        assert_eq!(far.way, Way::Relay("127.0.0.2:7402".parse().unwrap()));
    }

    #[test]
    fn there_is_a_reason_when_there_is_no_primary() {
        let mut follower = follower();
        assert_eq!(follower.follow(None).primary, Err(NoPrimary::NoDatabase));
        assert_eq!(
            follower.follow(Some(&view(None, 1))).primary,
            Err(NoPrimary::Nobody)
        );
        let unlisted = follower.follow(Some(&view(Some("x"), 1))).primary;
        assert_eq!(unlisted, Err(NoPrimary::Unlisted("x".parse().unwrap())));
        let mut loops = view(Some("a"), 1);
        loops
            .sql
            .as_mut()
            .unwrap()
            .listen
            .push(ListenAddress::Unix("/run/db.sock".into()));
        assert!(matches!(
            follower.follow(Some(&loops)).primary,
            Err(NoPrimary::Itself(_))
        ));
    }

    #[test]
    fn an_epoch_that_was_left_behind_is_not_obeyed_again() {
        let mut follower = follower();
        follower.follow(Some(&view(Some("b"), 7)));
        let back = follower.follow(Some(&view(Some("a"), 6)));
        assert_eq!(
            back.primary,
            Err(NoPrimary::OlderEpoch {
                view: Epoch(6),
                obeyed: Epoch(7)
            })
        );
        assert!(follower.follow(Some(&view(Some("b"), 7))).primary.is_ok());
    }

    #[test]
    fn an_epoch_without_a_primary_is_not_left_behind_either() {
        let mut follower = follower();
        follower.follow(Some(&view(None, 7)));
        let back = follower.follow(Some(&view(Some("a"), 6)));
        assert!(
            matches!(back.primary, Err(NoPrimary::OlderEpoch { .. })),
            "{back:?}"
        );
    }

    #[test]
    fn a_database_address_that_a_wildcard_of_ours_covers_is_our_own() {
        for (listen, own) in [
            ("0.0.0.0:3307", true),
            ("[::]:3307", true),
            ("0.0.0.0:3306", false),
            ("127.0.0.2:3307", false),
        ] {
            let mut loops = view(Some("a"), 1);
            loops.sql.as_mut().unwrap().listen = vec![ListenAddress::Tcp(listen.parse().unwrap())];
            let primary = follower().follow(Some(&loops)).primary;
            assert_eq!(matches!(primary, Err(NoPrimary::Itself(_))), own, "{listen}");
        }
    }

    #[test]
    fn a_connection_ends_with_its_primary_and_not_before() {
        let mut follower = follower();
        let pin = |server: &str, epoch| Pin {
            server: server.parse().unwrap(),
            epoch: Epoch(epoch),
        };
        let now = follower.follow(Some(&view(Some("a"), 5)));
        assert!(now.permits(&pin("a", 5)));
        assert!(
            now.permits(&pin("a", 6)),
            "the relay knew of the next epoch before us"
        );
        assert!(
            !now.permits(&pin("a", 4)),
            "demoted and promoted again: it may have lost what it had"
        );
        assert!(!now.permits(&pin("b", 5)));
        let nobody = follower.follow(Some(&view(None, 5)));
        assert!(nobody.permits(&pin("a", 5)));
    }

    #[test]
    fn a_lease_that_ran_out_takes_the_primary_and_its_connections() {
        let mut follower = follower();
        let until = |boot: &str, ms| {
            let mut view = view(Some("a"), 5);
            let moment = BootMoment {
                boot: boot.to_owned(),
                ms,
            };
            view.sql.as_mut().unwrap().write_until = Some(moment);
            view
        };
        let now = Duration::from_secs(100);
        let pin = Pin {
            server: "a".parse().unwrap(),
            epoch: Epoch(5),
        };
        let good = follower.follow(Some(&until("this", 100_500)));
        assert_eq!(good.left("this", now), Some(Duration::from_millis(500)));
        assert!(good.clone().overdue("this", now).permits(&pin));
        for (boot, ms, why) in [
            ("this", 100_000, "the moment itself is too late"),
            ("this", 0, "nobody said anything"),
            ("before", u64::MAX, "a view from before the machine was started"),
            ("", u64::MAX, "an unknown start"),
        ] {
            let target = follower.follow(Some(&until(boot, ms))).overdue("this", now);
            assert!(matches!(target.primary, Err(NoPrimary::LeaseRanOut(_))), "{why}");
            assert!(!target.permits(&pin), "{why}");
        }
        let renewed = follower
            .follow(Some(&until("this", 103_000)))
            .overdue("this", now);
        assert!(renewed.primary.is_ok(), "renewed, it is the primary again");
        let unlimited = follower.follow(Some(&view(Some("a"), 5))).overdue("this", now);
        assert!(unlimited.primary.is_ok() && unlimited.left("this", now).is_none());
    }

    #[test]
    fn a_primary_that_is_about_to_hand_over_keeps_what_is_under_way_and_gets_nothing_new() {
        let mut follower = follower();
        let mut held = |ms, limit: Option<u64>| {
            let mut view = view(Some("a"), 5);
            let moment = |ms| BootMoment {
                boot: "this".to_owned(),
                ms,
            };
            let sql = view.sql.as_mut().unwrap();
            (sql.holding, sql.write_until) = (Some(moment(ms)), limit.map(moment));
            follower.follow(Some(&view))
        };
        let now = Duration::from_secs(100);
        let pin = Pin {
            server: "a".parse().unwrap(),
            epoch: Epoch(5),
        };
        let target = held(100_500, None).overdue("this", now).held("this", now);
        assert!(matches!(&target.primary, Err(NoPrimary::HandingOver(one)) if one.pin == pin));
        assert!(target.permits(&pin) && target.serving().is_ok());
        assert_eq!(target.held_until_ms(), Some(100_500));
        assert_eq!(target.left("this", now), Some(Duration::from_millis(500)));
        let over = held(100_000, None).overdue("this", now).held("this", now);
        assert!(
            over.primary.is_ok(),
            "its leader died, or forgot to say that it goes on"
        );
        assert_eq!((over.held_until_ms(), over.left("this", now)), (None, None));
        let other = held(100_500, None).held("before", now);
        assert!(
            other.primary.is_ok(),
            "a view from before the machine was started"
        );
        // The lease's own end outranks it.
        let limited = held(100_500, Some(100_200))
            .overdue("this", now)
            .held("this", now);
        assert_eq!(limited.left("this", now), Some(Duration::from_millis(200)));
        let dead = held(100_500, Some(100_000))
            .overdue("this", now)
            .held("this", now);
        assert!(matches!(dead.primary, Err(NoPrimary::LeaseRanOut(_))) && !dead.permits(&pin));
    }

    #[test]
    fn a_replica_is_one_for_as_long_as_the_primary_stays() {
        let mut follower = Follower::new("a".parse().unwrap());
        let mut seen = |primary: Option<&str>, epoch| {
            let mut view = view(primary, epoch);
            view.sql.as_mut().unwrap().servers = ["a", "b", "stranger"].map(database).into();
            follower.follow(Some(&view))
        };
        let target = seen(Some("a"), 1);
        let [replica] = &target.replicas[..] else {
            panic!("{:?}", target.replicas);
        };
        assert_eq!(replica.way, Way::Relay("127.0.0.2:7402".parse().unwrap()));
        assert!(target.permits_replica(&replica.pin));
        assert!(seen(None, 1).replicas.is_empty());
        assert!(
            seen(None, 1).permits_replica(&replica.pin),
            "nobody took its place"
        );
        assert!(
            !seen(Some("a"), 2).permits_replica(&replica.pin),
            "promoted anew: writes may be lost"
        );
        let target = seen(Some("b"), 3);
        assert!(!target.permits_replica(&replica.pin));
        assert!(
            matches!(target.replicas[0].way, Way::Local(_)),
            "{:?}",
            target.replicas
        );
    }
}
