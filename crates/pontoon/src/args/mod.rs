//! What was typed. One definition gives the parser, the help, the man pages and the completions.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use pontoon_fleet::{Code, FleetName, Role, ServerName};

mod dns;
mod edge;
mod sql;

pub use dns::*;
pub use edge::*;
pub use sql::*;

/// Takes an unmodified MySQL web application from one server to two to many.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon",
    version,
    about,
    long_about = "Takes an unmodified MySQL or MariaDB web application from one server to two to many.\n\n\
                  Start with `pontoon init` on the server that runs the application now. It looks at what is \
                  there, writes /etc/pontoon/fleet.toml and changes nothing else. `pontoon plan` shows what would \
                  change, `pontoon apply` does it, and `pontoon token new` prints the line that makes another \
                  server join.",
    after_help = EXIT_STATUS,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The fleet's configuration
    #[arg(
        long,
        global = true,
        env = "PONTOON_CONFIG",
        hide_env_values = true,
        value_name = "FILE",
        default_value = "/etc/pontoon/fleet.toml",
        display_order = 900
    )]
    pub config: PathBuf,
    /// Where this server keeps its identity and what it must remember
    #[arg(
        long,
        global = true,
        env = "PONTOON_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/var/lib/pontoon",
        display_order = 901
    )]
    pub state_dir: PathBuf,
    /// Where sockets and pid files are
    #[arg(
        long,
        global = true,
        env = "PONTOON_RUN_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/run/pontoon",
        display_order = 902
    )]
    pub run_dir: PathBuf,
    /// Override a key of the configuration, as in `--set app.drain=30s`; goes before the environment and the file
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", display_order = 903)]
    pub set: Vec<String>,
    /// When to colour; NO_COLOR is honoured
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        display_order = 904
    )]
    pub color: ColorWhen,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at this machine, found a fleet and write fleet.toml; changes nothing else
    Init(Init),
    /// Check the configuration and name what this version does not do yet
    Check(Check),
    /// Show what applying the configuration would change
    Plan(PlanArgs),
    /// Carry out the configuration, or exactly the plan ID
    Apply(Apply),
    /// Make tokens with which servers join
    #[command(subcommand, arg_required_else_help = true)]
    Token(Token),
    /// Make this machine a server of a fleet; may be repeated when it was interrupted
    Join(Join),
    /// Take this server out of its fleet and put the database back where it was
    Leave(Leave),
    /// Show the fleet in one screen
    Status(Status),
    /// Show what happened
    Events(Events),
    /// Say in full what a code means
    Explain(Explain),
    /// Take a server's application out of service, after what it began is finished
    Drain(Drain),
    /// Put a drained server back into service
    Undrain(Drain),
    /// Take the application on a server out of service and put it back, as for a rolling deploy
    #[command(subcommand, arg_required_else_help = true)]
    App(App),
    /// Show the databases, and change who is primary
    #[command(subcommand, arg_required_else_help = true)]
    Db(crate::commands::db::Db),
    /// Show the certificates that visitors are shown, and order new ones
    #[command(subcommand, arg_required_else_help = true)]
    Cert(crate::commands::cert::Cert),
    /// Look into the store that decides who may be primary
    #[command(subcommand, arg_required_else_help = true)]
    Lease(crate::commands::lease::Lease),
    /// Measure how much a server bears, with how sure that is
    #[command(subcommand, arg_required_else_help = true)]
    Measure(crate::commands::measure::Measure),
    /// Print the JSON schema of fleet.toml, for editors
    Schema,
    /// Print shell completions
    Completions(Completions),
    /// Print the man page, or write one for each command into DIR
    Man(Man),
    /// Show one server becoming two, under traffic, in private namespaces of this machine; changes nothing else
    Demo(Demo),
    /// Run the control process of this server (a service starts it)
    Agent(Process),
    /// Run the load balancer of this server (the agent starts it), or ask about it
    Edge(Edge),
    /// Run the SQL proxy of this server (the agent starts it), or ask about it
    Sql(Sql),
    /// Run the cache proxy of this server (the agent starts it)
    Cache(Tier),
    /// Become the memcached of this server (the agent starts it)
    Memcached(Tier),
    /// Run the name server of this server (the agent starts it), or ask about it
    Dns(Dns),
    /// Run the process that holds this server's public addresses (the agent starts it), or ask about them
    Address(crate::commands::address::Address),
    /// Run the process that gives every server the uploads (the agent starts it), or ask about them
    Assets(crate::commands::assets::Assets),
    /// Run the demo's small application (the demo starts it)
    #[command(hide = true)]
    DemoApp,
    /// Run the small root process that moves and starts the database (a service starts it)
    Helper(Process),
}

