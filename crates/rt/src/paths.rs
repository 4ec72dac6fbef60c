//! Where everything lies on a server.

use std::path::{Path, PathBuf};

use crate::files::{self, FileError};

/// The three roots that every path of a server follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The configuration, `/etc/pontoon/fleet.toml` unless said otherwise.
    pub config: PathBuf,
    /// What must survive a restart of the machine: `/var/lib/pontoon`.
    pub state_dir: PathBuf,
    /// Sockets and pid files: `/run/pontoon`.
    pub run_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            config: PathBuf::from("/etc/pontoon/fleet.toml"),
            state_dir: PathBuf::from("/var/lib/pontoon"),
            run_dir: PathBuf::from("/run/pontoon"),
        }
    }
}

impl Paths {
    /// The default paths moved below `root`: for tests and for looking at another machine's disk.
    pub fn under(root: &Path) -> Paths {
        Paths {
            config: root.join("etc/pontoon/fleet.toml"),
            state_dir: root.join("var/lib/pontoon"),
            run_dir: root.join("run/pontoon"),
        }
    }

    /// Makes the state and run directories (with `identity` and `log`) where they are missing.
    ///
    /// # Errors
    /// The directory that could not be made.
    pub fn create_dirs(&self) -> Result<(), FileError> {
        files::create_dir(&self.run_dir, 0o755)?;
        files::create_dir(&self.state_dir, 0o750)?;
        files::create_dir(&self.identity_dir(), 0o700)?;
        files::create_dir(&self.log_dir(), 0o750)
    }

    /// The last published view, for a tier that starts while the agent is away.
    pub fn view_file(&self) -> PathBuf {
        self.state_dir.join("view.json")
    }

    /// Where the agent publishes the view.
    pub fn view_socket(&self) -> PathBuf {
        self.run_dir.join("view.sock")
    }

    /// Where the SQL proxy is asked what readers must see.
    pub fn floor_socket(&self) -> PathBuf {
        self.run_dir.join("floor.sock")
    }

    /// What the edges of the fleet sign their cookies with.
    pub fn floor_key_file(&self) -> PathBuf {
        self.state_dir.join("floor.key")
    }

    /// What the edges of the fleet seal session tickets with.
    pub fn ticket_keys_file(&self) -> PathBuf {
        self.state_dir.join("ticket.keys")
    }

    /// What the fleet knows of certificates from authorities.
    pub fn acme_file(&self) -> PathBuf {
        self.state_dir.join("acme.json")
    }

    /// Certificates from authorities with their keys, as the edge reads them.
    pub fn issued_dir(&self) -> PathBuf {
        self.state_dir.join("tls")
    }

    /// What the servers of the fleet sign their heartbeats about addresses with.
    pub fn address_key_file(&self) -> PathBuf {
        self.state_dir.join("address.key")
    }

    /// What the zone is signed with.
    pub fn dnssec_key_file(&self) -> PathBuf {
        self.state_dir.join("dnssec.key")
    }

    /// The gateway that is known to return what is sent from a moving address, as text: the agent writes it down for the
    /// address process that comes after a reboot.
    pub fn returning_gateway_file(&self) -> PathBuf {
        self.state_dir.join("returning-gateway")
    }

    /// Where the process of a tier is asked to hand over to the installed version of the program.
    pub fn upgrade_socket(&self, tier: &str) -> PathBuf {
        self.run_dir.join(format!("{tier}-upgrade.sock"))
    }

    /// Where this server's memcached listens, for its cache proxy alone.
    pub fn memcached_socket(&self) -> PathBuf {
        self.run_dir.join("memcached.sock")
    }

    /// Where the address process takes requests for a rehearsal.
    pub fn address_socket(&self) -> PathBuf {
        self.run_dir.join("address.sock")
    }

    /// There while public addresses are not to move: an address process that ends leaves this server its own for good.
    pub fn addresses_stay_file(&self) -> PathBuf {
        self.run_dir.join("addresses-stay")
    }

    /// Where the agent answers the command line.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    /// Where the helper takes its verbs.
    pub fn helper_socket(&self) -> PathBuf {
        self.run_dir.join("helper.sock")
    }

    /// This server's key and certificates.
    pub fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    /// The account with which this server's SQL proxy asks the databases how users prove themselves and how far they
    /// are: JSON, `user` and `password`. The agent writes it.
    pub fn sql_account_file(&self) -> PathBuf {
        self.state_dir.join("sql-account.json")
    }

    /// Who this server is: its name and its place in the fleet.
    pub fn node_file(&self) -> PathBuf {
        self.state_dir.join("node.toml")
    }

    /// Which server decides changes of the configuration.
    pub fn keeper_file(&self) -> PathBuf {
        self.state_dir.join("keeper.json")
    }

    /// The timeline.
    pub fn events_file(&self) -> PathBuf {
        self.state_dir.join("events.jsonl")
    }

    /// The join tokens that this server issued.
    pub fn tokens_file(&self) -> PathBuf {
        self.state_dir.join("tokens.json")
    }

    /// The lease store of kind `single`.
    pub fn lease_file(&self) -> PathBuf {
        self.state_dir.join("lease.json")
    }

    /// What failover must remember: the life of the data directory, and the epoch that it follows or leads.
    pub fn failover_file(&self) -> PathBuf {
        self.state_dir.join("failover.json")
    }

    /// Where processes that no supervisor holds write what they have to say.
    pub fn log_dir(&self) -> PathBuf {
        self.state_dir.join("log")
    }

    /// The log of the process `name`.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.log_dir().join(format!("{name}.log"))
    }

    /// The pid file of the process `name`.
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.pid"))
    }
}
