//! What flows back: tiers report to their agent, agents report to each other. Observations only, never orders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    AssetsReport, CacheReport, Engine, Epoch, MaintenanceMark, PurgeBook, Refusal, Revision, ServerName,
    Tier, UnixMillis,
};

/// What one tier process tells its agent, about once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierReport {
    /// Its process id.
    pub pid: u32,
    /// The serial of the view that it obeys.
    pub view_serial: u64,
    /// What it saw.
    pub detail: TierDetail,
}

impl TierReport {
    /// Which tier reports.
    pub fn tier(&self) -> Tier {
        match self.detail {
            TierDetail::Edge(_) => Tier::Edge,
            TierDetail::Sql(_) => Tier::Sql,
            TierDetail::Dns(_) => Tier::Dns,
            TierDetail::Address(_) => Tier::Address,
            TierDetail::Assets(_) => Tier::Assets,
            TierDetail::Cache(_) => Tier::Cache,
        }
    }
}

/// The part of a report that differs by tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierDetail {
    /// From `pontoon edge`.
    Edge(EdgeReport),
    /// From `pontoon sql`.
    Sql(SqlReport),
    /// From `pontoon dns`.
    Dns(DnsReport),
    /// From `pontoon address`.
    Address(AddressReport),
    /// From `pontoon assets`.
    Assets(AssetsReport),
    /// From `pontoon cache`.
    Cache(CacheReport),
}

/// What a name server saw since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsReport {
    /// Queries that came.
    pub queries_total: u64,
    /// Responses that were cut down or not sent, because a network had its share.
    pub limited_total: u64,
    /// The serial of the zone that is served; `None` while there is none.
    pub serial: Option<u32>,
    /// Of the zone file that is served, in hexadecimal; `None` when the zone is made from the configuration alone.
    /// Servers with different files answer differently.
    pub file_digest: Option<String>,
    /// Why the zone file, as it is now, is not served: file, line and reason. What was served before still is.
    pub refused: Option<String>,
    /// Listening addresses that could not be bound, with the reason.
    pub not_listening: Vec<String>,
    /// Why other name servers cannot fetch the zone; what is wrong with the file of their keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_trouble: Option<String>,
    /// Other name servers that could not be told of the last change, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_told: Vec<String>,
    /// How the zone is signed; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedReport>,
    /// Why the zone is not signed as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_trouble: Option<String>,
    /// Of the proofs in the view those that it answers; see [`Proofs`](crate::Proofs).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proofs: BTreeSet<String>,
}

/// How a zone is signed (DNSSEC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReport {
    /// The number of the key.
    pub key_tag: u16,
    /// When the first signature ends, if none is made anew until then.
    pub until: UnixMillis,
}

/// What an edge saw since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeReport {
    /// Files of pages that cannot be shown, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages_refused: Vec<String>,
    /// Requests answered, by whomever.
    pub requests_total: u64,
    /// Requests that the edge had to answer itself with 5xx.
    pub failed_total: u64,
    /// Requests that were tried on a second server.
    pub retried_total: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Every application server, as this edge's checks see it.
    pub upstreams: Vec<UpstreamReport>,
    /// Whether it carries what visitors have seen from server to server: reads are spread, and it has the fleet's key.
    #[serde(default)]
    pub carries_floors: bool,
    /// The certificates that it shows to visitors, or should.
    #[serde(default)]
    pub certificates: Vec<CertificateReport>,
    /// What it answers an authority's challenges with; `None` while it does not.
    #[serde(default)]
    pub acme_thumbprint: Option<String>,
    /// Listening addresses that could not be bound, with the reason.
    pub not_listening: Vec<String>,
}

/// A certificate for visitors as an edge has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Where it is from: its file.
    pub source: String,
    /// The names that it is for; empty while there is none to serve.
    pub names: Vec<String>,
    /// Who issued it; empty while there is none to serve.
    #[serde(default)]
    pub issuer: String,
    /// When the one that is served ends; `None` while there is none.
    pub not_after: Option<UnixMillis>,
    /// Why what is in the file is not served. The one before it, if there was one, still is.
    pub refused: Option<String>,
}

