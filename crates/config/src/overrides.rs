//! Settings that do not come from the file. Precedence: flag, then environment, then file.
//!
//! * `--set KEY.PATH=VALUE`, such as `--set db.server_port=3310` or `--set server.b.zone=fsn1`;
//! * `PONTOON_SET_KEY__PATH=VALUE`: the key path in capitals, two underscores where a flag has a point, such as
//!   `PONTOON_SET_DB__SERVER_PORT=3310`. In a server's name `-` is written `_`.
//!
//! The value is read as TOML (`3310`, `true`, `["a", "b"]`, `{ path = "/up" }`); what is not TOML is a string as it
//! stands (`10s`, `127.0.0.1:8080`).

use std::ops::Range;

use pontoon_fleet::Code;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::{ConfigError, Origin};

/// What flags and the environment say, weakest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    entries: Vec<Entry>,
}

/// A flag or variable that is not a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct OverrideError {
    /// The flag or the variable's name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    origin: Origin,
    path: Vec<String>,
    /// Where the value begins in the origin's text.
    value_at: usize,
    from_environment: bool,
}

const PREFIX: &str = "PONTOON_SET_";

impl Overrides {
    /// Takes the flags' `KEY.PATH=VALUE` and, from the environment's pairs, those whose name begins with
    /// `PONTOON_SET_`.
    ///
    /// # Errors
    /// All flags and variables that are not of that form.
    pub fn new<F, E, K, V>(flags: F, environment: E) -> Result<Overrides, Vec<OverrideError>>
    where
        F: IntoIterator,
        F::Item: AsRef<str>,
        E: IntoIterator<Item = (K, V)>,
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut errors = Vec::new();
        let mut entries = Vec::new();
        for (name, value) in environment {
            let Some(key) = name.as_ref().strip_prefix(PREFIX) else {
                continue;
            };
            let path: Vec<String> = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
            let origin = Origin {
                name: name.as_ref().to_owned(),
                text: value.as_ref().to_owned(),
            };
            match check_path(&path) {
                Ok(()) => entries.push(Entry {
                    origin,
                    path,
                    value_at: 0,
                    from_environment: true,
                }),
                Err(reason) => errors.push(OverrideError {
                    name: origin.name,
                    reason,
                }),
            }
        }
        // The environment has no order of its own.
        entries.sort_by(|a, b| a.origin.name.cmp(&b.origin.name));
        for flag in flags {
            let text = flag.as_ref().to_owned();
            let name = format!("--set {text}");
            let Some((key, _)) = text.split_once('=') else {
                let reason = "has no '=': write --set KEY.PATH=VALUE".to_owned();
                errors.push(OverrideError { name, reason });
                continue;
            };
            let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
            let value_at = key.len() + 1;
            match check_path(&path) {
                Ok(()) => {
                    let origin = Origin {
                        name: "--set".to_owned(),
                        text,
                    };
                    entries.push(Entry {
                        origin,
                        path,
                        value_at,
                        from_environment: false,
                    });
                }
                Err(reason) => errors.push(OverrideError { name, reason }),
            }
        }
        if errors.is_empty() {
            Ok(Overrides { entries })
        } else {
            Err(errors)
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file's text and, behind it, every override's, so that one range of bytes says where something stood.
    pub(crate) fn append_to(&self, text: &str) -> String {
        let mut all = text.to_owned();
        for entry in &self.entries {
            all.push('\n');
            all.push_str(&entry.origin.text);
        }
        all
    }

    /// Puts every override into the tree.
    pub(crate) fn apply<'i>(
        &self,
        root: &mut DeTable<'i>,
        all: &'i str,
        file_len: usize,
    ) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut base = file_len + 1;
        for entry in &self.entries {
            let end = base + entry.origin.text.len();
            let value_from = base + entry.value_at;
            let key = if entry.from_environment {
                base..end
            } else {
                base..value_from.saturating_sub(1)
            };
            match read_value(all, value_from..end) {
                Ok(value) => {
                    if let Err(message) = put(root, entry, value, &key) {
                        errors.push(ConfigError::new(Code::C002, message, key));
                    }
                }
                Err(error) => errors.push(*error),
            }
            base = end + 1;
        }
        errors
    }

    /// Translates a range of the joined text into one of the file, or of an override.
    pub(crate) fn locate(&self, span: Range<usize>, file_len: usize) -> (Range<usize>, Option<Origin>) {
        let mut base = file_len + 1;
        for entry in &self.entries {
            let len = entry.origin.text.len();
            if (base..=base + len).contains(&span.start) {
                let start = span.start - base;
                let end = span.end.saturating_sub(base).clamp(start, len);
                return (start..end, Some(entry.origin.clone()));
            }
            base += len + 1;
        }
        let start = span.start.min(file_len);
        (start..span.end.clamp(start, file_len), None)
    }
}

