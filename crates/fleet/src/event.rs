//! The typed [`Event`]: the single source of the timeline, the log line and the counters.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::units::human_bytes;
use crate::{Code, Epoch, Revision, ServerName, Tier, UnixMillis};

/// Something that happened, worth a line on the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the clock of the server that noticed.
    pub at: UnixMillis,
    /// Who noticed.
    pub server: ServerName,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// How much an event matters to somebody who is woken by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Something is less than it should be, and service goes on.
    Warning,
    /// Service or safety is affected.
    Error,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // the variants' and fields' names are the documentation; `Display` is the sentence
pub enum EventKind {
    FleetFounded {
        fleet: String,
    },
    AgentStarted {
        version: String,
    },
    AgentStopped,
    RevisionPrepared {
        revision: Revision,
        by: ServerName,
    },
    RevisionActivated {
        revision: Revision,
        by: ServerName,
    },
    RevisionRefused {
        revision: Revision,
        code: Code,
        reason: String,
    },
    TokenIssued {
        id: String,
        expires: UnixMillis,
    },
    TokenRefused {
        id: String,
        reason: String,
        from: String,
    },
    JoinStep {
        joiner: ServerName,
        step: String,
    },
    ServerJoined {
        joiner: ServerName,
    },
    ServerLeft {
        leaver: ServerName,
    },
    PeerUnreachable {
        peer: ServerName,
        reason: String,
    },
    PeerReachable {
        peer: ServerName,
        silent_ms: u64,
    },
    PeerRefused {
        peer: String,
        reason: String,
    },
    TierStarted {
        tier: Tier,
        pid: u32,
    },
    TierDied {
        tier: Tier,
        pid: u32,
        reason: String,
    },
    TierAdopted {
        tier: Tier,
        pid: u32,
    },
    TierReplaced {
        tier: Tier,
        from: u32,
        to: u32,
    },
    UpstreamDown {
        upstream: ServerName,
        reason: String,
    },
    UpstreamUp {
        upstream: ServerName,
    },
    AddressesTaken {
        home: ServerName,
        reason: String,
    },
    AddressesDropped {
        home: ServerName,
        reason: String,
    },
    AddressRouted {
        address: IpAddr,
        to: ServerName,
    },
    AddressNotRouted {
        address: IpAddr,
        to: ServerName,
        reason: String,
    },
    DrainChanged {
        subject: ServerName,
        drained: bool,
    },
    MaintenanceChanged {
        on: bool,
    },
    DatabaseMoved {
        from: String,
        to: String,
    },
    DatabaseSetAside {
        from: String,
        to: String,
    },
    DatabaseDown {
        reason: String,
    },
    DatabaseUp {
        version: String,
    },
    DatabaseRestarted {
        reason: String,
    },
    ReplicationStarted {
        source: ServerName,
    },
    ReplicationBroken {
        reason: String,
    },
    VisitorCertificateIssued {
        name: String,
        until: UnixMillis,
    },
    VisitorCertificateRefused {
        name: String,
        reason: String,
    },
    CertificateRenewed {
        until: UnixMillis,
    },
    LeaseTaken {
        epoch: Epoch,
    },
    PrimaryOpened {
        epoch: Epoch,
    },
    PrimaryInSync {
        epoch: Epoch,
        replicas: Vec<ServerName>,
        /// How many of them acknowledge a write.
        #[serde(default)]
        acks: u8,
    },
    /// It took over without being certain to have every acknowledged write.
    WritesAtRisk {
        epoch: Epoch,
        /// What was acknowledged longer before is there; `None`: not known.
        window_ms: Option<u64>,
        /// Transactions known to be missing.
        known: u64,
    },
    /// This server has transactions that the primary lacks.
    TransactionsOnlyHere {
        transactions: u64,
        which: String,
        /// The file that has them, when they were cut off the binary log.
        kept: Option<String>,
    },
    PrimaryAlone {
        epoch: Epoch,
    },
    DatabaseSilent {
        epoch: Epoch,
    },
    /// Nothing could be committed there, and another could take over.
    DatabaseFull {
        epoch: Epoch,
    },
    DatabaseFenced {
        epoch: Epoch,
    },
    DatabaseFollows {
        epoch: Epoch,
        leader: ServerName,
    },
    DatabaseStranded {
        epoch: Epoch,
    },
    DatabaseNeedsCopy {
        epoch: Epoch,
    },
    DatabaseErrant {
        transactions: String,
    },
    /// Because it diverged, and the configuration says so (`db.auto_reclone`).
    DatabaseCopiedAnew {
        transactions: String,
    },
    LeaseStoreSilent {
        reason: String,
    },
    LeaseStoreAnswers,
    LeaseStoreWentBack,
    LeaseForeign {
        fleet: String,
    },
    SwitchoverAsked {
        to: ServerName,
    },
    FailoverForced {
        accept_loss: u64,
    },
    FailoverPaused,
    FailoverResumed,
    FailoverRefused {
        reason: String,
    },
    FailoverStopped {
        code: Code,
        reason: String,
    },
    BackupMade {
        id: String,
        bytes: u64,
    },
    BackupFailed {
        code: Code,
        reason: String,
    },
}

