//! What a failed demo leaves behind: logs and every failed request. The lab's own folder is removed with the lab.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use pontoon_testkit::{LoadReport, base_folder};

/// Copies what helps to find out into a folder that stays.
///
/// # Errors
/// When the folder cannot be made; a single file that cannot be copied is left out.
pub fn keep(workdir: &Path, load: Option<&LoadReport>) -> std::io::Result<PathBuf> {
    let name = workdir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let kept = base_folder().join(name.replace("pontoon-lab-", "pontoon-demo-logs-"));
    fs::create_dir_all(&kept)?;
    for server in ["a", "b"] {
        // Keys and data stay where they are, and go with the lab.
        for (from, to) in [
            ("var-log", "log"),
            ("var-lib/pontoon/log", "pontoon"),
            ("etc/pontoon", "etc"),
        ] {
            copy_files(&workdir.join(server).join(from), &kept.join(server).join(to));
        }
        for file in ["events.jsonl", "view.json"] {
            let _ = fs::copy(
                workdir.join(server).join("var-lib/pontoon").join(file),
                kept.join(server).join(file),
            );
        }
    }
    if let Some(load) = load {
        let mut file = fs::File::create(kept.join("failed-requests.jsonl"))?;
        for record in load.records.iter().filter(|record| record.failure.is_some()) {
            writeln!(file, "{}", serde_json::to_string(record)?)?;
        }
    }
    Ok(kept)
}

/// The files of a folder, not the folders in it.
fn copy_files(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    let _ = fs::create_dir_all(to);
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
    {
        if let Some(name) = path.file_name() {
            let _ = fs::copy(&path, to.join(name));
        }
    }
}
