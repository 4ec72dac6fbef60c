//! Changes to the text of a configuration that keep everything the user wrote: order, comments, blanks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pontoon_fleet::{Code, Role, ServerName};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use crate::{Config, ConfigError};

/// A server to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// Its name.
    pub name: ServerName,
    /// Its address inside the fleet.
    pub private: IpAddr,
    /// The addresses that visitors reach it at.
    pub public: Vec<IpAddr>,
    /// What it does; `None` leaves `roles` out.
    pub roles: Option<BTreeSet<Role>>,
    /// Where it stands.
    pub zone: Option<String>,
}

/// Adds a `[[server]]` behind the last one. Adding one that is there already, exactly so, changes nothing, so that
/// a join can be repeated.
///
/// # Errors
/// The mistakes of `text`, or those that it would have with the server in it (such as a name that is taken).
pub fn add_server(text: &str, entry: &ServerEntry) -> Result<String, Vec<ConfigError>> {
    let before = Config::parse(text)?;
    let same = |config: &Config| {
        config.server(&entry.name).is_some_and(|server| {
            server.private == entry.private
                && server.public == entry.public
                && entry.roles.as_ref().is_none_or(|roles| *roles == server.roles)
                && (entry.zone.is_none() || entry.zone == server.zone)
        })
    };
    if same(&before) {
        return Ok(text.to_owned());
    }
    let mut document = document(text)?;
    let servers = servers(&mut document)?;
    let mut table = Table::new();
    table.insert("name", value(entry.name.as_str()));
    table.insert("private", value(entry.private.to_string()));
    if !entry.public.is_empty() {
        table.insert(
            "public",
            value(entry.public.iter().map(ToString::to_string).collect::<Array>()),
        );
    }
    if let Some(roles) = &entry.roles {
        table.insert(
            "roles",
            value(roles.iter().map(|role| role.as_str()).collect::<Array>()),
        );
    }
    if let Some(zone) = &entry.zone {
        table.insert("zone", value(zone.as_str()));
    }
    table.decor_mut().set_prefix("\n");
    // Between the last server and what follows it, where toml_edit would print it anyway.
    table.set_position(servers.iter().last().and_then(Table::position));
    servers.push(table);
    let after = document.to_string();
    let config =
        Config::parse(&after).map_err(|errors| about(errors, &format!("with {} added: ", entry.name)))?;
    if same(&config) && config.servers.len() == before.servers.len() + 1 {
        Ok(after)
    } else {
        Err(vec![lost(&entry.name)])
    }
}

/// Takes a `[[server]]` out. One that is not there changes nothing, so that a leave can be repeated.
///
/// # Errors
/// The mistakes of `text`, or those that it would have without the server (such as nobody left with a role).
pub fn remove_server(text: &str, name: &ServerName) -> Result<String, Vec<ConfigError>> {
    let before = Config::parse(text)?;
    if before.server(name).is_none() {
        return Ok(text.to_owned());
    }
    let mut document = document(text)?;
    let servers = servers(&mut document)?;
    let index = servers
        .iter()
        .position(|table| table.get("name").and_then(Item::as_str) == Some(name.as_str()));
    match index {
        Some(index) => servers.remove(index),
        None => return Err(vec![lost(name)]),
    };
    // Whoever followed through it follows the primary itself.
    for table in servers.iter_mut() {
        if table.get("source").and_then(Item::as_str) == Some(name.as_str()) {
            table.remove("source");
        }
    }
    if servers.is_empty() {
        document.remove("server");
    }
    let after = document.to_string();
    let config = Config::parse(&after).map_err(|errors| about(errors, &format!("without {name}: ")))?;
    if config.servers.len() + 1 == before.servers.len() {
        Ok(after)
    } else {
        Err(vec![lost(name)])
    }
}

fn document(text: &str) -> Result<DocumentMut, Vec<ConfigError>> {
    text.parse::<DocumentMut>().map_err(|error| {
        let message = error
            .message()
            .lines()
            .next()
            .unwrap_or("this is not TOML")
            .to_owned();
        vec![ConfigError::new(
            Code::C001,
            message,
            error.span().unwrap_or(0..0),
        )]
    })
}

fn servers(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, Vec<ConfigError>> {
    let item = document
        .entry("server")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if let Some(inline) = item.as_array() {
        // `server = [{ … }]` means the same and reads worse: written as [[server]] from now on.
        let tables = inline
            .iter()
            .filter_map(|value| value.as_inline_table().cloned())
            .map(|table| table.into_table());
        *item = Item::ArrayOfTables(tables.collect());
    }
    item.as_array_of_tables_mut().ok_or_else(|| {
        vec![ConfigError::new(
            Code::C002,
            "`server` is not a list of tables",
            0..0,
        )]
    })
}

/// Places would be of the changed text, which the user does not see.
fn about(errors: Vec<ConfigError>, prefix: &str) -> Vec<ConfigError> {
    errors
        .into_iter()
        .map(|error| ConfigError {
            message: format!("{prefix}{}", error.message),
            span: None,
            ..error
        })
        .collect()
}

fn lost(name: &ServerName) -> ConfigError {
    let message = format!("the text could not be changed for {name} without changing more than that");
    ConfigError {
        span: None,
        ..ConfigError::new(Code::C006, message, 0..0).hint("change [[server]] by hand and `pontoon apply`")
    }
}
