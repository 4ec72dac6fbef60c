//! The shape of what was typed, against the language's schema: unknown keys, missing keys, wrong types and words
//! that are none of the allowed ones. All of them, each with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use pontoon_fleet::Code;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::ConfigError;
use crate::model::Place;
use crate::secret;

static SCHEMA: LazyLock<Value> = LazyLock::new(crate::schema);

/// What the walk found.
pub(crate) struct Shape {
    pub errors: Vec<ConfigError>,
    /// Whether serde can read what is left: unknown keys are taken out of the tree, wrong types are not.
    pub readable: bool,
    pub places: BTreeMap<String, Place>,
}

/// Walks `root`. `text` is the file and behind it the texts of the overrides, from `overrides_from` on.
pub(crate) fn check(root: &mut DeTable<'_>, text: &str, overrides_from: usize) -> Shape {
    let shape = Shape {
        errors: Vec::new(),
        readable: true,
        places: BTreeMap::new(),
    };
    let mut walk = Walk {
        shape,
        text,
        overrides_from,
    };
    walk.table(root, &SCHEMA, "", 0..0);
    walk.shape
}

struct Walk<'t> {
    shape: Shape,
    text: &'t str,
    overrides_from: usize,
}

impl Walk<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, schema: &Value, path: &str, place: Range<usize>) {
        let schema = resolve(schema);
        let known = schema.get("properties").and_then(Value::as_object);
        let names: Vec<&str> = known
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        // A table whose keys are names of the operator's.
        let any = schema.get("additionalProperties").filter(|any| any.is_object());
        let mut unknown = Vec::new();
        for (key, value) in table.iter_mut() {
            let name: &str = key.get_ref();
            let path = join(path, name);
            let Some(schema) = known.and_then(|known| known.get(name)).or(any) else {
                self.shape
                    .errors
                    .push(unknown_key(name, &path, &names, key.span(), value.span()));
                unknown.push(key.clone());
                continue;
            };
            let place = Place {
                key: key.span(),
                value: value.span(),
                origin: None,
            };
            self.shape.places.insert(path.clone(), place);
            self.value(value, schema, &path, key.span());
        }
        for key in unknown {
            table.remove(&key);
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !table.contains_key(name) {
                let path = join(path, name);
                let error = ConfigError::new(Code::C003, format!("`{path}` is missing"), place.clone());
                self.wrong(error.hint(missing_hint(&path)));
            }
        }
    }

    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, schema: &Value, path: &str, key: Range<usize>) {
        let schema = resolve(schema);
        let span = value.span();
        let found = kind(value.get_ref());
        let wanted = wanted(schema);
        if wanted == "string"
            && span.start >= self.overrides_from
            && !matches!(found, "string" | "array" | "table")
        {
            // In a flag or a variable `name=7` cannot be told from `name="7"`: the key knows.
            let typed = self.text.get(span.clone()).unwrap_or_default().to_owned();
            *value.get_mut() = DeValue::String(typed.into());
        } else if wanted != found {
            if path.ends_with("credentials") {
                return self.wrong(inline_secret(path, span));
            }
            let message = format!(
                "`{path}` is {} and must be {}",
                with_article(found),
                with_article(wanted)
            );
            let error = ConfigError::new(Code::C002, message, span);
            return self.wrong(match (wanted, found) {
                ("string", "integer" | "float") => {
                    error.hint("units belong into the string: \"10s\", \"64MiB\", \"20%\"")
                }
                ("string", _) => error.hint("write it in quotes"),
                ("array", "string") => error.hint("write it in brackets: [\"…\"]"),
                ("table", _) => error.hint("write it in braces: { key = value }"),
                ("integer" | "boolean", "string") => error.hint("write it without quotes"),
                _ => error,
            });
        }
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, schema, path, key),
            DeValue::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    let path = format!("{path}.{}", item_name(item, index));
                    let span = item.span();
                    let place = Place {
                        key: span.clone(),
                        value: span.clone(),
                        origin: None,
                    };
                    self.shape.places.insert(path.clone(), place);
                    // An element of `[[server]]` is underlined at its header, not over all its lines.
                    self.value(item, schema, &path, first_line(self.text, span));
                }
            }
            DeValue::String(word) => {
                let allowed = allowed_words(schema);
                if !allowed.is_empty() && !allowed.contains(&word.as_ref()) {
                    let message = format!("`{path}` cannot be {word:?}");
                    let hint = match nearest(word, &allowed) {
                        Some(near) => format!("did you mean {near:?}?"),
                        None => format!("use {}", list(&allowed)),
                    };
                    self.wrong(ConfigError::new(Code::C002, message, span).hint(hint));
                }
            }
            DeValue::Integer(number) if i64::from_str_radix(number.as_str(), number.radix()).is_err() => {
                self.wrong(ConfigError::new(
                    Code::C002,
                    format!("`{path}` is too large a number"),
                    span,
                ));
            }
            _ => {}
        }
    }

    fn wrong(&mut self, error: ConfigError) {
        self.shape.readable = false;
        self.shape.errors.push(error);
    }
}