impl EventKind {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        use EventKind as K;
        match self {
            K::DatabaseDown { .. }
            | K::ReplicationBroken { .. }
            | K::DatabaseStranded { .. }
            | K::DatabaseNeedsCopy { .. }
            | K::DatabaseErrant { .. }
            | K::DatabaseCopiedAnew { .. }
            | K::WritesAtRisk { .. }
            | K::LeaseStoreWentBack
            | K::LeaseForeign { .. }
            | K::FailoverStopped { .. } => Severity::Error,
            K::RevisionRefused { .. }
            | K::TokenRefused { .. }
            | K::PeerUnreachable { .. }
            | K::PeerRefused { .. }
            | K::TierDied { .. }
            | K::AddressesTaken { .. }
            | K::AddressesDropped { .. }
            | K::AddressRouted { .. }
            | K::AddressNotRouted { .. }
            | K::DatabaseRestarted { .. }
            | K::LeaseTaken { .. }
            | K::PrimaryAlone { .. }
            | K::DatabaseFenced { .. }
            | K::DatabaseSilent { .. }
            | K::DatabaseFull { .. }
            | K::LeaseStoreSilent { .. }
            | K::FailoverForced { .. }
            | K::FailoverPaused
            | K::FailoverRefused { .. }
            | K::BackupFailed { .. }
            | K::UpstreamDown { .. } => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use EventKind as K;
        match self {
            K::FleetFounded { fleet } => write!(f, "fleet {fleet} was founded"),
            K::AgentStarted { version } => write!(f, "agent {version} started"),
            K::AgentStopped => write!(f, "agent stopped"),
            K::RevisionPrepared { revision, by } => write!(f, "revision {revision} checked for {by}"),
            K::RevisionActivated { revision, by } => write!(f, "revision {revision} activated by {by}"),
            K::RevisionRefused {
                revision,
                code,
                reason,
            } => {
                write!(f, "revision {revision} refused [{code}]: {reason}")
            }
            K::TokenIssued { id, .. } => write!(f, "join token {id} issued"),
            K::TokenRefused { id, reason, from } => {
                write!(f, "join token {id} from {from} refused: {reason}")
            }
            K::JoinStep { joiner, step } => write!(f, "{joiner} joins: {step}"),
            K::ServerJoined { joiner } => write!(f, "{joiner} joined the fleet"),
            K::ServerLeft { leaver } => write!(f, "{leaver} left the fleet"),
            K::PeerUnreachable { peer, reason } => write!(f, "{peer} stopped answering: {reason}"),
            K::PeerReachable { peer, silent_ms } => {
                write!(
                    f,
                    "{peer} answers again after {:.1} s",
                    *silent_ms as f64 / 1000.0
                )
            }
            K::PeerRefused { peer, reason } => write!(f, "refused {peer}: {reason}"),
            K::TierStarted { tier, pid } => write!(f, "{tier} started (pid {pid})"),
            K::TierDied { tier, pid, reason } => write!(f, "{tier} (pid {pid}) died: {reason}"),
            K::TierAdopted { tier, pid } => write!(f, "{tier} (pid {pid}) went on without an agent, adopted"),
            K::TierReplaced { tier, from, to } => {
                write!(
                    f,
                    "{tier} (pid {from}) handed over to the installed version (pid {to})"
                )
            }
            K::UpstreamDown { upstream, reason } => write!(f, "application on {upstream} is out: {reason}"),
            K::UpstreamUp { upstream } => write!(f, "application on {upstream} is in again"),
            K::AddressesTaken { home, reason } => write!(f, "took the addresses of {home}: {reason}"),
            K::AddressesDropped { home, reason } => write!(f, "dropped the addresses of {home}: {reason}"),
            K::AddressRouted { address, to } => write!(f, "the provider sends {address} to {to}"),
            K::AddressNotRouted { address, to, reason } => {
                write!(f, "the provider does not send {address} to {to}: {reason}")
            }
            K::MaintenanceChanged { on: true } => f.write_str("visitors get the maintenance page"),
            K::MaintenanceChanged { on: false } => f.write_str("visitors are served: maintenance is over"),
            K::DrainChanged {
                subject,
                drained: true,
            } => write!(f, "{subject} is drained"),
            K::DrainChanged {
                subject,
                drained: false,
            } => write!(f, "{subject} is back in service"),
            K::DatabaseMoved { from, to } => write!(f, "database moved from {from} to {to}"),
            K::DatabaseSetAside { from, to } => write!(f, "data directory {from} was renamed to {to}"),
            K::DatabaseDown { reason } => write!(f, "database does not answer: {reason}"),
            K::DatabaseRestarted { reason } => write!(f, "database was started again: {reason}"),
            K::DatabaseUp { version } => write!(f, "database {version} answers"),
            K::ReplicationStarted { source } => write!(f, "replicates from {source}"),
            K::ReplicationBroken { reason } => write!(f, "replication stopped: {reason}"),
            K::VisitorCertificateIssued { name, .. } => write!(f, "certificate for {name} issued"),
            K::VisitorCertificateRefused { name, reason } => write!(f, "no certificate for {name}: {reason}"),
            K::CertificateRenewed { .. } => write!(f, "certificate renewed"),
            K::LeaseTaken { epoch } => write!(f, "took the lease: epoch {epoch}"),
            K::PrimaryOpened { epoch } => write!(f, "takes writes as the primary of epoch {epoch}"),
            K::PrimaryInSync { replicas, acks, .. } => {
                let names: Vec<_> = replicas.iter().map(ServerName::as_str).collect();
                let names = names.join(", ");
                match usize::from(*acks) >= replicas.len() || *acks == 0 {
                    true => write!(f, "every acknowledged write is on {names} too"),
                    false => write!(f, "every acknowledged write is on {acks} of {names} too"),
                }
            }
            K::WritesAtRisk {
                epoch,
                window_ms,
                known,
            } => {
                match window_ms {
                    Some(ms) => write!(
                        f,
                        "took over in epoch {epoch} without what was acknowledged in the last {ms} ms before and had not come here"
                    )?,
                    None => write!(
                        f,
                        "took over in epoch {epoch}, and how old its copy is was not known: acknowledged writes may be missing"
                    )?,
                }
                write!(f, "; known to be missing: {known} transactions")
            }
            K::TransactionsOnlyHere {
                transactions,
                which,
                kept,
            } => {
                write!(
                    f,
                    "{transactions} transactions are here that the primary lacks: {which}"
                )?;
                match kept {
                    Some(file) => write!(f, "; cut off the binary log, and kept in {file}"),
                    None => Ok(()),
                }
            }
            K::PrimaryAlone { .. } => {
                write!(
                    f,
                    "no replica is in sync: acknowledged writes are on this server alone"
                )
            }
            K::DatabaseSilent { epoch } => write!(
                f,
                "the database of the primary of epoch {epoch} stood still: it was killed"
            ),
            K::DatabaseFull { epoch } => write!(
                f,
                "the disk of the primary of epoch {epoch} is full and it committed nothing: it was killed for another to take over; make room, and it follows"
            ),
            K::DatabaseFenced { epoch } => {
                write!(f, "database killed: it may take no writes in epoch {epoch}")
            }
            K::DatabaseFollows { epoch, leader } => {
                write!(f, "follows {leader}, the primary of epoch {epoch}")
            }
            K::DatabaseStranded { epoch } => write!(
                f,
                "the lease of epoch {epoch} names this server, and its copy may lack acknowledged writes: nothing is opened"
            ),
            K::DatabaseNeedsCopy { .. } => {
                write!(
                    f,
                    "this copy has transactions that the primary lacks: it must be copied anew"
                )
            }
            K::DatabaseErrant { transactions } => {
                write!(f, "has transactions that the primary lacks: {transactions}")
            }
            K::DatabaseCopiedAnew { transactions } => write!(
                f,
                "is copied anew by itself: it has transactions that the primary lacks: {transactions}"
            ),
            K::LeaseStoreSilent { reason } => write!(f, "the lease store does not answer: {reason}"),
            K::LeaseStoreAnswers => write!(f, "the lease store answers again"),
            K::LeaseStoreWentBack => {
                write!(
                    f,
                    "the lease store shows an older record than before: it does not keep what it takes"
                )
            }
            K::LeaseForeign { fleet } => write!(f, "the lease in the store is that of the fleet {fleet}"),
            K::SwitchoverAsked { to } => write!(f, "an operator asked to hand over to {to}"),
            K::FailoverForced {
                accept_loss: u64::MAX,
            } => write!(
                f,
                "an operator made this server the primary and accepted a loss that nobody knows"
            ),
            K::FailoverForced { accept_loss } => {
                write!(
                    f,
                    "an operator made this server the primary and accepted to lose {accept_loss} transactions"
                )
            }
            K::FailoverPaused => write!(f, "failover is paused by an operator"),
            K::FailoverResumed => write!(f, "failover goes on"),
            K::FailoverRefused { reason } => write!(f, "failover refused a command: {reason}"),
            K::FailoverStopped { code, reason } => write!(f, "failover does not run [{code}]: {reason}"),
            K::BackupMade { id, bytes } => {
                write!(
                    f,
                    "copied the database to the object store: {id}, {}",
                    human_bytes(*bytes)
                )
            }
            K::BackupFailed { code, reason } => {
                write!(f, "no copy of the database was made [{code}]: {reason}")
            }
        }
    }
}
