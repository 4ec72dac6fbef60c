//! What is in the store: copies, the archive, and to which moments one can go back.

use pontoon_fleet::{Refusal, UnixMillis};
use pontoon_gtid::{Dialect, Position};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Index};
use crate::manifest::Manifest;
use crate::store::Store;

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Whole copies, oldest first.
    pub copies: Vec<Manifest>,
    /// The archive's files, oldest first.
    pub archive: Vec<Index>,
    /// Objects that look like a manifest and cannot be used, and why.
    pub flawed: Vec<String>,
}

/// A line of `pontoon db backups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLine {
    /// Its name.
    pub id: String,
    /// The server that it was taken from.
    pub server: String,
    /// Whether that was the primary.
    pub primary: bool,
    /// The engine's version.
    pub engine_version: String,
    /// Its length in the store.
    pub bytes: u64,
    /// The first moment to which it can be restored.
    pub from: UnixMillis,
    /// The last one, with the archive; the same as `from` without.
    pub to: UnixMillis,
}

impl Catalog {
    /// Reads it.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(store: &Store) -> Result<Catalog, Refusal> {
        let mut catalog = Catalog {
            archive: archive::indexes(store).await?,
            ..Catalog::default()
        };
        for object in store.list(Manifest::FOLDER).await? {
            if !object.name.ends_with("/manifest.json") {
                continue;
            }
            match store.get_json::<Manifest>(&object.name).await {
                Ok(Some(manifest)) => match manifest.flaw() {
                    None if Manifest::object(&manifest.id) == object.name => catalog.copies.push(manifest),
                    None => catalog
                        .flawed
                        .push(format!("{}: it says that it is {}", object.name, manifest.id)),
                    Some(flaw) => catalog.flawed.push(format!("{}: {flaw}", object.name)),
                },
                Ok(None) => {}
                Err(refusal) if refusal.code == pontoon_fleet::Code::D021 => {
                    catalog.flawed.extend(refusal.evidence);
                }
                Err(refusal) => return Err(refusal),
            }
        }
        catalog.copies.sort_by_key(|copy| copy.ended);
        Ok(catalog)
    }

    /// The lines, newest first.
    pub fn lines(&self) -> Vec<CopyLine> {
        let line = |copy: &Manifest| CopyLine {
            id: copy.id.clone(),
            server: copy.server.clone(),
            primary: copy.primary,
            engine_version: copy.engine_version.clone(),
            bytes: copy.bytes,
            from: copy.ended,
            to: self.reach(copy),
        };
        self.copies.iter().rev().map(line).collect()
    }

    /// Up to when the archive goes on from this copy without a gap.
    fn reach(&self, copy: &Manifest) -> UnixMillis {
        let dialect = archive::dialect(copy.engine);
        let mut here = Position::parse(dialect, &copy.position).unwrap_or_else(|_| Position::empty(dialect));
        let mut to = copy.ended;
        for index in self.chain(copy, &mut here) {
            to = to.max(index.seen);
        }
        to
    }

    /// The archive's files that go on from `here`, each from where those before it end; `here` moves along.
    pub(crate) fn chain<'a>(&'a self, copy: &Manifest, here: &mut Position) -> Vec<&'a Index> {
        let mut left: Vec<&Index> = self
            .archive
            .iter()
            .filter(|index| index.engine == copy.engine)
            .collect();
        let mut chain = Vec::new();
        while let Some(at) = left.iter().position(|index| goes_on(index, here)) {
            let index = left.remove(at);
            here.merge(&index.position(&index.after));
            // One that ends before the copy says nothing about later.
            chain.push(index);
        }
        chain
    }

    /// The last moment that the archive has everything of; `None` without one.
    pub fn archived_to(&self) -> Option<UnixMillis> {
        self.archive.iter().map(|index| index.seen).max()
    }
}

/// Whether nothing is missing between `here` and the begin of that file.
pub(crate) fn goes_on(index: &Index, here: &Position) -> bool {
    let before = index.position(&index.before);
    if !here.reaches(&before) {
        return false;
    }
    // A copy's binary log begins with an empty list on MariaDB: then the numbers say whether one is missing.
    let is_known = |first: &str| {
        let domain = first.split_once('-').map(|(domain, _)| format!("{domain}-"));
        domain.is_some_and(|domain| index.before.split(',').any(|one| one.starts_with(&domain)))
    };
    matches!(here, Position::MySql(_))
        || index
            .firsts
            .iter()
            .all(|first| is_known(first) || follows(here, first))
}

/// Whether `first`, a transaction of MariaDB, is in `here` or the next of its domain.
fn follows(here: &Position, first: &str) -> bool {
    let Some((writer, number)) = first.rsplit_once('-') else {
        return false;
    };
    let previous = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_sub(1));
    match previous {
        None => false,
        Some(0) => true,
        Some(previous) => Position::parse(Dialect::MariaDb, &format!("{writer}-{previous}"))
            .is_ok_and(|previous| here.reaches(&previous)),
    }
}
