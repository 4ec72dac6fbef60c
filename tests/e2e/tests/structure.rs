//! The shape of the workspace: layers, lengths, heads, `unsafe`. Each rule is a function of `pontoon_e2e`, tested
//! there with made-up input; here they meet the repository.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};
use pontoon_e2e::layers::{Kind, LAYERS, Layer, Package, violations};
use pontoon_e2e::{repository, source};

#[test]
fn dependencies_point_down_and_no_tier_imports_a_tier() {
    let metadata = MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .no_deps()
        .other_options(["--locked".to_owned(), "--offline".to_owned()])
        .exec()
        .unwrap();
    let packages: Vec<Package> = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| Package {
            name: package.name.to_string(),
            dependencies: package
                .dependencies
                .iter()
                .map(|dependency| match dependency.kind {
                    DependencyKind::Development => (dependency.name.clone(), Kind::Tests),
                    _ => (dependency.name.clone(), Kind::Normal),
                })
                .collect(),
        })
        .collect();
    assert!(packages.len() > 10, "the metadata was not read");
    none(violations(&packages, LAYERS));
}

#[test]
fn no_file_is_too_long() {
    let files = sources();
    assert!(files.len() > 20, "the sources were not found");
    for (path, text) in &files {
        if let Some(line) = source::long(path, text) {
            println!("warning: {line}");
        }
    }
    none(
        files
            .iter()
            .filter_map(|(path, text)| source::too_long(path, text)),
    );
}

#[test]
fn every_crate_says_what_it_is_and_takes_the_workspace_lints() {
    let mut found = Vec::new();
    for member in members() {
        let folder = repository().join(&member);
        let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let inherits = manifest
            .get("lints")
            .and_then(|l| l.get("workspace"))
            .and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            found.push(format!("{member}/Cargo.toml: has no `[lints] workspace = true`"));
        }
        if manifest["package"]
            .get("description")
            .and_then(toml::Value::as_str)
            .unwrap_or("")
            .is_empty()
        {
            found.push(format!("{member}/Cargo.toml: has no description"));
        }
        for root in ["src/lib.rs", "src/main.rs"] {
            if let Ok(text) = std::fs::read_to_string(folder.join(root)) {
                found.extend(source::unexplained(&format!("{member}/{root}"), &text));
            }
        }
    }
    none(found);
}

#[test]
fn unsafe_stands_only_in_crates_sys() {
    none(
        sources()
            .iter()
            .flat_map(|(path, text)| source::unsafe_code(path, text)),
    );
}

#[test]
fn pure_crates_read_no_clock_file_or_socket() {
    let pure: Vec<String> = LAYERS
        .iter()
        .filter(|(_, layer)| *layer == Layer::Pure)
        .map(|(name, _)| format!("crates/{}/src/", name.trim_start_matches("pontoon-")))
        .collect();
    for folder in &pure {
        assert!(repository().join(folder).is_dir(), "{folder} is not there");
    }
    none(
        sources()
            .iter()
            .filter(|(path, _)| pure.iter().any(|folder| path.starts_with(folder.as_str())))
            .filter(|(path, _)| !path.ends_with("tests.rs") && !path.contains("/tests/"))
            .flat_map(|(path, text)| source::impure(path, text)),
    );
}

fn none(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
}

/// Folders of the workspace's crates, relative to the top.
fn members() -> Vec<String> {
    let mut members: Vec<String> = std::fs::read_dir(repository().join("crates"))
        .unwrap()
        .map(|entry| format!("crates/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|member| repository().join(member).join("Cargo.toml").is_file())
        .collect();
    members.extend(["tests/e2e", "tests/sql"].map(str::to_owned));
    members.sort();
    members
}

/// Every Rust source of the repository: its path relative to the top, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for top in ["crates", "tests", "fuzz", "benches", "demo"] {
        walk(&repository().join(top), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(repository()).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}
