//! `pontoon db backup`, `db backups` and `db restore`: copies of the database in an object store, and the way back.

use std::path::PathBuf;

use clap::Args;
use pontoon_agent::api::{self, ActiveConfig, BackupRequest, Progress};
use pontoon_backup::restore::{Restored, Step, Wanted};
use pontoon_backup::{Catalog, Moment, Place, Store};
use pontoon_config::Config;
use pontoon_fleet::{Code, Refusal, ServerName};
use pontoon_helper::Node;
use pontoon_pki::IdentityFiles;
use pontoon_rt::clock::{Clock, SystemClock};

use super::lease::credentials;
use super::{Context, change};
use crate::output::backups::{render, summary};
use crate::output::progress::Reporter;

/// `pontoon db backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// The server whose database is copied; by default a replica that is well, else the primary
    #[arg(value_name = "SERVER")]
    pub on: Option<ServerName>,
    /// Print the progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db backups`
#[derive(Debug, Args)]
pub struct Backups {
    #[command(flatten)]
    from: From,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon db restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// The data directory to make; one that is there is renamed. By default that of this machine's database
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Everything that was committed before this moment, in UTC: "2026-11-23 06:40:00"
    #[arg(long, value_name = "TIME", conflicts_with = "to_gtid")]
    to_time: Option<Moment>,
    /// Everything up to this transaction: "0-1-4711", "UUID:4711"
    #[arg(long, value_name = "GTID")]
    to_gtid: Option<String>,
    /// The copy to begin with, as `db backups` shows it; by default the newest from before that moment
    #[arg(long, value_name = "ID")]
    copy: Option<String>,
    #[command(flatten)]
    from: From,
    /// The system user that the files will belong to; by default the directory's, else the database's
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// The database server's program, where it is not the installed one
    #[arg(long, value_name = "PATH")]
    server_program: Option<PathBuf>,
    /// Print the progress as JSON lines, the result last
    #[arg(long)]
    pub json: bool,
}

/// Where copies are, on a machine whose fleet does not say it.
#[derive(Debug, Args)]
struct From {
    /// Where the copies are: s3://BUCKET/PREFIX; by default what this fleet's [db.backup] says
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The object store's URL, when it is not AWS
    #[arg(long, value_name = "URL", requires = "from")]
    endpoint: Option<String>,
    /// Where the keys are: file:/PATH, env:NAME or credential:NAME
    #[arg(long, value_name = "WHERE")]
    credentials: Option<String>,
}

/// Asks the agent for a copy.
pub async fn backup(context: &Context, args: Backup) -> anyhow::Result<u8> {
    let again = "pontoon db backups";
    let request = BackupRequest { on: args.on };
    change::follow(context, "/v1/db/backup", &request, args.json, again).await
}

/// Lists copies: by the agent, which may have keys that this user has not, or itself when it is told where.
pub async fn backups(context: &Context, args: &Backups) -> anyhow::Result<u8> {
    let found: api::Backups = match &args.from.from {
        Some(_) => {
            let store = Store::open(&place(context, &args.from).await?)?;
            let catalog = Catalog::load(&store).await?;
            api::Backups::of(&catalog, &store, SystemClock.unix())
        }
        None => context.client.get("/v1/db/backups").await?,
    };
    if args.json {
        context.screen.json(&found)?;
    } else {
        context.screen.answer(&render(&found, context.screen.out))?;
    }
    Ok(0)
}

