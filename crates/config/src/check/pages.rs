//! `[edge.errors]`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, MAINTENANCE_PAGE};

use super::Check;
use crate::raw::{At, Text};

/// Endings of files whose Content-Type is known by them.
pub(super) const KNOWN: [&str; 6] = ["html", "htm", "txt", "json", "xml", "svg"];

impl Check<'_> {
    pub(super) fn pages(
        &mut self,
        typed: Option<&At<BTreeMap<String, Text>>>,
    ) -> Option<BTreeMap<String, PathBuf>> {
        let mut pages = BTreeMap::new();
        let mut good = true;
        for (key, text) in typed.into_iter().flat_map(At::get) {
            let path = format!("edge.errors.{key}");
            if !is_page(key) {
                let message = format!("`{path}`: {key:?} is nothing that the edge answers");
                let hint = "a status (503), a class (4xx or 5xx), or maintenance";
                self.wrong(Code::C002, message, text.span(), hint);
                good = false;
                continue;
            }
            let Some(file) = self.path(&path, text) else {
                good = false;
                continue;
            };
            let ending = Path::new(&file).extension().and_then(|ending| ending.to_str());
            if !ending.is_some_and(|ending| KNOWN.contains(&ending)) {
                let message = format!("`{path}`: what is in a file named {:?}?", text.get());
                let hint = "its name ends in .html, .htm, .txt, .json, .xml or .svg";
                self.wrong(Code::C006, message, text.span(), hint);
                good = false;
                continue;
            }
            pages.insert(key.clone(), file);
        }
        good.then_some(pages)
    }
}

fn is_page(key: &str) -> bool {
    let is_status = || {
        key.len() == 3
            && key
                .parse::<u16>()
                .is_ok_and(|status| (400..600).contains(&status))
    };
    matches!(key, MAINTENANCE_PAGE | "4xx" | "5xx") || is_status()
}
