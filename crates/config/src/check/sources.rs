//! `source` of a `[[server]]`: a replica that follows through another.

use std::ops::Range;

use pontoon_fleet::{Code, Role, ServerName};

use super::Check;
use crate::model::{Config, LeaseStore, Server};
use crate::raw::{At, File};

impl Check<'_> {
    /// A source is another server with a copy of its own that is not delayed, and nobody is at its own end.
    pub(super) fn sources(&mut self, config: &Config, file: &File) {
        for typed in file.server.iter().map(At::get) {
            let Some(text) = &typed.source else { continue };
            let server = config
                .servers
                .iter()
                .find(|server| server.name.as_str() == typed.name.get());
            let Some((server, source)) = server.and_then(|server| Some((server, server.source.as_ref()?)))
            else {
                continue; // said already
            };
            if let Some((message, hint)) = wrong(config, server, source) {
                self.wrong_source(message, text.span(), hint);
            }
        }
    }

    fn wrong_source(&mut self, message: String, span: Range<usize>, hint: &str) {
        self.wrong(Code::C006, message, span, hint);
    }
}

fn wrong(config: &Config, server: &Server, source: &ServerName) -> Option<(String, &'static str)> {
    let name = &server.name;
    let has_copy = |server: &Server| server.roles.contains(&Role::Db);
    if source == name {
        return Some((
            format!("{name} is its own source"),
            "name another server, or leave `source` out: then it follows the primary",
        ));
    }
    if !has_copy(server) {
        let message = format!("{name} has a source without the role \"db\"");
        return Some((message, "it is for copies of the database"));
    }
    let Some(other) = config.server(source) else {
        return Some((
            format!("the source of {name} is {source}, and there is no such server"),
            "name one of the [[server]] entries with the role \"db\"",
        ));
    };
    if !has_copy(other) {
        return Some((
            format!("the source of {name} is {source}, which is without the role \"db\""),
            "name a server with the role \"db\"",
        ));
    }
    if other.delay.is_some() {
        return Some((
            format!("the source of {name} is {source}, whose copy is delayed"),
            "what follows a delayed copy would be behind as far: name another one",
        ));
    }
    if is_ring(config, name) {
        return Some((
            format!("{name} follows itself in the end: its source is {source}"),
            "a chain of sources ends at a server without one",
        ));
    }
    if !config.db.as_ref().is_some_and(|db| db.is_ours()) || config.lease_store() == LeaseStore::Single {
        return Some((
            format!("{name} has a source, and the lease is kept on a single server"),
            "add [lease] with store = \"s3\" or \"etcd\": it is part of failover whom a server follows",
        ));
    }
    None
}

fn is_ring(config: &Config, from: &ServerName) -> bool {
    let mut at = from;
    for _ in 0..config.servers.len() {
        match config.server(at).and_then(|server| server.source.as_ref()) {
            Some(next) if next == from => return true,
            Some(next) => at = next,
            None => return false,
        }
    }
    false // somebody else's ring, which is told there
}
