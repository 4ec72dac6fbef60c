//! Expected texts of tests, in `tests/snapshots`. `UPDATE_SNAPSHOTS=1 cargo test -p pontoon` writes them anew; look at
//! the difference before committing it.

use std::path::Path;

/// Compares `text` with the file `name`.
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, expected,
        "{name} differs; UPDATE_SNAPSHOTS=1 takes the new text over\n{text}"
    );
}
