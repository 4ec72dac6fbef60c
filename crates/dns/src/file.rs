//! Reads the zone file when it changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pontoon_zone::{Name, Zone, load};
use sha2::{Digest, Sha256};

/// A zone file and what became of it.
#[derive(Debug, Default)]
pub(crate) struct ZoneFile {
    place: Option<(PathBuf, String)>,
    /// The files that were read, and how they looked.
    seen: Vec<(PathBuf, Option<Looks>)>,
    /// The last good content, and the digest of its text.
    pub(crate) zone: Option<Zone>,
    pub(crate) digest: Option<String>,
    /// Why the file as it is now is not served.
    pub(crate) refused: Option<String>,
}

/// How a file looks from outside: when it looks the same it is the same.
type Looks = (SystemTime, u64, u64);

fn looks(path: &Path) -> Option<Looks> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

impl ZoneFile {
    /// Reads `file` as the zone `apex`, unless it is what it was; says whether anything is different now.
    pub(crate) fn look(&mut self, file: Option<&Path>, apex: &str) -> bool {
        let Some(file) = file else {
            let changed = self.place.is_some();
            *self = ZoneFile::default();
            return changed;
        };
        let place = Some((file.to_owned(), apex.to_owned()));
        if self.place != place {
            *self = ZoneFile {
                place,
                ..ZoneFile::default()
            };
        } else if self.seen.iter().all(|(path, before)| looks(path) == *before) {
            return false;
        }
        let mut reader = Reader {
            folder: file.parent().unwrap_or(Path::new("/")).to_owned(),
            seen: Vec::new(),
            digest: Sha256::new(),
        };
        let loaded = reader.load(file, apex);
        self.seen = reader.seen;
        match loaded {
            Ok(zone) => {
                let digest = reader.digest.finalize();
                self.digest = Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect());
                self.zone = Some(zone);
                self.refused = None;
            }
            Err(reason) => {
                tracing::error!(
                    reason,
                    "the zone file is refused; what was served before still is"
                );
                self.refused = Some(reason);
            }
        }
        true
    }
}

struct Reader {
    folder: PathBuf,
    seen: Vec<(PathBuf, Option<Looks>)>,
    digest: Sha256,
}

impl Reader {
    fn load(&mut self, file: &Path, apex: &str) -> Result<Zone, String> {
        let apex: Name = apex
            .parse()
            .map_err(|error: pontoon_zone::BadName| error.to_string())?;
        let text = self
            .read(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.display().to_string();
        load(&apex, &name, &text, &mut |path| {
            let path = self.folder.join(path);
            self.read(&path).map_err(|error| error.to_string())
        })
        .map_err(|error| error.to_string())
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        // Looked at before it is read: a change in between is seen the next time.
        self.seen.push((path.to_owned(), looks(path)));
        let text = fs::read(path)?;
        self.digest.update(&text);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "@ SOA ns h 1 2 3 4 5\n@ NS ns\n$INCLUDE more\n";

    #[test]
    fn a_bad_file_leaves_the_good_one_in_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zone");
        let mut file = ZoneFile::default();
        assert!(file.look(Some(&path), "example.com"));
        assert!(file.zone.is_none());
        assert!(file.refused.as_ref().unwrap().contains("No such file"));
        fs::write(&path, GOOD).unwrap();
        assert!(file.look(Some(&path), "example.com"));
        assert!(
            file.refused
                .as_ref()
                .unwrap()
                .contains("zone:3: $INCLUDE more: No such file")
        );
        fs::write(folder.path().join("more"), "a A 192.0.2.1\n").unwrap();
        assert!(file.look(Some(&path), "example.com"));
        assert_eq!(file.refused, None);
        let digest = file.digest.clone();
        assert!(digest.is_some());
        assert!(!file.look(Some(&path), "example.com"), "nothing changed");
        fs::write(folder.path().join("more"), "a A 192.0.2.1\nb A nonsense\n").unwrap();
        assert!(
            file.look(Some(&path), "example.com"),
            "a change in an included file"
        );
        assert!(
            file.refused.as_ref().unwrap().starts_with("more:2: A: "),
            "{:?}",
            file.refused
        );
        let name = "a.example.com".parse().unwrap();
        assert!(
            file.zone.as_ref().unwrap().has(&name),
            "the old zone is still there"
        );
        assert_eq!(file.digest, digest);
        assert!(file.look(None, "example.com"));
        assert!(file.zone.is_none() && file.refused.is_none());
    }
}
