//! `pontoon check`, `pontoon schema`, and how every command reads fleet.toml.

use std::fmt;
use std::path::Path;

use pontoon_config::{Config, ConfigError, NotYet, Overrides, not_yet, render_all};
use pontoon_fleet::{Code, Refusal, Role};
use pontoon_rt::files;
use serde_json::json;

use super::Context;
use crate::args::Check;
use crate::output::paint::{Paint, harmless};

/// A configuration that was read and is correct.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What it says, with every override in it.
    pub text: String,
}

/// Reads fleet.toml with `--set` and the environment over it.
///
/// # Errors
/// [`ConfigRefused`] with every mistake, or C009 when there is no such file.
pub fn load(context: &Context) -> anyhow::Result<Loaded> {
    let (text, overrides) = read(context)?;
    let config = Config::parse_with(&text, &overrides).map_err(|errors| refused(context, &text, errors))?;
    // The agents know nothing of this command's flags and environment: they get the result.
    let text = if overrides.is_empty() {
        text
    } else {
        config.to_toml()
    };
    Ok(Loaded { config, text })
}

/// `pontoon check`
pub fn check(context: &Context, args: &Check) -> anyhow::Result<u8> {
    let (text, overrides) = read(context)?;
    let config = Config::parse_with(&text, &overrides).map_err(|errors| refused(context, &text, errors))?;
    let missing = not_yet(&config);
    if args.json {
        let missing: Vec<_> = missing.iter().map(|item| not_yet_json(item, &text)).collect();
        context.screen.json(&json!({
            "valid": true, "fleet": config.fleet.name, "servers": config.servers.len(), "errors": [], "not_yet": missing,
        }))?;
    } else {
        let summary = summary(
            &context.paths.config,
            &config,
            &missing,
            &text,
            context.screen.out,
        );
        context.screen.answer(&summary)?;
    }
    Ok(0)
}

/// `pontoon schema`
pub fn schema(context: &Context) -> anyhow::Result<u8> {
    context.screen.answer(&format!(
        "{}\n",
        serde_json::to_string_pretty(&pontoon_config::schema())?
    ))?;
    Ok(0)
}

/// Refuses, with C010, what this version does not do yet.
pub fn refuse_not_yet(context: &Context, loaded: &Loaded) -> Result<(), Refusal> {
    let missing = not_yet(&loaded.config);
    if missing.is_empty() {
        return Ok(());
    }
    let refusal = Refusal::new(
        Code::C010,
        "the configuration asks for something that this version does not do yet",
    );
    let refusal = missing.iter().fold(refusal, |refusal, item| {
        refusal.because(format!("{}: {}", item.path, item.what))
    });
    Err(refusal
        .next("with their places in the file", "pontoon check")
        .next(
            "take them out",
            format!("editor {}", context.paths.config.display()),
        ))
}

fn read(context: &Context) -> anyhow::Result<(String, Overrides)> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let overrides = Overrides::new(&context.set, environment).map_err(|errors| {
        errors.iter().fold(
            Refusal::new(Code::C002, "an override is not a setting"),
            |refusal, error| refusal.because(error.to_string()),
        )
    })?;
    let path = &context.paths.config;
    let unreadable = |why: String| {
        Refusal::new(Code::C009, format!("cannot read {}", path.display()))
            .because(why)
            .next("write one for this server", "pontoon init")
            .next("read another", "pontoon --config FILE …")
    };
    let bytes = files::read_limited(path, LARGEST_FILE)
        .map_err(|error| unreadable(error.source.to_string()))?
        .ok_or_else(|| unreadable("there is no such file".to_owned()))?;
    let text =
        String::from_utf8(bytes).map_err(|error| unreadable(format!("it is not UTF-8 text: {error}")))?;
    Ok((text, overrides))
}

fn refused(context: &Context, text: &str, errors: Vec<ConfigError>) -> ConfigRefused {
    ConfigRefused {
        errors,
        text: text.to_owned(),
        path: context.paths.config.display().to_string(),
    }
}