/// One application server as an edge sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamReport {
    /// On which server.
    pub server: ServerName,
    /// Whether new requests go there.
    pub healthy: bool,
    /// Why not, or what the last check saw.
    pub reason: Option<String>,
    /// Requests on it now, from this edge.
    pub in_flight: u64,
    /// Which mark took it out, in the view that this edge works on: no new request goes there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<UnixMillis>,
}

/// What an SQL proxy saw since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlReport {
    /// Client connections open now.
    pub clients: u64,
    /// Client connections taken.
    pub connections_total: u64,
    /// Client connections refused with an error packet because no primary came in time.
    pub refused_total: u64,
    /// Client connections waiting for a primary now.
    pub held: u64,
    /// The longest wait for a primary so far, in milliseconds.
    pub longest_hold_ms: u64,
    /// What a reader through this server must see, `EPOCH@POSITION`; `None` when reads are not spread, or when nobody
    /// has written through it.
    #[serde(default)]
    pub floor: Option<String>,
    /// How it spreads reads; `None` when they are not spread.
    #[serde(default)]
    pub spread: Option<SpreadReport>,
    /// Listening addresses that could not be bound, with the reason.
    pub not_listening: Vec<String>,
    /// What is still under way while nothing new is begun, because the primary is about to hand over.
    #[serde(default)]
    pub holding: Option<HoldReport>,
}

/// How far an SQL proxy is that begins nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Which of the view's marks it obeys, by its end: `SqlView::holding`, in milliseconds.
    pub until_ms: u64,
    /// Sessions that have a statement or a transaction under way. Connections that are passed through are not counted:
    /// where their transactions end is not seen.
    pub under_way: u64,
}

/// How an SQL proxy spreads reads. Totals count since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpreadReport {
    /// Why connections are passed through to the primary all the same, if they are.
    pub obstacle: Option<String>,
    /// Connections open now that are passed through, from before reads were spread or for `obstacle`. While there are
    /// any, the primary is asked before each read what they may have written.
    pub unwatched: u64,
    /// Statements that the primary answered.
    pub primary_total: u64,
    /// Statements that replicas answered.
    pub replica_total: u64,
    /// Reads that waited a moment until a replica had what they must see.
    pub held_total: u64,
    /// Reads that the primary answered although reads are spread, by reason.
    pub diverted_total: BTreeMap<String, u64>,
    /// Statements that waited for a connection because all were in use.
    pub queued_total: u64,
    /// The replicas as this proxy sees them.
    pub replicas: Vec<ReplicaReport>,
    /// The connections to each database server.
    pub pools: Vec<PoolReport>,
}

/// A replica as an SQL proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// On which server.
    pub server: ServerName,
    /// The age of the oldest position of the primary that it has not reached, in milliseconds; `None` while it does
    /// not answer.
    pub behind_ms: Option<u64>,
    /// Whether it is near enough to be read from.
    pub usable: bool,
}

/// The connections of an SQL proxy to one database server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// On which server.
    pub server: ServerName,
    /// Connections now.
    pub used: u64,
    /// How many it may have.
    pub limit: u64,
    /// Statements that wait for one now.
    pub waiting: u64,
}

/// The public addresses as a server's address tier sees them. All addresses of one home move together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReport {
    /// Whether this server's edge serves.
    pub fit: bool,
    /// Which servers it hears.
    pub hears: Vec<ServerName>,
    /// The gateway that it asks.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway returns what is sent to it, so that it can say whose an address is.
    pub gateway_returns: bool,
    /// Every home.
    pub shares: Vec<ShareReport>,
    /// What was taken and dropped since it started, the latest last; at most a few dozen.
    pub moves: Vec<AddressMove>,
    /// What it could not do, in words.
    pub trouble: Vec<String>,
}

/// The addresses of one home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReport {
    /// Whose they are.
    pub home: ServerName,
    /// Who holds them, as far as the reporter knows.
    pub holder: Option<ServerName>,
    /// Counts who took them.
    pub epoch: Epoch,
    /// Whether the reporter is about to take them, or to hand them over.
    pub moving: bool,
    /// Which.
    pub addresses: Vec<IpAddr>,
}

