//! `[cache]`

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pontoon_fleet::{CachePlacement, ServerName};

use super::Check;
use crate::model::Cache;
use crate::raw;

impl Check<'_> {
    pub(super) fn cache(&mut self, cache: &raw::Cache) -> Option<Cache> {
        let listen = match &cache.listen {
            Some(text) => self.socket("cache.listen", text),
            None => Some(SocketAddr::from(([127, 0, 0, 1], 11211))),
        };
        let memory_bytes = self.bytes("cache.memory", &cache.memory, 1 << 20);
        let copies = self.number("cache.copies", cache.copies.as_ref(), 1, 1..=16);
        let socket = cache.socket.as_ref().map(|path| self.path("cache.socket", path));
        let placement = match &cache.placement {
            Some(text) => CachePlacement::ALL
                .into_iter()
                .find(|known| known.as_str() == text.get().as_str())
                .or_else(|| {
                    self.none(
                        "cache.placement",
                        text,
                        "must be \"ketama\", \"twemproxy\" or \"rendezvous\"",
                    )
                }),
            None => Some(CachePlacement::default()),
        };
        let mut labels = BTreeMap::new();
        for (name, label) in &cache.labels {
            let path = format!("cache.labels.{name}");
            let fits =
                |text: &str| !text.is_empty() && text.len() <= 200 && !text.contains(char::is_whitespace);
            match name.parse::<ServerName>() {
                Ok(server) if fits(label.get()) => {
                    if labels.values().any(|known| known == label.get()) {
                        return self.none(&path, label, "stands for another server already");
                    }
                    labels.insert(server, label.get().clone());
                }
                Ok(_) => return self.none(&path, label, "must be a word such as \"10.0.0.3:11211\""),
                Err(_) => return self.none(&path, label, "is not under the name of a server"),
            }
        }
        let mut fill_once = Vec::new();
        for prefix in cache.fill_once.iter().flatten() {
            let is_part_of_a_key = !prefix.get().is_empty()
                && prefix.get().len() <= MAX_KEY_BYTES
                && prefix.get().bytes().all(|byte| byte.is_ascii_graphic());
            if !is_part_of_a_key {
                let why = "must be what keys begin with, such as \"page:\": 1 to 250 printable characters without blanks";
                return self.none("cache.fill_once", prefix, why);
            }
            if !fill_once.contains(prefix.get()) {
                fill_once.push(prefix.get().clone());
            }
        }
        Some(Cache {
            listen: listen?,
            socket: match socket {
                Some(path) => Some(path?),
                None => None,
            },
            placement: placement?,
            labels,
            memory_bytes: memory_bytes?,
            fill_once,
            copies: copies?,
        })
    }
}

/// The longest key of memcached.
const MAX_KEY_BYTES: usize = 250;