impl Command {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match self {
            Command::Init(args) => args.json,
            Command::Check(args) => args.json,
            Command::Plan(args) => args.json,
            Command::Apply(args) => args.json,
            Command::Token(Token::New(args)) => args.json,
            Command::Join(args) => args.json,
            Command::Leave(args) => args.json,
            Command::Status(args) => args.json,
            Command::Events(args) => args.json,
            Command::Explain(args) => args.json,
            Command::Drain(args) | Command::Undrain(args) => args.json,
            Command::App(App::Drain(args) | App::Undrain(args)) => args.json,
            Command::Demo(args) => args.json,
            Command::Sql(args) => match &args.command {
                Some(SqlCommand::Explain(args)) => args.json,
                Some(SqlCommand::Top(args)) => args.json,
                None => false,
            },
            Command::Edge(args) => match &args.command {
                Some(EdgeCommand::Explain(args)) => args.json,
                Some(EdgeCommand::Maintenance(MaintenanceCommand::On(args))) => args.json,
                Some(EdgeCommand::Maintenance(MaintenanceCommand::Off(args))) => args.json,
                Some(EdgeCommand::Purge(args)) => args.json,
                Some(EdgeCommand::Upgrade(args)) => args.json,
                None => false,
            },
            Command::Dns(args) => match &args.command {
                Some(DnsCommand::Explain(args)) => args.json,
                Some(DnsCommand::Ds(args)) => args.json,
                None => false,
            },
            Command::Address(args) => args.wants_json(),
            Command::Assets(args) => args.wants_json(),
            Command::Db(args) => args.wants_json(),
            Command::Cert(args) => args.wants_json(),
            Command::Lease(args) => args.wants_json(),
            Command::Measure(args) => args.wants_json(),
            Command::Schema
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Agent(_)
            | Command::Cache(_)
            | Command::Memcached(_)
            | Command::DemoApp
            | Command::Helper(_) => false,
        }
    }
}

/// `pontoon init`
#[derive(Debug, Args)]
pub struct Init {
    /// The fleet's name; by default from the first domain or the host name
    #[arg(long, value_name = "NAME")]
    pub fleet: Option<FleetName>,
    /// This server's name in the fleet; by default the host name
    #[arg(long, value_name = "NAME")]
    pub name: Option<ServerName>,
    /// A domain of the application; may be repeated
    #[arg(long = "domain", value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// This server's address for fleet traffic; by default the one on a private network
    #[arg(long, value_name = "ADDRESS")]
    pub private: Option<IpAddr>,
    /// An address that visitors reach this server at; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub public: Vec<IpAddr>,
    /// Where the application listens, as in 127.0.0.1:8080; by default what is found to speak HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub upstream: Option<std::net::SocketAddr>,
    /// The path that tells whether the application works; by default /up, /healthz or /, whichever answers
    #[arg(long, value_name = "PATH", value_parser = url_path)]
    pub health: Option<String>,
    /// Begin anew although there is a fleet.toml or an identity: both are renamed, nothing is overwritten
    #[arg(long)]
    pub force: bool,
    /// Print what was found and done as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon check`
#[derive(Debug, Args)]
pub struct Check {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Exit with 10 when there is something to change
    #[arg(long)]
    pub exit_code: bool,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// The plan to carry out, as printed by `pontoon plan`; by default one is made and shown
    #[arg(value_name = "ID")]
    pub plan: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Print the progress as JSON lines; implies --yes
    #[arg(long)]
    pub json: bool,
}

/// `pontoon token`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Print the line that makes one new server join: good once and for an hour
    New(TokenNew),
}