/// The public addresses that a provider moves, as the server sees them that gives the orders, or waits to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingReport {
    /// How they move: `ip.method`.
    pub method: String,
    /// Whether this server gives the orders now.
    pub orders: bool,
    /// Who does, as the lease says.
    pub caller: Option<ServerName>,
    /// Grows by one with each decision and each change of who gives the orders.
    pub epoch: Epoch,
    /// Every address, as far as this server knows; empty until it gives the orders.
    pub addresses: Vec<RoutedAddress>,
    /// What it could not do, in words.
    pub trouble: Vec<String>,
}

/// One address that a provider moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedAddress {
    /// Which.
    pub address: IpAddr,
    /// Whose it is when all are well.
    pub home: ServerName,
    /// Who is to have it.
    pub to: ServerName,
    /// Whether the provider says that it does.
    pub there: bool,
    /// Why it does not, or why that is not known.
    pub trouble: Option<String>,
}

/// One time that the reporter took or dropped addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressMove {
    /// Counts the moves of this process.
    pub number: u64,
    /// When, by the reporter's clock.
    pub at: UnixMillis,
    /// Whose they are.
    pub home: ServerName,
    /// Taken, or dropped.
    pub taken: bool,
    /// Why, in a few words.
    pub why: String,
}

/// What a database server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseRole {
    /// Takes writes.
    Primary,
    /// Follows a source.
    Replica,
    /// Runs, but is neither: not yet set up, or set up by somebody else.
    Standalone,
    /// Does not answer.
    Down,
}

/// A database server as its own agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// The engine.
    pub engine: Engine,
    /// The server's own version string.
    pub version: String,
    /// What it is doing.
    pub role: DatabaseRole,
    /// Whether clients without special rights can write to it.
    pub read_only: bool,
    /// Its GTID position: what it has applied or written.
    pub position: String,
    /// Behind its source in milliseconds; `None` when it has no source or the lag is unknown.
    pub lag_ms: Option<u64>,
    /// What stops replication or the server, in its own words.
    pub error: Option<String>,
}

/// What an agent tells every other agent about its own server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Whose report this is.
    pub server: ServerName,
    /// When it was made, by its own clock.
    pub at: UnixMillis,
    /// Pontoon's version there.
    pub version: String,
    /// The configuration that is active there.
    pub revision: Revision,
    /// The last revision that was carried out there in full: services run and the database stands as it says.
    pub settled: Revision,
    /// What keeps `revision` from being carried out; tried again until it works.
    pub trouble: Option<Refusal>,
    /// The configuration's sha256, so that equal revisions with unequal texts are noticed.
    pub config_digest: String,
    /// The latest report of each tier that runs there.
    pub tiers: Vec<TierReport>,
    /// The database there, when it has the role `db`.
    pub database: Option<DatabaseReport>,
    /// CPU time used since the last report, in percent of all cores.
    pub load_percent: u8,
    /// A folder there to which nothing more can be written: its disk is full.
    #[serde(default)]
    pub full_disk: Option<String>,
    /// Who is drained, as far as it knows.
    pub drains: DrainBook,
    /// Whether visitors get the maintenance page, as far as it knows.
    #[serde(default, skip_serializing_if = "MaintenanceMark::is_none")]
    pub maintenance: MaintenanceMark,
    /// What edges were told to forget, as far as it knows.
    #[serde(default, skip_serializing_if = "PurgeBook::is_none")]
    pub purges: PurgeBook,
    /// The lease as it last read it.
    pub lease: Option<LeaseRecord>,
    /// The servers that it has heard nothing of for a moment: its word on whether they are lost.
    #[serde(default)]
    pub unheard: Vec<ServerName>,
    /// When, as far as it knows, the fleet's opinion on a public address last changed.
    #[serde(default)]
    pub addresses_changed: UnixMillis,
    /// The name servers elsewhere that it tells of the addresses; empty on servers whose business that is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<ElsewhereReport>,
    /// The addresses that a provider moves; `None` where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingReport>,
}