fn check_path(path: &[String]) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if path
        .iter()
        .any(|part| part.is_empty() || !part.chars().all(plain))
    {
        return Err("is not a key path such as db.server_port".to_owned());
    }
    if path.len() > 8 {
        return Err("is too deep a key path".to_owned());
    }
    Ok(())
}

fn read_value(all: &str, range: Range<usize>) -> Result<Spanned<DeValue<'_>>, Box<ConfigError>> {
    let typed = all.get(range.clone()).unwrap_or_default();
    match DeValue::parse(typed) {
        Ok(value) => Ok(moved(value, range.start)),
        Err(error) if typed.trim_start().starts_with(['[', '{', '"', '\'']) => {
            let at = error.span().unwrap_or(0..typed.len());
            let at = range.start + at.start..range.start + at.end;
            Err(Box::new(ConfigError::new(
                Code::C001,
                error.message().to_owned(),
                at,
            )))
        }
        Err(_) => Ok(Spanned::new(range, DeValue::String(typed.into()))),
    }
}

/// The same value, `by` bytes further on.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let span = span.start + by..span.end + by;
    let inner = match value.into_inner() {
        DeValue::Array(items) => DeValue::Array(
            items
                .iter()
                .cloned()
                .map(|item| moved(item, by))
                .collect::<DeArray<'_>>(),
        ),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let at = key.span();
                    (
                        Spanned::new(at.start + by..at.end + by, key.into_inner()),
                        moved(value, by),
                    )
                })
                .collect(),
        ),
        other => other,
    };
    Spanned::new(span, inner)
}

fn put<'i>(
    root: &mut DeTable<'i>,
    entry: &Entry,
    value: Spanned<DeValue<'i>>,
    key: &Range<usize>,
) -> Result<(), String> {
    let Some((last, parents)) = entry.path.split_last() else {
        return Ok(());
    };
    let mut table = root;
    let mut parents = parents.iter();
    while let Some(part) = parents.next() {
        let slot = Spanned::new(key.clone(), part.clone().into());
        let child = table
            .entry(slot)
            .or_insert_with(|| Spanned::new(key.clone(), DeValue::Table(DeTable::new())));
        table = match child.get_mut() {
            DeValue::Table(table) => table,
            DeValue::Array(items) => {
                let Some(name) = parents.next() else {
                    return Err(format!("`{part}` is a list: name one, {part}.NAME.{last}"));
                };
                let named =
                    |item: &Spanned<DeValue<'_>>| match item.get_ref().get("name").map(Spanned::get_ref) {
                        Some(DeValue::String(found)) if entry.from_environment => {
                            found.replace('-', "_") == *name
                        }
                        Some(DeValue::String(found)) => found == name,
                        _ => false,
                    };
                match items.iter_mut().find(|item| named(item)).map(Spanned::get_mut) {
                    Some(DeValue::Table(table)) => table,
                    _ => return Err(format!("there is no {part} named {name:?}")),
                }
            }
            _ => return Err(format!("`{part}` is not a table")),
        };
    }
    table.remove(last.as_str());
    table.insert(Spanned::new(key.clone(), last.clone().into()), value);
    Ok(())
}
