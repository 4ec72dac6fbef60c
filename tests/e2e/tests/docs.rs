//! The documents: what they name exists, and they name what they must.
//!
//! `PONTOON_WRITE_DOCS=1 cargo test -p pontoon-e2e --test docs` writes the generated page anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report, in its helpers too"
)]

use pontoon_e2e::{documents, repository};

/// The file that decides which application server gets a request. Somebody who has read only README.md and
/// ARCHITECTURE.md must be able to name it.
const BALANCING: &str = "crates/balance/src/balancer.rs";

#[test]
fn what_the_documents_name_exists() {
    let mut missing = Vec::new();
    for (name, text) in pages() {
        for path in documents::named_paths(&text) {
            if !repository().join(&path).exists() {
                missing.push(format!("{name} names {path}, which is not there"));
            }
        }
    }
    assert!(missing.is_empty(), "\n  {}\n", missing.join("\n  "));
}

#[test]
fn a_newcomer_finds_the_file_that_chooses_the_server() {
    let decider = read(BALANCING);
    assert!(
        decider.contains("pub fn choose"),
        "{BALANCING} is not the file that chooses"
    );
    for page in ["README.md", "ARCHITECTURE.md"] {
        assert!(read(page).contains(BALANCING), "{page} does not name {BALANCING}");
    }
}

#[test]
fn the_page_of_codes_is_the_catalogue() {
    let path = repository().join("docs/codes.md");
    let wanted = documents::codes_page();
    if std::env::var_os("PONTOON_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == wanted,
        "docs/codes.md is not what crates/fleet/src/code.rs says; write it anew with PONTOON_WRITE_DOCS=1"
    );
}

#[test]
fn every_key_of_the_configuration_is_explained() {
    let keys = documents::schema_keys(&pontoon_config::schema());
    assert!(
        keys.iter().any(|key| key == "db.reads.max_lag"),
        "the schema was not read: {keys:?}"
    );
    let missing = documents::unexplained_keys(&read("docs/configuration.md"), &keys);
    assert!(
        missing.is_empty(),
        "docs/configuration.md does not explain {missing:?}"
    );
}

/// The documented examples are real: what stands between ```toml and ``` is a configuration.
#[test]
fn the_examples_are_configurations() {
    let page = read("docs/configuration.md");
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        if let Err(errors) = pontoon_config::Config::parse(example) {
            panic!("{example}\n{errors:?}");
        }
    }
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every document: those at the top and those in docs/, with their names.
fn pages() -> Vec<(String, String)> {
    let mut names = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(str::to_owned)
        .to_vec();
    for folder in ["docs", "packaging"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy());
            if name.ends_with(".md") {
                names.push(name);
            }
        }
    }
    names
        .into_iter()
        .map(|name| (name.clone(), read(&name)))
        .collect()
}
