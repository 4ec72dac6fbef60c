//! Moves public addresses where only the hosting provider can: most of them route an address to a server on request, over
//! HTTP, and believe nobody who announces it on a network.
//!
//! **In:** an address and the server that is to have it. **Out:** the provider says that the server has it, or why not.
//!
//! **Must never:** take the provider's «done» for done (it is asked again where the address is); show or log a secret; go
//! on calling when whoever asked has lost the right to (dropping the future ends the call, and the program with it);
//! decide anything. Who may call is settled by a lease, in `crates/agent/src/routing.rs`: two callers at once would undo
//! what the other did.
//!
//! Every driver does two things: say where an address is, and ask for it to be elsewhere. [`Mover::claim`] puts them
//! together, the same way for all. The drivers were tested against stand-ins in `tests/`, written from the providers'
//! documents, and not against the providers. What can fail, and the test of each, stands in `tests/FAILURES.md`.

mod api;
mod digitalocean;
mod error;
mod exec;
mod hetzner_cloud;
mod hetzner_robot;
mod ovh;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use pontoon_config::{AddressMethod, Addresses};
use pontoon_fleet::{Epoch, FleetName, ServerName};

pub use error::MoveError;

/// Who has an address, in the provider's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This server of the fleet.
    At(ServerName),
    /// Something that is no server of the fleet, by the provider's name for it.
    Elsewhere(String),
    /// Nothing.
    Nowhere,
    /// The operator's program cannot tell.
    Unsaid,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::At(server) => write!(f, "{server}"),
            Place::Elsewhere(name) => write!(f, "{name:?}, which is no server of the fleet"),
            Place::Nowhere => f.write_str("nothing"),
            Place::Unsaid => f.write_str("somewhere that is not said"),
        }
    }
}

/// What is wanted of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub ip: IpAddr,
    /// Who is to have it.
    pub to: ServerName,
    /// Whose it is when all are well.
    pub home: ServerName,
    /// Grows by one with each decision about addresses.
    pub epoch: Epoch,
}

/// Asks one provider, or calls one program.
#[derive(Debug)]
pub struct Mover {
    driver: Driver,
    targets: BTreeMap<ServerName, String>,
    timeout: Duration,
    /// Between two questions where an address is, while it moves.
    look: Duration,
}

#[derive(Debug)]
enum Driver {
    Exec(exec::Program),
    HetznerCloud(hetzner_cloud::HetznerCloud),
    HetznerRobot(hetzner_robot::HetznerRobot),
    DigitalOcean(digitalocean::DigitalOcean),
    Ovh(ovh::Ovh),
}

/// What a driver asks of the provider when it wants an address moved.
#[derive(Clone, Copy, Debug)]
struct Assign<'a> {
    claim: &'a Claim,
    /// The provider's name for the server.
    target: &'a str,
}

impl Mover {
    /// For a configuration; `None` when its addresses do not move this way. Secrets are read at each call.
    ///
    /// # Errors
    /// [`MoveError::Unusable`] when the machine's certificates cannot be read.
    pub fn new(fleet: &FleetName, settings: &Addresses) -> Result<Option<Mover>, MoveError> {
        let Some(hosted) = &settings.hosted else {
            return Ok(None);
        };
        let api =
            |usual: &str| api::Api::new(hosted.endpoint.as_deref().unwrap_or(usual), &hosted.credentials);
        let driver = match &settings.method {
            AddressMethod::Arp | AddressMethod::None => return Ok(None),
            AddressMethod::Exec(program) => {
                Driver::Exec(exec::Program::new(program.clone(), fleet.clone(), hosted.timeout))
            }
            AddressMethod::HetznerCloud => {
                Driver::HetznerCloud(hetzner_cloud::HetznerCloud::new(api(hetzner_cloud::URL)?))
            }
            AddressMethod::HetznerRobot => {
                Driver::HetznerRobot(hetzner_robot::HetznerRobot::new(api(hetzner_robot::URL)?))
            }
            AddressMethod::DigitalOcean => {
                Driver::DigitalOcean(digitalocean::DigitalOcean::new(api(digitalocean::URL)?))
            }
            AddressMethod::Ovh => Driver::Ovh(ovh::Ovh::new(api(ovh::URL)?)),
        };
        Ok(Some(Mover {
            driver,
            targets: hosted.targets.clone(),
            timeout: hosted.timeout,
            look: LOOK,
        }))
    }