/// Restores, in this process: a machine that has lost everything has no agent to ask.
pub async fn restore(context: &Context, args: Restore) -> anyhow::Result<u8> {
    let node = Node::load(&context.paths.node_file())?.database;
    let dir = match (&args.into, &node) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(node)) => node.datadir.clone(),
        (None, None) => {
            return Err(Refusal::new(Code::C003, "it is not said where to restore to")
                .because("this machine has no database that Pontoon knows of")
                .next("say it", "pontoon db restore --into /var/lib/mysql")
                .into());
        }
    };
    if let Some(node) = &node {
        refuse_fleets_own(context, &dir, &node.datadir)?;
    }
    let moment = match (args.to_time, args.to_gtid) {
        (Some(moment), _) => moment,
        (None, Some(gtid)) => Moment::Through(gtid),
        (None, None) => Moment::Latest,
    };
    let store = Store::open(&place(context, &args.from).await?)?;
    let wanted = Wanted {
        dir,
        copy: args.copy,
        moment,
        node,
        owner: args.owner,
        program: args.server_program,
    };
    let me: ServerName = "here".parse()?;
    let mut reporter = Reporter::new(context.screen, args.json);
    let mut show = |step: Step| {
        let progress = match step {
            Step::Begun(text) => Progress::Step {
                server: me.clone(),
                text,
            },
            Step::Bytes(done, total) => Progress::Bytes {
                done,
                total: Some(total),
            },
        };
        // A terminal that went away does not end a restore.
        let _ = reporter.show(&progress);
    };
    let restored = tokio::select! {
        restored = pontoon_backup::restore::restore(&store, &wanted, &mut show) => restored,
        _ = tokio::signal::ctrl_c() => Err(Refusal::new(Code::N007, "interrupted: nothing was put into place")
            .next("begin again", "pontoon db restore …")),
    };
    reporter.clear();
    let restored = restored?;
    renew_server_id(context, &restored)?;
    if args.json {
        context.screen.json(&restored)?;
    } else {
        context.screen.answer(&summary(&restored))?;
    }
    Ok(0)
}

/// A fleet's database is what its primary says, and a replica is made by `join` or `db reseed`.
fn refuse_fleets_own(
    context: &Context,
    dir: &std::path::Path,
    datadir: &std::path::Path,
) -> Result<(), Refusal> {
    let is_member = IdentityFiles::in_dir(&context.paths.identity_dir()).cert.exists();
    let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    if !is_member || !(real == datadir || dir == datadir) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::D023,
        format!("{} is where this fleet has its database", dir.display()),
    )
    .because("this server belongs to a fleet, as its primary or as a replica of it")
    .next(
        "restore beside it, and take from there what was lost",
        format!("pontoon db restore --into {}-restored", datadir.display()),
    )
    .next(
        "or restore on a machine that is in no fleet",
        "pontoon db restore --from s3://BUCKET/PREFIX",
    ))
}

/// A copy that comes back under the id of the server that it was taken from would miss that server's own events.
fn renew_server_id(context: &Context, restored: &Restored) -> Result<(), Refusal> {
    let file = context.paths.node_file();
    let mut node = Node::load(&file)?;
    if let Some(database) = &mut node.database
        && database.datadir == restored.dir
    {
        database.server_id = pontoon_agent::new_server_id()?;
        node.save(&file)?;
    }
    Ok(())
}

async fn place(context: &Context, from: &From) -> anyhow::Result<Place> {
    let keys = from.credentials.as_deref().map(credentials).transpose()?;
    if let Some(url) = &from.from {
        return Ok(Place::parse(url, from.endpoint.as_deref(), keys)?);
    }
    let unknown = |why: String| {
        Refusal::new(Code::C003, "it is not said where copies are").because(why).next(
            "say it",
            "pontoon db restore --from s3://BUCKET/PREFIX --endpoint https://HOST --credentials file:/PATH",
        )
    };
    let active: ActiveConfig = context
        .client
        .get("/v1/config")
        .await
        .map_err(|error| unknown(format!("no agent says it: {error}")))?;
    let config = Config::parse(&active.text)
        .map_err(|_| unknown("the fleet's configuration cannot be read".to_owned()))?;
    let mut place =
        Place::of(&config).ok_or_else(|| unknown("the configuration has no [db.backup]".to_owned()))?;
    place.credentials = keys.or(place.credentials);
    Ok(place)
}
