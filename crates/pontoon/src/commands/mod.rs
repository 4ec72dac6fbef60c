//! One file for each command, or for a few that belong together. Each returns the exit status.

pub mod address;
pub mod assets;
pub mod backup;
pub mod cert;
pub mod change;
pub mod config;
pub mod db;
mod dns;
mod edge;
mod events;
mod explain;
mod file;
mod init;
pub mod lease;
mod machine;
mod manual;
pub mod measure;
mod membership;
mod plan;
mod process;
mod sql;
mod status;

use std::future::Future;

use anyhow::Context as _;
use pontoon_rt::paths::Paths;

use crate::args::Command;
use crate::client::Client;
use crate::output::Screen;

/// What every command works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where things lie.
    pub paths: Paths,
    /// `--set`, as typed.
    pub set: Vec<String>,
    /// Where answers go.
    pub screen: Screen,
    /// The agent of this machine.
    pub client: Client,
}

/// Carries out what was typed.
pub fn run(context: &Context, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Init(args) => block_on(init::init(context, args)),
        Command::Check(args) => config::check(context, &args),
        Command::Plan(args) => block_on(plan::plan(context, &args)),
        Command::Apply(args) => block_on(plan::apply(context, args)),
        Command::Token(crate::args::Token::New(args)) => block_on(membership::token_new(context, &args)),
        Command::Join(args) => block_on(membership::join(context, args)),
        Command::Leave(args) => block_on(membership::leave(context, &args)),
        Command::Status(args) => block_on(status::status(context, &args)),
        Command::Events(args) => block_on(events::events(context, &args)),
        Command::Explain(args) => explain::explain(context, &args),
        Command::Drain(args) => block_on(change::drain(context, args, true)),
        Command::Undrain(args) => block_on(change::drain(context, args, false)),
        Command::App(command) => block_on(change::app(context, command)),
        Command::Db(args) => block_on(db::db(context, args)),
        Command::Cert(args) => block_on(cert::cert(context, args)),
        Command::Lease(args) => block_on(lease::lease(context, args)),
        Command::Measure(args) => measure::measure(context, args),
        Command::Schema => config::schema(context),
        Command::Completions(args) => manual::completions(context, &args),
        Command::Man(args) => manual::man(context, &args),
        Command::Demo(args) => crate::demo::demo(context.screen, &args),
        Command::DemoApp => crate::demo::demo_app(),
        Command::Agent(args) => process::agent(context, &args),
        Command::Edge(args) => edge::edge(context, args),
        Command::Sql(args) => sql::sql(context, args),
        Command::Cache(args) => process::cache(context, args),
        Command::Memcached(args) => process::memcached(context, &args),
        Command::Dns(args) => dns::dns(context, args),
        Command::Address(args) => address::address(context, args),
        Command::Assets(args) => assets::assets(context, args),
        Command::Helper(args) => process::helper(context, &args),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime could not be started")?
        .block_on(command)
}
