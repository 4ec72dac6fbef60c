//! What a view means for this tier.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pontoon_decide::address::{Member, Timing};
use pontoon_fleet::{FleetView, Role, ServerName};

/// Everything that the driver follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// This server; `None` when nothing moves, or it is not in the fleet.
    pub(crate) me: Option<ServerName>,
    /// Everybody who takes part.
    pub(crate) members: Vec<Member>,
    /// How fast.
    pub(crate) timing: Timing,
    /// Where heartbeats go, and from whom they come: UDP on the private network, at the agents' port.
    pub(crate) peers: BTreeMap<ServerName, SocketAddr>,
    /// Where this server takes them.
    pub(crate) listen: Option<SocketAddr>,
    /// The public addresses of every edge.
    pub(crate) homes: BTreeMap<ServerName, Vec<IpAddr>>,
    /// The port at which an edge answers visitors.
    pub(crate) port: u16,
    /// Whether an edge of Pontoon's serves here: otherwise whoever does is not asked.
    pub(crate) own_edge: bool,
    /// The router to ask.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The interface of the public addresses.
    pub(crate) interface: Option<String>,
}

impl Plan {
    pub(crate) fn of_view(view: &FleetView, me: &ServerName) -> Plan {
        let takeover = view.takeover.as_ref();
        let mine = view.server(me);
        let usual = if takeover.is_some_and(|takeover| takeover.fast) {
            Timing::FAST
        } else {
            Timing::USUAL
        };
        let is_edge = |server: &&pontoon_fleet::ServerView| server.roles.contains(&Role::Edge);
        let ports = mine.iter().flat_map(|mine| &mine.edge_listen);
        Plan {
            me: mine.filter(|_| takeover.is_some()).map(|mine| mine.name.clone()),
            members: view
                .servers
                .iter()
                .map(|server| Member {
                    name: server.name.clone(),
                    edge: is_edge(&server),
                    share: is_edge(&server) && !server.public.is_empty(),
                    standby: server.standby,
                })
                .collect(),
            timing: Timing {
                home_after: takeover.map_or(usual.home_after, |takeover| takeover.home_after),
                ..usual
            },
            peers: view
                .servers
                .iter()
                .filter(|server| server.name != *me)
                .map(|server| (server.name.clone(), server.agent()))
                .collect(),
            listen: mine.map(|mine| mine.agent()),
            homes: view
                .servers
                .iter()
                .filter(is_edge)
                .filter(|server| !server.public.is_empty())
                .map(|server| (server.name.clone(), server.public.clone()))
                .collect(),
            port: ports.map(SocketAddr::port).next().unwrap_or(80),
            own_edge: view.app.is_some() && mine.is_some_and(|mine| mine.roles.contains(&Role::Edge)),
            gateway: takeover
                .and_then(|takeover| takeover.gateway)
                .and_then(|gateway| match gateway {
                    IpAddr::V4(gateway) => Some(gateway),
                    IpAddr::V6(_) => None,
                }),
            interface: takeover.and_then(|takeover| takeover.interface.clone()),
        }
    }
}
