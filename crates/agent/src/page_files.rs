//! Whether the pages that a change would have this server's edge show are there.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pontoon_fleet::{Code, Refusal};

/// The most that an edge shows, as `pontoon_edge` has it.
const LARGEST: u64 = 256 * 1024;

/// Refuses pages of `wanted` that cannot be shown here. What is shown `now` already is for `status` to complain of: it must
/// not stand in the way of another change.
pub(crate) fn check(
    wanted: &BTreeMap<String, PathBuf>,
    now: Option<&BTreeMap<String, PathBuf>>,
) -> Result<(), Refusal> {
    let is_new = |file: &&PathBuf| now.is_none_or(|now| !now.values().any(|known| known == *file));
    let found = wanted.iter().filter(|(_, file)| is_new(file));
    let mut missing = found.filter_map(|(page, file)| Some((page, file, trouble(file)?)));
    let Some((page, file, why)) = missing.next() else {
        return Ok(());
    };
    let refusal = Refusal::new(
        Code::N023,
        format!("the page {} (edge.errors.{page}) cannot be shown", file.display()),
    );
    let refusal = refusal.because(why);
    let others: Vec<String> = missing
        .map(|(_, file, why)| format!("{}: {why}", file.display()))
        .collect();
    Err(match others.is_empty() {
        true => refusal,
        false => refusal.because(others.join("; ")),
    })
}

/// What is wrong with it, as far as this process can see: the edge runs as somebody else, so what may not be looked at is
/// not wrong yet.
fn trouble(file: &Path) -> Option<String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(error) => Some(error.to_string()),
        Ok(kind) if !kind.is_file() => Some("it is not a file".to_owned()),
        Ok(kind) if kind.len() == 0 => Some("it is empty".to_owned()),
        Ok(kind) if kind.len() > LARGEST => Some(format!("it has more than {} KiB", LARGEST / 1024)),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_not_there_are_named_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("good.html"), "<h1>").unwrap();
        std::fs::write(at("empty.html"), "").unwrap();
        std::fs::write(at("large.html"), vec![b'x'; LARGEST as usize + 1]).unwrap();
        std::fs::create_dir(at("folder.html")).unwrap();
        let pages = |names: &[(&str, &str)]| -> BTreeMap<String, PathBuf> {
            names
                .iter()
                .map(|(page, name)| ((*page).to_owned(), at(name)))
                .collect()
        };
        assert!(check(&pages(&[("503", "good.html")]), None).is_ok());
        for bad in ["gone.html", "empty.html", "large.html", "folder.html"] {
            let wanted = pages(&[("4xx", "good.html"), ("503", bad)]);
            let refusal = check(&wanted, None).unwrap_err().to_string();
            assert!(
                refusal.contains(bad) && refusal.contains("edge.errors.503"),
                "{refusal}"
            );
            assert!(
                check(&wanted, Some(&wanted)).is_ok(),
                "it is shown, or not, already"
            );
        }
        let both = pages(&[("4xx", "gone.html"), ("503", "empty.html")]);
        let refusal = check(&both, None).unwrap_err();
        let said = format!("{refusal:?}");
        assert!(
            said.contains("gone.html") && said.contains("empty.html"),
            "{said}"
        );
    }
}