fn summary(path: &Path, config: &Config, missing: &[NotYet], text: &str, paint: Paint) -> String {
    let count = |role| config.with_role(role).count();
    let servers = match config.servers.len() {
        1 => "1 server".to_owned(),
        n => format!(
            "{n} servers ({} edge, {} app, {} db)",
            count(Role::Edge),
            count(Role::App),
            count(Role::Db)
        ),
    };
    let mut out = format!(
        "{} {} is correct: fleet {}, {servers}\n",
        paint.good("✓"),
        path.display(),
        config.fleet.name
    );
    if let Some(note) = about_reads(config) {
        out.push_str(&format!("{} {note}\n", paint.faint("·")));
    }
    if missing.is_empty() {
        return out;
    }
    out.push_str(&format!(
        "{} this version does not do yet, and `apply` refuses:\n",
        paint.warn("!")
    ));
    let width = missing.iter().map(|item| item.path.len()).max().unwrap_or(0);
    for item in missing {
        let place = match (&item.origin, &item.span) {
            (Some(origin), _) => origin.name.clone(),
            (None, Some(span)) => format!("line {}", line_and_column(text, span.start).0),
            (None, None) => String::new(),
        };
        out.push_str(&format!(
            "    {:<width$}  {}  {}\n",
            item.path,
            item.what,
            paint.faint(&place)
        ));
    }
    out
}

/// What `db.reads.split` means for this fleet, where that is not plain.
fn about_reads(config: &Config) -> Option<&'static str> {
    let reads = config.db.as_ref()?.reads.filter(|reads| reads.split)?;
    if config.with_role(Role::Db).count() < 2 {
        return Some(
            "db.reads.split: there is one database server; reads are spread once a second has joined",
        );
    }
    (reads.after_write == pontoon_config::AfterWrite::FleetWide)
        .then_some("db.reads.after_write: each read asks the primary first what was written")
}

/// A configuration with mistakes.
#[derive(Debug)]
pub struct ConfigRefused {
    errors: Vec<ConfigError>,
    text: String,
    path: String,
}

impl ConfigRefused {
    /// Every mistake under the line that it is in.
    pub fn render(&self, paint: Paint) -> String {
        let drawn = render_all(&self.errors, &self.text, &self.path);
        let mut out = String::new();
        for line in drawn.lines() {
            // Only the heads are coloured: what follows is the user's own text.
            match line
                .strip_prefix("error[")
                .and_then(|rest| rest.split_once("]: "))
            {
                Some((code, what)) => {
                    out.push_str(&format!(
                        "{}: {}\n",
                        paint.bad(&format!("error[{code}]")),
                        paint.strong(what)
                    ));
                }
                None => out.push_str(&format!("{line}\n")),
            }
        }
        let mut codes: Vec<Code> = self.errors.iter().map(|error| error.code).collect();
        codes.sort_unstable();
        codes.dedup();
        let explain: Vec<String> = codes
            .iter()
            .take(3)
            .map(|code| format!("pontoon explain {code}"))
            .collect();
        out.push_str(&format!(
            "  {}\n",
            paint.faint(&format!("more: {}", explain.join(", ")))
        ));
        out
    }

    /// The same for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let errors: Vec<_> = self
            .errors
            .iter()
            .map(|error| {
                let text = error
                    .origin
                    .as_ref()
                    .map_or(self.text.as_str(), |origin| origin.text.as_str());
                let place = error.span.as_ref().map(|span| line_and_column(text, span.start));
                json!({
                    "code": error.code,
                    "message": error.message,
                    "hint": error.hint,
                    "origin": error.origin.as_ref().map_or(self.path.as_str(), |origin| origin.name.as_str()),
                    "line": place.map(|(line, _)| line),
                    "column": place.map(|(_, column)| column),
                })
            })
            .collect();
        json!({ "valid": false, "errors": errors, "not_yet": [] })
    }

    /// That of the first mistake.
    pub fn exit_status(&self) -> u8 {
        self.errors
            .first()
            .map_or(2, |error| error.code.category().exit_status())
    }
}

impl fmt::Display for ConfigRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {} mistakes", self.path, self.errors.len())
    }
}

impl std::error::Error for ConfigRefused {}

fn not_yet_json(item: &NotYet, text: &str) -> serde_json::Value {
    let own = item.span.as_ref().filter(|_| item.origin.is_none());
    json!({
        "path": item.path,
        "what": harmless(&item.what),
        "origin": item.origin.as_ref().map(|origin| &origin.name),
        "line": own.map(|span| line_and_column(text, span.start).0),
    })
}

/// From 1, in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Fifty servers with all their keys are under 20 KiB.
const LARGEST_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_and_in_characters() {
        assert_eq!(line_and_column("a\né=1", 0), (1, 1));
        assert_eq!(line_and_column("a\né=1", 4), (2, 2));
        assert_eq!(line_and_column("a", 99), (1, 2));
        assert_eq!(line_and_column("é", 1), (1, 2), "inside a letter");
    }
}
