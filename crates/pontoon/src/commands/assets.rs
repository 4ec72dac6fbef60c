//! `pontoon assets`: the process that gives every server the uploads, and questions about them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_assets::control::{AssetsStatus, Settled, Undeleted, Verified};
use pontoon_fleet::{Code, Refusal};

use super::address::Run;
use super::{Context, process};
use crate::client::{ask_tier, order_assets};

/// How long all files may take to be read again.
const VERIFY_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `pontoon assets`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Assets {
    /// What to ask; without it, the process runs.
    #[command(subcommand)]
    pub command: Option<AssetsCommand>,
    /// How it runs.
    #[command(flatten)]
    pub run: Run,
}

/// A question about uploads.
#[derive(Debug, Subcommand)]
pub enum AssetsCommand {
    /// Show what is on its way, since when, and what cannot be mirrored
    Status(Asked),
    /// Read every file of this server again and compare it with the other servers and the bucket; exit 1 when something
    /// differs
    Verify(Asked),
    /// Put back a file that was overwritten or deleted
    Undelete(Undelete),
    /// Show deletions that are held because they are many, and confirm them or take them back
    Deletions(Deletions),
}

/// A question without more to it.
#[derive(Debug, Args)]
pub struct Asked {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon assets undelete`
#[derive(Debug, Args)]
pub struct Undelete {
    /// The file, relative to assets.local
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pontoon assets deletions`
#[derive(Debug, Args)]
pub struct Deletions {
    /// They are meant: delete the files on every server and in the bucket
    #[arg(long, conflicts_with = "restore")]
    pub confirm: bool,
    /// They are not meant: fetch the files back
    #[arg(long)]
    pub restore: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Assets {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match &self.command {
            Some(AssetsCommand::Status(args) | AssetsCommand::Verify(args)) => args.json,
            Some(AssetsCommand::Undelete(args)) => args.json,
            Some(AssetsCommand::Deletions(args)) => args.json,
            None => false,
        }
    }
}

/// Runs the process, or answers.
pub fn assets(context: &Context, args: Assets) -> anyhow::Result<u8> {
    match args.command {
        None => process::assets(context, &args.run),
        Some(AssetsCommand::Status(args)) => super::block_on(status(context, &args)),
        Some(AssetsCommand::Verify(args)) => super::block_on(verify(context, &args)),
        Some(AssetsCommand::Undelete(args)) => super::block_on(undelete(context, &args)),
        Some(AssetsCommand::Deletions(args)) => super::block_on(deletions(context, &args)),
    }
}

async fn look(context: &Context) -> Result<AssetsStatus, Refusal> {
    if !context.paths.assets_socket().exists() {
        return Err(
            Refusal::new(Code::U001, "no uploads are looked after on this server")
                .because(format!(
                    "{} is not there",
                    context.paths.assets_socket().display()
                ))
                .next("see what is configured", "pontoon check"),
        );
    }
    ask_tier(&context.paths, "assets", "the assets process", "/status").await
}

async fn status(context: &Context, args: &Asked) -> anyhow::Result<u8> {
    let status = look(context).await?;
    if args.json {
        context.screen.json(&status)?;
    } else {
        context.screen.answer(&shown(&status))?;
    }
    Ok(0)
}

fn shown(status: &AssetsStatus) -> String {
    let report = &status.report;
    let mut text = format!("{} files, {} bytes", report.files, report.bytes);
    if !report.looked_around {
        text.push_str("; not everything was looked at yet");
    }
    text.push_str(&format!("\nchanged here, being read: {}", report.unsettled));
    text.push_str(&format!("\nopen, mirrored when closed: {}", report.being_written));
    text.push_str(&format!("\nto be fetched: {}", report.wanted));
    if report.wanted > 0 {
        text.push_str(&format!(
            ", the oldest since {} s",
            report.oldest_wanted_ms / 1000
        ));
    }
    text.push_str(&format!(
        "\nto be sent to the bucket: {}\n",
        report.owed_to_bucket
    ));
    for (server, unread) in &report.unread {
        text.push_str(&format!("not yet heard by {server}: {unread}\n"));
    }
    if report.conflicts_total > 0 {
        text.push_str(&format!(
            "conflicts, losers kept in .pontoon/conflicts: {}\n",
            report.conflicts_total
        ));
    }
    if report.held_deletions > 0 {
        text.push_str(&format!(
            "deletions that are held: {} (pontoon assets deletions)\n",
            report.held_deletions
        ));
    }
    for trouble in &report.trouble {
        text.push_str(&format!("trouble: {trouble}\n"));
    }
    if report.skipped > 0 {
        text.push_str(&format!("not mirrored: {}\n", report.skipped));
        for (path, why) in &status.skipped {
            text.push_str(&format!("  {}: {why}\n", path.escape_debug()));
        }
    }
    text
}

async fn verify(context: &Context, args: &Asked) -> anyhow::Result<u8> {
    look(context).await?;
    let found: Verified = order_assets(&context.paths, "/verify", &(), VERIFY_PATIENCE).await?;
    let status = if found.different_total == 0 {
        0
    } else {
        Code::U005.category().exit_status()
    };
    if args.json {
        context.screen.json(&found)?;
        return Ok(status);
    }
    let with = found.with.join(", ");
    if found.different_total == 0 {
        context.screen.answer(&format!(
            "{} files ({} bytes) were read again and are the same in {with}\n",
            found.files, found.bytes
        ))?;
        return Ok(0);
    }
    let mut refusal = Refusal::new(Code::U005, format!("{} differences", found.different_total))
        .because(format!("{} files were compared with {with}", found.files));
    refusal.evidence.extend(found.different);
    Err(refusal
        .next("see what is on its way", "pontoon assets status")
        .into())
}

async fn undelete(context: &Context, args: &Undelete) -> anyhow::Result<u8> {
    look(context).await?;
    let path = args.path.to_string_lossy();
    let done: Undeleted = order_assets(&context.paths, "/undelete", &path, PATIENCE).await?;
    match args.json {
        true => context.screen.json(&done)?,
        false => context.screen.answer(&format!(
            "{} is back, from the trash of {}\n",
            done.path, done.from
        ))?,
    }
    Ok(0)
}

async fn deletions(context: &Context, args: &Deletions) -> anyhow::Result<u8> {
    let status = look(context).await?;
    if args.confirm || args.restore {
        let done: Settled = order_assets(&context.paths, "/deletions", &args.confirm, PATIENCE).await?;
        let what = if args.confirm {
            "deleted everywhere"
        } else {
            "fetched back"
        };
        match args.json {
            true => context.screen.json(&done)?,
            false => context
                .screen
                .answer(&format!("{} files are being {what}\n", done.files))?,
        }
        return Ok(0);
    }
    if args.json {
        context.screen.json(&status)?;
        return Ok(0);
    }
    let held = status.report.held_deletions;
    if held == 0 {
        context.screen.answer("no deletions are held\n")?;
        return Ok(0);
    }
    let mut text = format!("{held} files vanished on this server and are held:\n");
    for path in &status.vanished {
        text.push_str(&format!("  {}\n", path.escape_debug()));
    }
    text.push_str("if that is meant:     pontoon assets deletions --confirm\n");
    text.push_str("to fetch them back:   pontoon assets deletions --restore\n");
    context.screen.answer(&text)?;
    Ok(0)
}
