//! What agents say to each other: HTTP/1.1 with JSON bodies over mutual TLS 1.3, on `private:7400`.
//!
//! | request | from | answer |
//! |---|---|---|
//! | `POST /p/v1/heartbeat` [`Heartbeat`] | members and joiners | [`Heartbeat`] |
//! | `GET /p/v1/facts` | control servers | `ServerFacts` |
//! | `GET /p/v1/config` | members and joiners | [`Committed`] |
//! | `GET /p/v1/events?count=N` | members | this server's latest `Event`s |
//! | `GET /p/v1/certificates` | edges and control servers | `Book`: visitors' certificates, see `acme` |
//! | `POST /p/v1/change` [`ChangeMessage`] | see `authorise::verb_of` | nothing: the answer is a message of its own |
//! | `POST /p/v1/renew` [`RenewRequest`] | members | [`RenewAnswer`] |
//! | `POST /p/v1/join/hello` [`Hello`] | anybody with a token | [`Welcome`] |
//! | `POST /p/v1/join/source` `Means` | joiners | `SourceTicket` |
//! | `POST /p/v1/join/origin` `OriginAsk` | joiners whose database replicates already | `Origin` |
//! | `GET /p/v1/join/backup`, `…/dump` | joiners | the stream of a copy: the files, or a dump |
//! | `POST /p/v1/db/look` `Ask` | who may copy the database | `Answer`: what this server's database holds |
//! | `POST /p/v1/db/mend` `Mend` | members with the role db | what this server's database says to that |
//! | `POST /p/v1/db/reseed` `Ask` | control servers | how this server's database stands, and whether it is copied anew |
//! | `POST /p/v1/join/finish` | joiners | [`Done`], once the fleet has the joiner in its configuration |
//! | `POST /p/v1/failover/answer` | members with the role db | `Answer`: how this server's database stands now |
//! | `POST /p/v1/failover/acknowledge` [`Acknowledge`] | members with the role db | whether it is so |
//! | `POST /p/v1/failover/asked` [`Asked`], `…/halted` [`Halted`] | members with the role db | nothing: the answer is a message of its own |
//! | `POST /p/v1/failover/hold` [`Hold`] | members with the role db | [`Held`], once nothing is under way |
//! | `POST /p/v1/failover/changed` [`Changed`] | members with the role db | nothing |
//! | `POST /p/v1/failover/order` [`Order`] | control servers | nothing, or why not |
//! | `POST /p/v1/failover/probe` [`Probe`] | control servers | nothing, or what the lease store did wrong |
//! | `POST /p/v1/leave` | the leaver, or a joiner that gives up | [`Done`], once the fleet's configuration is without it |
//!
//! A refusal is an answer with status 409 and a `Refusal` as its body.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pontoon_decide::change::{Committed, Message};
use pontoon_decide::facts::ServerFacts;
use pontoon_decide::failover::{Incarnation, Position};
use pontoon_fleet::{
    CacheList, DrainBook, Epoch, Event, LeaseRecord, Revision, Role, ServerName, ServerReport,
};
use pontoon_replication::{Errant, SqlAccount};
use serde::{Deserialize, Serialize};

use crate::acme::Told;
use crate::failover::FailoverReport;
use crate::store::PendingJoiner;

/// Exchanged between every two agents, twice a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// The sender's own report.
    pub(crate) report: ServerReport,
    /// Who is joining through the sender: the server that has the database must know them too.
    pub(crate) joiners: BTreeMap<ServerName, PendingJoiner>,
    /// What the edges sign cookies with, from the keeper; see `floor_key`.
    #[serde(default)]
    pub(crate) floor_key: Option<String>,
    /// What the edges seal session tickets with, from the keeper; see `ticket_keys`.
    #[serde(default)]
    pub(crate) ticket_keys: Option<String>,
    /// What the sender knows of certificates from authorities, when it may order them; see `acme`.
    #[serde(default)]
    pub(crate) acme: Option<Told>,
    /// What heartbeats about addresses are signed with, from the keeper; see `address_key`.
    #[serde(default)]
    pub(crate) address_key: Option<String>,
    /// What the zone is signed with, for those who answer for it; see `dnssec_key`.
    #[serde(default)]
    pub(crate) dnssec_key: Option<String>,
    /// The cache servers, from the keeper; see `cache`.
    #[serde(default)]
    pub(crate) cache: Option<CacheList>,
    /// How failover stands on the sender; `None` when it takes no part.
    #[serde(default)]
    pub(crate) failover: Option<FailoverReport>,
    /// Transactions that the sender's database has and the primary lacks.
    #[serde(default)]
    pub(crate) errant: Option<Errant>,
}