    /// With so long between two questions where an address is, while it moves.
    #[must_use]
    pub fn looking_each(mut self, look: Duration) -> Mover {
        self.look = look;
        self
    }

    /// Who has the address.
    ///
    /// # Errors
    /// Every [`MoveError`] but [`MoveError::Untrue`].
    pub async fn place(&self, ip: IpAddr) -> Result<Place, MoveError> {
        self.in_time(self.find(ip)).await
    }

    /// Has the address moved, and returns when the provider says that it is there. Nothing is asked for that is so
    /// already, so it may be repeated at any time.
    ///
    /// # Errors
    /// Every [`MoveError`]. The address may move all the same after some: then the next call finds it there.
    pub async fn claim(&self, claim: &Claim) -> Result<(), MoveError> {
        self.in_time(self.move_it(claim)).await
    }

    async fn move_it(&self, claim: &Claim) -> Result<(), MoveError> {
        let target = self.targets.get(&claim.to).map(String::as_str);
        let target = match (&self.driver, target) {
            (_, Some(target)) => target,
            (Driver::Exec(_), None) => claim.to.as_str(),
            (_, None) => return Err(MoveError::NoTarget(claim.to.clone())),
        };
        let there = Place::At(claim.to.clone());
        // A program is told at least once: it may have more to do than the provider knows.
        let told = matches!(self.driver, Driver::Exec(_));
        if !told && self.find(claim.ip).await? == there {
            return Ok(());
        }
        let assign = Assign { claim, target };
        let asked = match &self.driver {
            Driver::Exec(program) => program.claim(assign).await,
            Driver::HetznerCloud(driver) => driver.assign(assign).await,
            Driver::HetznerRobot(driver) => driver.assign(assign).await,
            Driver::DigitalOcean(driver) => driver.assign(assign).await,
            Driver::Ovh(driver) => driver.assign(assign).await,
        };
        match asked {
            Ok(()) => {}
            // It may have been heard all the same.
            Err(error) if error.is_doubt() => {
                return match self.find(claim.ip).await {
                    Ok(found) if found == there => Ok(()),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        }
        self.read_back(claim, &there).await
    }

    /// Waits until the provider says that it is so.
    async fn read_back(&self, claim: &Claim, there: &Place) -> Result<(), MoveError> {
        let deadline = tokio::time::Instant::now() + self.timeout.mul_f32(0.9);
        loop {
            let found = self.find(claim.ip).await;
            match &found {
                Ok(found) if found == there || *found == Place::Unsaid => return Ok(()),
                Err(error) if !error.is_doubt() => return found.map(drop),
                _ if tokio::time::Instant::now() + self.look < deadline => {
                    tokio::time::sleep(self.look).await;
                }
                Ok(found) => {
                    return Err(MoveError::Untrue {
                        ip: claim.ip,
                        wanted: claim.to.clone(),
                        found: found.to_string(),
                    });
                }
                Err(_) => return found.map(drop),
            }
        }
    }

    async fn find(&self, ip: IpAddr) -> Result<Place, MoveError> {
        let found = match &self.driver {
            Driver::Exec(program) => match program.find(ip).await? {
                exec::Said::At(name) => Some(name),
                exec::Said::Nowhere => None,
                exec::Said::Nothing => return Ok(Place::Unsaid),
            },
            Driver::HetznerCloud(driver) => driver.find(ip).await?,
            Driver::HetznerRobot(driver) => driver.find(ip).await?,
            Driver::DigitalOcean(driver) => driver.find(ip).await?,
            Driver::Ovh(driver) => driver.find(ip).await?,
        };
        Ok(found.map_or(Place::Nowhere, |name| self.known(name)))
    }

    /// The server behind the provider's name for it. A program may say the server's own.
    fn known(&self, name: String) -> Place {
        let mut targets = self.targets.iter();
        if let Some((server, _)) = targets.find(|(_, target)| **target == name) {
            return Place::At(server.clone());
        }
        match (&self.driver, name.parse::<ServerName>()) {
            (Driver::Exec(_), Ok(server)) => Place::At(server),
            _ => Place::Elsewhere(name),
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, MoveError>>) -> Result<T, MoveError> {
        tokio::time::timeout(self.timeout, call)
            .await
            .unwrap_or(Err(MoveError::Late(self.timeout)))
    }
}

/// Between two questions where an address is, while it moves.
const LOOK: Duration = Duration::from_secs(2);