/// `pontoon token new`
#[derive(Debug, Args)]
pub struct TokenNew {
    /// How long it is good, an hour at most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = token_lifetime)]
    pub ttl: Duration,
    /// The roles that a server may join with, as in edge,app; by default all. A server with the role db is trusted with
    /// the whole fleet
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', value_parser = role)]
    pub roles: Option<Vec<Role>>,
    /// Print token, address and expiry as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon join`
#[derive(Debug, Args)]
pub struct Join {
    /// A server of the fleet, as printed by `pontoon token new`
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// The token, as printed by `pontoon token new`
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// This server's name in the fleet; by default the host name
    #[arg(long, value_name = "NAME")]
    pub name: Option<ServerName>,
    /// This server's address for fleet traffic; by default the one from which ADDRESS is reached
    #[arg(long, value_name = "ADDRESS")]
    pub private: Option<IpAddr>,
    /// An address that visitors reach this server at; may be repeated; by default those on no private network
    #[arg(long, value_name = "ADDRESS")]
    pub public: Vec<IpAddr>,
    /// What this server does, as in edge,app; by default everything
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', value_parser = role)]
    pub roles: Option<Vec<Role>>,
    /// Copy the primary's database anew, also where the one that is here replicates already; it is kept under another name
    #[arg(long)]
    pub copy: bool,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon leave`
#[derive(Debug, Args)]
pub struct Leave {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Print the progress as JSON lines; implies --yes
    #[arg(long)]
    pub json: bool,
}

/// `pontoon status`
#[derive(Debug, Args)]
pub struct Status {
    /// Exit with 11 when the fleet is degraded and with 12 when it is down
    #[arg(long, conflicts_with = "watch")]
    pub check: bool,
    /// Show it again each time, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Time between two looks of --watch
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch", value_parser = interval)]
    pub every: Duration,
    /// Show every server, also when there are more than the screen has lines
    #[arg(long)]
    pub all: bool,
    /// Show where the SQL proxies take reads, and the certificates that visitors are shown, too
    #[arg(long)]
    pub wide: bool,
    /// Print JSON; with --watch a line each time
    #[arg(long)]
    pub json: bool,
}

/// `pontoon events`
#[derive(Debug, Args)]
pub struct Events {
    /// How many of the latest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// Go on as they happen, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Print a JSON line for each
    #[arg(long)]
    pub json: bool,
}

/// `pontoon explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The code, as in F002; without one, all are listed
    #[arg(value_name = "CODE")]
    pub code: Option<Code>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon drain` and `pontoon undrain`
#[derive(Debug, Args)]
pub struct Drain {
    /// The server, as `pontoon status` names it
    #[arg(value_name = "SERVER")]
    pub server: ServerName,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon app`
#[derive(Debug, Subcommand)]
pub enum App {
    /// Send the application on a server nothing new and wait until it has finished what it began; the rest of the server
    /// goes on
    Drain(Drain),
    /// Send it requests again, once its checks are good
    Undrain(Drain),
}

/// `pontoon completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// `pontoon man`
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this folder
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `pontoon demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Which application; by default WordPress where PHP and its package are installed, and notes elsewhere
    #[arg(long, value_enum, value_name = "APP")]
    pub app: Option<DemoAppName>,
    /// Keep everything up after the report, with addresses for a browser and shells, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
    /// Shorter phases, to see whether it works at all
    #[arg(long)]
    pub short: bool,
    /// Where the visitors' dice begin: the same number gives the same visitors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// An application of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoAppName {
    /// Debian's WordPress, unchanged
    Wordpress,
    /// A small one that is part of this program
    Notes,
}

/// `pontoon agent` and `pontoon helper`
#[derive(Debug, Args)]
pub struct Process {
    /// How log lines look
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        env = "PONTOON_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

/// `pontoon sql`, and a part of `pontoon edge`
#[derive(Debug, Args)]
pub struct Tier {
    /// This server's name in the fleet; by default that of its identity
    #[arg(long, value_name = "NAME")]
    pub server: Option<ServerName>,
    /// Threads that carry traffic; by default one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How log lines look
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        env = "PONTOON_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// A JSON object a line
    Json,
}

fn role(text: &str) -> Result<Role, String> {
    Role::ALL
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| format!("roles are {}", Role::ALL.map(Role::as_str).join(", ")))
}

fn token_lifetime(text: &str) -> Result<Duration, String> {
    let ttl = pontoon_fleet::units::parse_duration(text)?;
    if ttl.is_zero() || ttl > LONGEST_TOKEN {
        return Err("a token is good for an hour at most".to_owned());
    }
    Ok(ttl)
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = pontoon_fleet::units::parse_duration(text)?;
    if every < Duration::from_millis(100) {
        return Err("looking more often than each 100ms shows nothing new".to_owned());
    }
    Ok(every)
}

fn url_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a path begins with '/' and has no spaces".to_owned())
    }
}

const LONGEST_TOKEN: Duration = Duration::from_secs(3600);

const EXIT_STATUS: &str = "\
Exit status:
   0  done                              5  the fleet changed since the plan
   1  failed                           10  `plan --exit-code`: there are changes
   2  wrong usage or configuration     11  `status --check`: degraded
   3  refused for safety               12  `status --check`: down
   4  something does not answer       130  interrupted; the agent goes on";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_option_says_what_it_is() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no about");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} has no help",
                    argument.get_id()
                );
            }
            for inner in command.get_subcommands() {
                walk(inner, &path);
            }
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn wrong_values_are_refused_by_the_parser() {
        for line in [
            "pontoon join 10.0.0.1 t --name A",
            "pontoon join 10.0.0.1 t --roles edge,king",
            "pontoon init --private somewhere",
            "pontoon init --health up",
            "pontoon token new --ttl 2h",
            "pontoon token new --ttl 60",
            "pontoon events --count 0",
            "pontoon status --check --watch",
            "pontoon explain X999",
            "pontoon drain ../etc",
            "pontoon app drain ../etc",
            "pontoon edge explain notes.example.com",
            "pontoon edge explain https:///path",
            "pontoon edge explain https://notes.example.com/ --cookie where",
            "pontoon edge explain https://notes.example.com/ --client nobody",
            "pontoon edge purge",
            "pontoon edge purge news",
            "pontoon edge purge /a --prefix /b",
            "pontoon edge maintenance",
            "pontoon edge maintenance on --for 30",
            "pontoon edge maintenance on --for forever",
            "pontoon edge maintenance on --except office",
            "pontoon edge maintenance on --except 10.0.0.1/8",
            "pontoon edge maintenance off --for 30m",
            "pontoon demo --app joomla",
            "pontoon demo --seed -1",
            "pontoon",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn right_values_are_taken() {
        let cli = Cli::try_parse_from(
            "pontoon join 10.0.0.1 pon1.x.y.z --roles edge,app --public 198.51.100.7 --set app.drain=30s"
                .split(' '),
        )
        .unwrap();
        assert_eq!(cli.global.set, ["app.drain=30s"]);
        let Command::Join(join) = cli.command else {
            panic!("not a join")
        };
        assert_eq!(join.roles, Some(vec![Role::Edge, Role::App]));
    }
}