/// The leader's word to a replica: whether its acknowledgements shall count.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Acknowledge {
    pub(crate) yes: bool,
}

/// The elected leader of that epoch asks a replica for its position.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) epoch: Epoch,
}

/// The replica's answer, once it no longer receives.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Halted {
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    pub(crate) position: Position,
}

/// The leader's word before it hands over, to every server: begin nothing new, or go on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The epoch that it leads.
    pub(crate) epoch: Epoch,
    /// False: go on.
    pub(crate) hold: bool,
}

/// The answer, once nothing is under way there or it has taken too long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Sessions of its SQL proxy that have a statement or a transaction under way.
    pub(crate) under_way: u64,
}

/// The record in the lease store was replaced just now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// What the rest of the fleet needs of it.
    pub(crate) lease: LeaseRecord,
}

/// Asks for a race in the lease store of a configuration that may become active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// The wanted configuration.
    pub(crate) text: String,
}

/// An operator's word, passed on to the server that it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// To the primary: hand over.
    Switchover {
        /// To that server.
        to: ServerName,
    },
    /// To a replica: become the primary.
    Force {
        /// How many transactions may be lost with it.
        accept_loss: u64,
    },
    /// Do nothing by itself.
    Pause,
    /// Go on.
    Resume,
}

/// A joiner's first words. Sent only after the fleet's certificate authority matched the token's pin.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The token's id.
    pub(crate) id: String,
    /// The token's secret.
    pub(crate) secret: String,
    /// The certificate signing request; the key stays on the joiner.
    pub(crate) csr: String,
    /// The name it wants.
    pub(crate) name: ServerName,
    /// Its private address.
    pub(crate) private: IpAddr,
    /// Its public addresses.
    pub(crate) public: Vec<IpAddr>,
    /// Its roles; `None` for all.
    pub(crate) roles: Option<Vec<Role>>,
    /// What it found on itself.
    pub(crate) facts: ServerFacts,
    /// Its version of Pontoon.
    pub(crate) version: String,
}

/// The fleet's answer to a [`Hello`].
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The certificate, PEM.
    pub(crate) certificate: String,
    /// The certificate authority's certificate, PEM.
    pub(crate) authority: String,
    /// Its key, PEM: only for servers with the role `db`, which thereby become control servers, so that the fleet
    /// can renew certificates and admit servers after its founder is gone.
    pub(crate) authority_key: Option<String>,
    /// The password of Pontoon's own account in the databases, for servers with the role `db`: a physical copy carries
    /// its accounts along, so it is the same everywhere.
    pub(crate) database_secret: Option<String>,
    /// The account by which SQL proxies learn how users prove themselves, for servers that run one: those with the role
    /// `app` or `db`.
    #[serde(default)]
    pub(crate) sql_account: Option<SqlAccount>,
    /// The fleet's present configuration.
    pub(crate) config: Committed,
    /// The server that decides changes of the configuration.
    pub(crate) keeper: ServerName,
    /// The server to copy the database from; `None` when the joiner needs none.
    pub(crate) source: Option<ServerName>,
    /// Who is drained.
    pub(crate) drains: DrainBook,
    /// Who is primary.
    pub(crate) lease: Option<LeaseRecord>,
}

/// A message of the two-phase change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChangeMessage {
    /// What is said.
    pub(crate) message: Message,
}

/// A change that was asked for is active.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Since this revision.
    pub(crate) revision: Revision,
}

/// Asks for a new certificate before the old one ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RenewRequest {
    /// The certificate signing request.
    pub(crate) csr: String,
}

/// The new certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RenewAnswer {
    /// PEM.
    pub(crate) certificate: String,
}

/// One server's events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Events {
    /// Oldest first.
    pub(crate) events: Vec<Event>,
}
