//! The ground that every Pontoon process stands on.
//!
//! **In:** the operating system. **Out:** [`paths`], [`files`] that survive a crash, a [`clock`] that goes on while
//! the machine sleeps, [`shutdown`], [`listen`]ers, the [`doors`] of proxies and the threads that [`serve`] what comes in, the [`view`]'s way from the agent to the tiers, [`floor`]s between edge and SQL proxy, [`process`]es that
//! outlive the agent, [`handover`] of listening sockets to a new version, [`http`] over any stream, text in URLs ([`percent`]) and [`threads`], one runtime a core.
//!
//! **Must never:** decide anything about the fleet, and never let a slow, dead or lying peer on one socket hold up
//! another.

pub mod beneath;
pub mod clock;
pub mod doors;
pub mod files;
pub mod floor;
pub mod handover;
pub mod http;
pub mod listen;
pub mod paths;
pub mod percent;
pub mod proc_net;
pub mod process;
pub mod serve;
pub mod shutdown;
pub mod threads;
pub mod view;
