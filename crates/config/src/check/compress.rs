//! `[edge.compress]`

use pontoon_fleet::{Code, Coding, Compress, is_token};

use super::Check;
use crate::raw::{self, At, Text};

/// Looked through for each answer.
const MOST_TYPES: usize = 64;

impl Check<'_> {
    pub(super) fn compress(&mut self, typed: Option<&At<raw::Compress>>) -> Option<Option<Compress>> {
        let Some(typed) = typed.map(At::get) else {
            return Some(None);
        };
        let usual = Compress::default();
        let codings = match &typed.codings {
            None => Some(usual.codings),
            Some(list) => self.codings(list),
        };
        let types = match &typed.types {
            None => Some(usual.types),
            Some(list) => self.types(list),
        };
        let min_bytes = match &typed.min {
            None => Some(usual.min_bytes),
            Some(text) => self.bytes("edge.compress.min", text, 0),
        };
        Some(Some(Compress {
            codings: codings?,
            types: types?,
            min_bytes: min_bytes?,
        }))
    }

    fn codings(&mut self, list: &At<Vec<Text>>) -> Option<Vec<Coding>> {
        let mut codings: Vec<Coding> = Vec::new();
        for text in list.get() {
            let known = Coding::ALL.into_iter().find(|one| one.as_str() == text.get());
            let Some(coding) = known else {
                return self.none(
                    "edge.compress.codings",
                    text,
                    "is none of \"zstd\", \"br\" and \"gzip\"",
                );
            };
            if codings.contains(&coding) {
                let message = format!("`edge.compress.codings`: {:?} stands twice", text.get());
                self.wrong(Code::C005, message, text.span(), "");
                return None;
            }
            codings.push(coding);
        }
        self.not_empty("edge.compress.codings", list)?;
        Some(codings)
    }

    fn types(&mut self, list: &At<Vec<Text>>) -> Option<Vec<String>> {
        self.not_empty("edge.compress.types", list)?;
        if list.get().len() > MOST_TYPES {
            let message = format!("`edge.compress.types` has more than {MOST_TYPES} types");
            self.wrong(
                Code::C006,
                message,
                list.span(),
                "such as \"text/*\" for all texts",
            );
            return None;
        }
        let types = list.get().iter().map(|text| {
            let typed = text.get().to_ascii_lowercase();
            let good = typed
                .split_once('/')
                .is_some_and(|(kind, rest)| is_token(kind) && kind != "*" && is_token(rest));
            match good {
                true => Some(typed),
                false => self.none(
                    "edge.compress.types",
                    text,
                    "is not a media type such as \"text/html\"",
                ),
            }
        });
        types.collect()
    }

    fn not_empty(&mut self, path: &str, list: &At<Vec<Text>>) -> Option<()> {
        if list.get().is_empty() {
            let message = format!("`{path}` is empty: nothing would be compressed");
            self.wrong(
                Code::C006,
                message,
                list.span(),
                "leave it out for the usual ones",
            );
            return None;
        }
        Some(())
    }
}
