//! What can happen to a fleet of two.

/// What happens to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the primary's database.
    DatabaseKilled,
    /// The primary's database is asked to end (SIGTERM), as by an operator who restarts it.
    DatabaseStopped,
    /// The primary's database stands still, and its agent lives.
    DatabaseFrozen,
    /// The replica's database stands still, and its agent lives.
    ReplicaFrozen,
    /// `kill -9` of the primary's agent alone. It is started again when another leads.
    AgentKilled,
    /// The primary's agent stands still, and goes on when another leads.
    AgentFrozen,
    /// `kill -9` of the replica's agent alone. It is started again after longer than a lease holds.
    ReplicaAgentKilled,
    /// `kill -9` of agent and database of the primary.
    AgentAndDatabaseKilled,
    /// Every process of the primary's server stands still, and goes on when another leads.
    ServerFrozen,
    /// The primary's server hears nobody: neither the other server nor the store.
    PrimaryCutOff,
    /// The replica's server hears nobody.
    ReplicaCutOff,
    /// Nothing that the primary's server sends arrives anywhere; it hears everybody.
    PrimaryUnheard,
    /// Nothing arrives at the primary's server; everybody hears it.
    PrimaryDeaf,
    /// The servers do not hear each other; both hear the store.
    Divided,
    /// Nothing that the primary's server sends arrives at the replica's; both hear the store.
    LostToReplica,
    /// Nothing that the replica's server sends arrives at the primary's; both hear the store.
    LostToPrimary,
    /// Acknowledgements of the replica get lost, and then the connection that they were sent on.
    AcksLost,
    /// The store answers nobody for longer than a lease holds.
    StoreSilent,
    /// The store answers nobody, and then the servers lose each other.
    StoreSilentAndDivided,
    /// The store answers nobody, and then the primary's database dies.
    StoreSilentAndPrimaryLost,
    /// The replica is away, and the primary's database dies and must start where it is.
    RestartedInPlace,
    /// The primary's server loses its power, and has it again when another leads.
    ServerLost,
    /// The replica's server loses its power, and with it the end of what it received and had not synced.
    ReplicaPowerCut,
    /// Both servers lose their power, and the replica's has it again first, without the end of what it received.
    BothPowerCut,
    /// The disk of the primary's server is full.
    PrimaryDiskFull,
    /// The disk of the replica's server is full.
    ReplicaDiskFull,
}

impl Fault {
    /// Continuous integration plays these, one after the other on one fleet: those that need little patience, and in which
    /// another takes over, however busy the machine is.
    pub const SHORT: [Fault; 10] = [
        Fault::DatabaseKilled,
        Fault::DatabaseKilled,
        Fault::ServerFrozen,
        Fault::DatabaseKilled,
        Fault::AgentAndDatabaseKilled,
        Fault::DatabaseKilled,
        Fault::PrimaryCutOff,
        Fault::DatabaseKilled,
        Fault::ServerLost,
        Fault::DatabaseKilled,
    ];

    /// Those that every machine can play; the disks are asked for by name.
    pub const ALL: [Fault; 24] = [
        Fault::DatabaseKilled,
        Fault::DatabaseStopped,
        Fault::DatabaseFrozen,
        Fault::ReplicaFrozen,
        Fault::AgentKilled,
        Fault::AgentFrozen,
        Fault::ReplicaAgentKilled,
        Fault::AgentAndDatabaseKilled,
        Fault::ServerFrozen,
        Fault::PrimaryCutOff,
        Fault::ReplicaCutOff,
        Fault::PrimaryUnheard,
        Fault::PrimaryDeaf,
        Fault::Divided,
        Fault::LostToReplica,
        Fault::LostToPrimary,
        Fault::AcksLost,
        Fault::StoreSilent,
        Fault::StoreSilentAndDivided,
        Fault::StoreSilentAndPrimaryLost,
        Fault::RestartedInPlace,
        Fault::ServerLost,
        Fault::ReplicaPowerCut,
        Fault::BothPowerCut,
    ];

    /// Those for which the servers need disks of their own.
    pub const DISKS: [Fault; 2] = [Fault::PrimaryDiskFull, Fault::ReplicaDiskFull];

    /// Those for which the servers need a packet filter.
    pub const FILTERS: [Fault; 1] = [Fault::AcksLost];

    /// Those with these names, separated by commas.
    pub fn named(names: &str) -> Vec<Fault> {
        Fault::ALL
            .into_iter()
            .chain(Fault::DISKS)
            .filter(|fault| names.split(',').any(|name| name == format!("{fault:?}")))
            .collect()
    }

    /// Whether it is the primary's server, or what runs on it, that it comes to.
    pub fn hits_the_primary(self) -> bool {
        use Fault as F;
        matches!(
            self,
            F::DatabaseKilled
                | F::DatabaseStopped
                | F::DatabaseFrozen
                | F::AgentKilled
                | F::AgentFrozen
                | F::AgentAndDatabaseKilled
                | F::ServerFrozen
                | F::ServerLost
                | F::PrimaryCutOff
                | F::PrimaryUnheard
                | F::PrimaryDeaf
                | F::PrimaryDiskFull
        )
    }

    /// Whether another leads afterwards; nothing where either is right.
    pub fn changes_the_primary(self) -> Option<bool> {
        use Fault as F;
        match self {
            // The store decides who comes first, or whether the operator's start does.
            F::DatabaseStopped | F::StoreSilentAndPrimaryLost | F::BothPowerCut => None,
            fault => Some(fault.hits_the_primary()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose() {
        assert_eq!(Fault::named("Divided,DatabaseKilled").len(), 2);
        assert_eq!(Fault::named("PrimaryDiskFull"), [Fault::PrimaryDiskFull]);
        assert_eq!(Fault::named("nothing"), []);
    }
}