/// How a server fares that tells a name server elsewhere of the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElsewhereReport {
    /// Whom, for people.
    pub to: String,
    /// Why it does not know; it is tried again.
    pub trouble: Option<String>,
    /// Which proofs are there by now; see [`Proofs`](crate::Proofs).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proofs: BTreeSet<String>,
}

impl ServerReport {
    /// The report of one tier.
    pub fn tier(&self, tier: Tier) -> Option<&TierReport> {
        self.tiers.iter().find(|report| report.tier() == tier)
    }

    /// How public addresses stand there; `None` where they do not move.
    pub fn addresses(&self) -> Option<&AddressReport> {
        match &self.tier(Tier::Address)?.detail {
            TierDetail::Address(report) => Some(report),
            _ => None,
        }
    }

    /// The public addresses that it holds now, its own and taken-over ones; none where addresses do not move.
    pub fn holds(&self) -> Vec<IpAddr> {
        let shares = self.addresses().into_iter().flat_map(|report| &report.shares);
        let held = shares.filter(|share| share.holder.as_ref() == Some(&self.server));
        held.flat_map(|share| &share.addresses).copied().collect()
    }

    /// The public addresses that it is about to take, or to hand over.
    pub fn moving(&self) -> Vec<IpAddr> {
        let shares = self.addresses().into_iter().flat_map(|report| &report.shares);
        shares
            .filter(|share| share.moving)
            .flat_map(|share| &share.addresses)
            .copied()
            .collect()
    }
}

/// Who may be primary: the record in the lease store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Grows by one at each change of leader.
    pub epoch: Epoch,
    /// The server whose database takes the writes.
    pub leader: ServerName,
}

/// Which servers an operator took out, and when. Merged between agents: for each server the later mark wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DrainBook(pub BTreeMap<ServerName, DrainMark>);

/// One operator's word on one server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DrainMark {
    /// When it was said.
    pub at: UnixMillis,
    /// Out (`true`) or in.
    pub drained: bool,
    /// Only its application is out: its edge serves visitors as before, and its addresses stay published.
    #[serde(default)]
    pub app_only: bool,
}

impl DrainBook {
    /// Whether the application on `server` is taken out.
    pub fn is_drained(&self, server: &ServerName) -> bool {
        self.drained_at(server).is_some()
    }

    /// Which mark took it out; `None` while it is in.
    pub fn drained_at(&self, server: &ServerName) -> Option<UnixMillis> {
        self.0.get(server).filter(|mark| mark.drained).map(|mark| mark.at)
    }

    /// Whether `server` is taken out with all that it does.
    pub fn is_drained_whole(&self, server: &ServerName) -> bool {
        self.0
            .get(server)
            .is_some_and(|mark| mark.drained && !mark.app_only)
    }

    /// Takes over every mark of `other` that is later than ours; says whether anything changed. At the same
    /// millisecond `drained` wins, so that both sides end up with the same book.
    pub fn merge(&mut self, other: &DrainBook) -> bool {
        let mut changed = false;
        for (server, mark) in &other.0 {
            if self.0.get(server).is_none_or(|ours| ours < mark) {
                self.0.insert(server.clone(), mark.clone());
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_books_merge_to_the_same_book_in_either_order() {
        let book = |marks: &[(&str, u64, bool)]| {
            DrainBook(
                marks
                    .iter()
                    .map(|(name, at, drained)| {
                        (
                            name.parse().unwrap(),
                            DrainMark {
                                at: UnixMillis(*at),
                                drained: *drained,
                                app_only: false,
                            },
                        )
                    })
                    .collect(),
            )
        };
        let left = book(&[("a", 5, true), ("b", 9, false), ("c", 7, false)]);
        let right = book(&[("a", 6, false), ("b", 8, true), ("c", 7, true)]);
        let (mut one, mut other) = (left.clone(), right.clone());
        assert!(one.merge(&right));
        assert!(other.merge(&left));
        assert_eq!(one, other);
        assert!(!one.merge(&right), "merging again changes nothing");
        assert!(one.is_drained(&"c".parse().unwrap()));
    }
}
