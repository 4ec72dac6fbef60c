//! The long-running processes: `pontoon agent`, `edge`, `sql`, `cache`, `memcached`, `dns`, `address` and `helper`.
//!
//! Made for a service manager: they stay in the foreground, log to standard error, end on SIGTERM with status 0
//! after what they began is finished, and with a refusal on standard error when they cannot run.

use std::os::unix::process::CommandExt;

use anyhow::Context as _;
use pontoon_address::AddressOptions;
use pontoon_agent::{AgentOptions, Supervision};
use pontoon_cacheproxy::CacheOptions;
use pontoon_dns::DnsOptions;
use pontoon_edge::{AccessLog, AccessLogFormat, AccessLogTo, EdgeOptions};
use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_helper::HelperOptions;
use pontoon_pki::Identity;
use pontoon_rt::process::Spec;
use pontoon_rt::view;
use pontoon_sqlproxy::SqlOptions;

use super::{Context, address};
use crate::args::{self, Dns, Edge, LogFormat, Process, Tier};
use crate::start;

/// `pontoon agent`
pub fn agent(context: &Context, args: &Process) -> anyhow::Result<u8> {
    log("agent", args.log_format)?;
    let supervision = if start::by_systemd(&context.paths) {
        Supervision::Systemd
    } else {
        Supervision::Children
    };
    let options = AgentOptions {
        paths: context.paths.clone(),
        program: start::own_program()?,
        supervision,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(AGENT_THREADS)
        .enable_all()
        .build()
        .context("the asynchronous runtime could not be started")?;
    runtime.block_on(pontoon_agent::run(options))?;
    Ok(0)
}

/// `pontoon edge`
pub fn edge(context: &Context, args: Edge) -> anyhow::Result<u8> {
    log("edge", args.tier.log_format)?;
    let access_log = AccessLog {
        format: match args.access_log {
            args::AccessLog::Off => AccessLogFormat::Off,
            args::AccessLog::Combined => AccessLogFormat::Combined,
            args::AccessLog::Json => AccessLogFormat::Json,
        },
        to: match args.access_log_to {
            args::AccessLogTo::File => AccessLogTo::File,
            args::AccessLogTo::Stderr => AccessLogTo::Stderr,
        },
    };
    let mut options = EdgeOptions::new(server(context, args.tier.server)?, context.paths.clone());
    options.threads = args.tier.threads.unwrap_or(0).into();
    options.access_log = access_log;
    options.successor = Some(installed()?);
    pontoon_edge::run(options)
        .map_err(|error| Refusal::new(Code::N007, "the edge cannot run").because(error.to_string()))?;
    Ok(0)
}

/// `pontoon sql`
pub fn sql(context: &Context, args: Tier) -> anyhow::Result<u8> {
    log("sql", args.log_format)?;
    let threads = args.threads.unwrap_or(0).into();
    let options = SqlOptions {
        server: server(context, args.server)?,
        paths: context.paths.clone(),
        threads,
    };
    pontoon_sqlproxy::run(options).map_err(Refusal::from)?;
    Ok(0)
}

/// `pontoon cache`
pub fn cache(context: &Context, args: Tier) -> anyhow::Result<u8> {
    log("cache", args.log_format)?;
    let options = CacheOptions {
        server: server(context, args.server)?,
        paths: context.paths.clone(),
        threads: args.threads.unwrap_or(0).into(),
    };
    pontoon_cacheproxy::run(&options).map_err(Refusal::from)?;
    Ok(0)
}

/// `pontoon memcached`: becomes memcached, with what the last view says. A change of the memory is told to it by the cache
/// proxy while it runs.
pub fn memcached(context: &Context, args: &Tier) -> anyhow::Result<u8> {
    log("memcached", args.log_format)?;
    let cannot = |why: String| Refusal::new(Code::K001, "memcached cannot run").because(why);
    let view = view::last(&context.paths).map_err(|error| cannot(error.to_string()))?;
    let cache = view
        .and_then(|view| view.cache)
        .ok_or_else(|| cannot("the view has no cache".to_owned()))?;
    let arguments = pontoon_cacheproxy::arguments(&context.paths.memcached_socket(), cache.memory_bytes);
    let mut command = std::process::Command::new(pontoon_cacheproxy::PROGRAM);
    command.args(arguments);
    // Memcached does not run as root unless it is told to.
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "root"]);
    }
    Err(cannot(format!("{}: {}", pontoon_cacheproxy::PROGRAM, command.exec())).into())
}

/// `pontoon dns`
pub fn dns(context: &Context, args: Dns) -> anyhow::Result<u8> {
    log("dns", args.tier.log_format)?;
    let mut options = DnsOptions::new(server(context, args.tier.server)?, context.paths.clone());
    options.threads = args.tier.threads.unwrap_or(0).into();
    options.responses_per_second = args.responses_per_second;
    pontoon_dns::run(options)
        .map_err(|error| Refusal::new(Code::N007, "the name server cannot run").because(error.to_string()))?;
    Ok(0)
}

/// `pontoon address`
pub fn address(context: &Context, args: &address::Run) -> anyhow::Result<u8> {
    log("address", args.log_format)?;
    let options = AddressOptions {
        server: server(context, args.server.clone())?,
        paths: context.paths.clone(),
    };
    pontoon_address::run(options).map_err(Refusal::from)?;
    Ok(0)
}

/// `pontoon helper`
pub fn helper(context: &Context, args: &Process) -> anyhow::Result<u8> {
    log("helper", args.log_format)?;
    pontoon_helper::run(HelperOptions {
        paths: context.paths.clone(),
    })?;
    Ok(0)
}

fn log(process: &str, format: LogFormat) -> anyhow::Result<()> {
    let format = match format {
        LogFormat::Text => pontoon_telemetry::LogFormat::Text,
        LogFormat::Json => pontoon_telemetry::LogFormat::Json,
    };
    pontoon_telemetry::init(process, format)?;
    Ok(())
}

/// The installed version of this program, with the arguments of this process. The path is what it is now: once the file
/// was replaced, the kernel says that it was deleted.
fn installed() -> Result<Spec, Refusal> {
    let spec = Spec::new(start::own_program()?);
    Ok(std::env::args_os().skip(1).fold(spec, Spec::arg))
}

/// The server's name: as told, or that of the certificate.
fn server(context: &Context, told: Option<ServerName>) -> Result<ServerName, Refusal> {
    match told {
        Some(server) => Ok(server),
        None => Ok(Identity::load(&context.paths.identity_dir())?.name().clone()),
    }
}

/// The agent waits for others most of the time; two, so that a database that answers slowly does not hold up
/// heartbeats.
const AGENT_THREADS: usize = 2;
