//! `[edge.cache]`

use std::time::Duration;

use pontoon_fleet::{CacheRules, Code, LONGEST_KEPT, is_token};

use super::Check;
use crate::raw::{self, At, Text};

/// Looked through for each request.
const MOST: usize = 64;

impl Check<'_> {
    pub(super) fn kept_answers(
        &mut self,
        typed: Option<&At<raw::KeptAnswers>>,
    ) -> Option<Option<CacheRules>> {
        let Some(typed) = typed.map(At::get) else {
            return Some(None);
        };
        let usual = CacheRules::default();
        let memory = match &typed.memory {
            None => Some(usual.memory),
            Some(text) => self.bytes("edge.cache.memory", text, 1024 * 1024),
        };
        let largest = match &typed.largest {
            None => Some(usual.largest),
            Some(text) => self.bytes("edge.cache.largest", text, 1),
        };
        let paths = match &typed.paths {
            None => Some(usual.paths),
            Some(list) => self.beginnings(
                "edge.cache.paths",
                list,
                "is not a path such as \"/news/\"",
                |path| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()),
            ),
        };
        let longest = self.duration(
            "edge.cache.longest",
            typed.longest.as_ref(),
            usual.longest,
            Duration::from_secs(1)..=LONGEST_KEPT,
        );
        let unsaid = self.duration(
            "edge.cache.unsaid",
            typed.unsaid.as_ref(),
            usual.unsaid,
            Duration::ZERO..=LONGEST_KEPT,
        );
        let stale_while_revalidate = self.duration(
            "edge.cache.stale_while_revalidate",
            typed.stale_while_revalidate.as_ref(),
            usual.stale_while_revalidate,
            Duration::ZERO..=LONGEST_KEPT,
        );
        let stale_if_error = self.duration(
            "edge.cache.stale_if_error",
            typed.stale_if_error.as_ref(),
            usual.stale_if_error,
            Duration::ZERO..=LONGEST_KEPT,
        );
        let bypass_cookies = match &typed.bypass_cookies {
            None => Some(usual.bypass_cookies),
            Some(list) => self.beginnings(
                "edge.cache.bypass_cookies",
                list,
                "is not how the name of a cookie begins",
                is_token,
            ),
        };
        Some(Some(CacheRules {
            memory: memory?,
            largest: largest?,
            paths: paths?,
            longest: longest?,
            unsaid: unsaid?,
            stale_while_revalidate: stale_while_revalidate?,
            stale_if_error: stale_if_error?,
            bypass_cookies: bypass_cookies?,
        }))
    }

    fn beginnings(
        &mut self,
        path: &str,
        list: &At<Vec<Text>>,
        why: &str,
        is_good: impl Fn(&str) -> bool,
    ) -> Option<Vec<String>> {
        if list.get().len() > MOST {
            let message = format!("`{path}` has more than {MOST} members");
            self.wrong(
                Code::C006,
                message,
                list.span(),
                "one beginning may stand for many",
            );
            return None;
        }
        let good = list.get().iter().map(|text| match is_good(text.get()) {
            true => Some(text.get().clone()),
            false => self.none(path, text, why),
        });
        good.collect()
    }
}
