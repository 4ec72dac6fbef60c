//! The words Pontoon is made of.
//!
//! **In:** nothing. **Out:** the types that every other crate speaks: names, roles, revisions, the
//! [`FleetView`] that the agents publish and the tiers obey, the reports that the tiers send back, the
//! [`Event`]s of the timeline, and the [`Refusal`] that says what was refused, why and what to do next.
//!
//! **Must never:** do I/O, read a clock, or hold a decision. Data flows one way through these types:
//! configuration + observations → `decide` → [`FleetView`] → tiers.

mod answers;
mod assets;
mod cache;
mod code;
mod compress;
mod dispatch;
mod event;
mod front;
mod kept_answers;
mod limits;
mod name;
mod number;
mod proofs;
mod refusal;
mod report;
mod role;
pub mod units;
mod view;

pub use answers::{EdgeAnswers, MAINTENANCE_PAGE, Maintenance, MaintenanceMark};
pub use assets::{AssetsReport, AssetsView, KeyPlace};
pub use cache::{CacheList, CacheMember, CachePlacement, CacheReport, CacheServerReport, CacheView};
pub use code::{Category, Code};
pub use compress::{Coding, Compress};
pub use dispatch::{Dispatch, HashKey, OutlierRules, PathRule, Prefer, QueueRules, is_token};
pub use event::{Event, EventKind, Severity};
pub use front::{EdgeFront, ProxyProtocol};
pub use kept_answers::{CacheRules, LONGEST_KEPT, Purge, PurgeBook};
pub use limits::{ClientLimits, EdgeLimits, IpPrefix};
pub use name::{FleetName, NameError, ServerName};
pub use number::{Epoch, Revision, UnixMillis};
pub use proofs::{Challenge, Proofs};
pub use refusal::{NextStep, Refusal};
pub use report::{
    AddressMove, AddressReport, CertificateReport, DatabaseReport, DatabaseRole, DnsReport, DrainBook,
    DrainMark, EdgeReport, ElsewhereReport, HoldReport, LeaseRecord, PoolReport, ReplicaReport,
    RoutedAddress, RoutingReport, ServerReport, ShareReport, SignedReport, SpreadReport, SqlReport,
    TierDetail, TierReport, UpstreamReport,
};
pub use role::{Engine, Role, Tier};
pub use view::{
    AddressState, AddressView, AfterWrite, AppProtocol, AppView, BalanceRule, BootMoment, CertificateFiles,
    DatabaseServerView, DnsView, DnssecView, FleetView, HealthCheck, HttpsView, ListenAddress, Ports,
    ReadsView, RetryPolicy, ServerState, ServerView, SqlView, TakeoverView, TlsVersion, TransferView,
};
