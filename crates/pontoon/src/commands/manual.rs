//! `pontoon completions` and `pontoon man`: from the same definition as the parser.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory;
use pontoon_rt::files;

use super::Context;
use crate::args::{Cli, Completions, Man};

/// Prints the completions of a shell.
pub fn completions(context: &Context, args: &Completions) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pontoon", &mut text);
    context.screen.answer(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// Prints the man page of the program, or writes those of every command into a folder.
pub fn man(context: &Context, args: &Man) -> anyhow::Result<u8> {
    let Some(dir) = &args.dir else {
        context.screen.answer(&page(Cli::command())?)?;
        return Ok(0);
    };
    files::create_dir(dir, 0o755).map_err(pontoon_fleet::Refusal::from)?;
    let mut command = Cli::command();
    command.build();
    let count = write_pages(dir, command)?;
    context
        .screen
        .remark(&format!("wrote {count} pages into {}\n", dir.display()));
    Ok(0)
}

fn write_pages(dir: &Path, command: clap::Command) -> anyhow::Result<usize> {
    let mut count = 1;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        count += write_pages(dir, inner.clone())?;
    }
    // The display name of a built command is that of its page: `man pontoon-join`.
    let file = format!(
        "{}.1",
        command.get_display_name().unwrap_or_else(|| command.get_name())
    );
    let text = page(command)?;
    files::write_atomic(&dir.join(file), text.as_bytes(), 0o644).map_err(pontoon_fleet::Refusal::from)?;
    Ok(count)
}

fn page(command: clap::Command) -> anyhow::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .manual("Pontoon")
        .render(&mut text)
        .context("a man page could not be made")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