fn unknown_key(
    name: &str,
    path: &str,
    known: &[&str],
    key: Range<usize>,
    value: Range<usize>,
) -> ConfigError {
    if path.contains("credentials.") || secret::is_key(name) {
        return inline_secret(path, value);
    }
    let error = ConfigError::new(Code::C004, format!("unknown key `{name}`"), key);
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("known here: {}", list_keys(known))),
    }
}

/// The value's place, so that the renderer can cover it.
pub(crate) fn inline_secret(path: &str, value: Range<usize>) -> ConfigError {
    let message = format!("`{path}` would put a secret into the configuration");
    ConfigError::new(Code::C007, message, value).hint(
        "point to it: credentials = { credential = \"NAME\" }, { file = \"PATH\" } or { env = \"NAME\" }",
    )
}

fn missing_hint(path: &str) -> &'static str {
    match path {
        "version" => "begin the file with: version = 1",
        "fleet" => "add [fleet] with a name",
        "server" => "add a [[server]] with a name and a private address",
        _ => "this version cannot do without it",
    }
}

/// Follows `$ref`, and takes the part of an optional that is not null.
fn resolve(schema: &Value) -> &Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| SCHEMA.pointer(pointer));
        return target.map_or(schema, resolve);
    }
    let is_null = |part: &Value| part.get("type").and_then(Value::as_str) == Some("null");
    match schema
        .get("anyOf")
        .and_then(Value::as_array)
        .and_then(|parts| parts.iter().find(|part| !is_null(part)))
    {
        Some(part) => resolve(part),
        None => schema,
    }
}

/// The TOML type that a schema asks for.
fn wanted(schema: &Value) -> &'static str {
    let name = match schema.get("type") {
        Some(Value::String(name)) => Some(name.as_str()),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null"),
        _ => None,
    };
    match name {
        Some("object") => "table",
        Some("array") => "array",
        Some("integer") => "integer",
        Some("boolean") => "boolean",
        _ => "string",
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "float",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "table",
    }
}

fn with_article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// The words of an enumeration: `enum`, or `oneOf` with a `const` or `enum` each.
fn allowed_words(schema: &Value) -> Vec<&str> {
    let mut words: Vec<&str> = schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    words.extend(schema.get("const").and_then(Value::as_str));
    for part in schema
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        words.extend(allowed_words(part));
    }
    words
}

/// The word that was probably meant.
pub(crate) fn nearest<'w>(typed: &str, known: &[&'w str]) -> Option<&'w str> {
    if typed.len() > 100 {
        return None;
    }
    let score = |word: &str| strsim::jaro_winkler(&typed.to_lowercase(), word);
    known
        .iter()
        .copied()
        .map(|word| (score(word), word))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn list_keys(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// A server is called by its name, any other element by its number.
fn item_name(item: &Spanned<DeValue<'_>>, index: usize) -> String {
    match item.get_ref().get("name").map(Spanned::get_ref) {
        Some(DeValue::String(name)) => name.to_string(),
        _ => index.to_string(),
    }
}

fn first_line(text: &str, span: Range<usize>) -> Range<usize> {
    let line = text
        .get(span.clone())
        .and_then(|part| part.lines().next())
        .map_or(0, str::len);
    span.start..span.start + line
}
