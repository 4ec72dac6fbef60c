//! Which crate may import which: dependencies point down only, and a tier never imports a tier.

use std::collections::BTreeMap;

/// Where a crate stands. The order is the direction of dependencies: later ones may import earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// 0: no I/O, no clock, no threads; time and randomness are arguments.
    Pure,
    /// 1: sockets, files, clocks, certificates, processes.
    Runtime,
    /// 2: what carries or keeps data. Tiers never import each other: they share the view that they are given.
    Tier,
    /// 3: what decides and tells the tiers.
    Control,
    /// 4: the command line and the wiring.
    Program,
    /// Real servers, namespaces, faults. Beside the layers: see [`TEST_KIT`].
    Testing,
}

/// Every crate of the workspace and its layer: the table of ARCHITECTURE.md. A new crate must be added here.
pub const LAYERS: &[(&str, Layer)] = &[
    ("pontoon-balance", Layer::Pure),
    ("pontoon-capacity", Layer::Pure),
    ("pontoon-config", Layer::Pure),
    ("pontoon-decide", Layer::Pure),
    ("pontoon-fleet", Layer::Pure),
    ("pontoon-gtid", Layer::Pure),
    ("pontoon-mirror", Layer::Pure),
    ("pontoon-memcache-wire", Layer::Pure),
    ("pontoon-mysql-wire", Layer::Pure),
    ("pontoon-sql-class", Layer::Pure),
    ("pontoon-zone", Layer::Pure),
    ("pontoon-acme", Layer::Runtime),
    ("pontoon-certs", Layer::Runtime),
    ("pontoon-helper", Layer::Runtime),
    ("pontoon-lease", Layer::Runtime),
    ("pontoon-pki", Layer::Runtime),
    ("pontoon-provider", Layer::Runtime),
    ("pontoon-rt", Layer::Runtime),
    ("pontoon-sys", Layer::Runtime),
    ("pontoon-telemetry", Layer::Runtime),
    ("pontoon-assets", Layer::Tier),
    ("pontoon-backup", Layer::Tier),
    ("pontoon-dns", Layer::Tier),
    ("pontoon-cacheproxy", Layer::Tier),
    ("pontoon-address", Layer::Tier),
    ("pontoon-edge", Layer::Tier),
    ("pontoon-measure", Layer::Tier),
    ("pontoon-replication", Layer::Tier),
    ("pontoon-sqlproxy", Layer::Tier),
    ("pontoon-agent", Layer::Control),
    ("pontoon", Layer::Program),
    ("pontoon-testkit", Layer::Testing),
    ("pontoon-e2e", Layer::Testing),
    ("pontoon-sql-tests", Layer::Testing),
    ("pontoon-benches", Layer::Testing),
];

/// The one crate that everybody may use in tests, and that the program uses for its demo: it makes the servers.
/// In return it may import the pure and the runtime layer only, so that no tier depends on itself through it.
pub const TEST_KIT: &str = "pontoon-testkit";

/// What a pure crate may not import from outside: it could do I/O, read a clock or roll dice with it.
const NOT_PURE: &[&str] = &[
    "getrandom",
    "hyper",
    "hyper-util",
    "mio",
    "mysql_async",
    "nix",
    "rand",
    "rtnetlink",
    "rustix",
    "rustls",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-rustls",
    "tokio-util",
];

/// What kind of dependency it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compiled into the crate, or into its build script.
    Normal,
    /// For its tests only.
    Tests,
}

/// A crate of the workspace and what it imports.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Names of what it depends on, of the workspace and from outside.
    pub dependencies: Vec<(String, Kind)>,
}

/// The violations of the rules above, one line each; none when all is well.
pub fn violations(packages: &[Package], layers: &[(&str, Layer)]) -> Vec<String> {
    let layer_of: BTreeMap<&str, Layer> = layers.iter().copied().collect();
    let mut found = Vec::new();
    for package in packages {
        let Some(&own) = layer_of.get(package.name.as_str()) else {
            found.push(format!(
                "{} is not in the table of layers: tests/e2e/src/layers.rs",
                package.name
            ));
            continue;
        };
        for (dependency, kind) in &package.dependencies {
            let Some(&other) = layer_of.get(dependency.as_str()) else {
                if own == Layer::Pure && *kind == Kind::Normal && NOT_PURE.contains(&dependency.as_str()) {
                    found.push(format!("{} is pure and imports {dependency}", package.name));
                }
                continue;
            };
            if let Some(rule) = broken_rule(package.name.as_str(), own, dependency, other, *kind) {
                found.push(format!(
                    "{} ({own:?}) imports {dependency} ({other:?}): {rule}",
                    package.name
                ));
            }
        }
    }
    let named = |name: &str| packages.iter().any(|package| package.name == name);
    found.extend(layers.iter().filter(|(name, _)| !named(name)).map(|(name, _)| {
        format!("{name} is in the table of layers and not in the workspace: tests/e2e/src/layers.rs")
    }));
    found
}

fn broken_rule(name: &str, own: Layer, dependency: &str, other: Layer, kind: Kind) -> Option<&'static str> {
    if name == TEST_KIT {
        return (other > Layer::Runtime)
            .then_some("the test kit stands on the pure and the runtime layer only");
    }
    match (own, other) {
        (Layer::Testing, _) => None,
        (_, Layer::Testing) if dependency != TEST_KIT => Some("nothing imports tests"),
        (Layer::Program, Layer::Testing) => None,
        (_, Layer::Testing) if kind == Kind::Tests => None,
        (_, Layer::Testing) => Some("the test kit belongs under [dev-dependencies]"),
        (Layer::Tier, Layer::Tier) => Some("a tier never imports a tier"),
        _ if other > own => Some("dependencies point down only"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&str, Layer)] = &[
        ("fleet", Layer::Pure),
        ("rt", Layer::Runtime),
        ("edge", Layer::Tier),
        ("sql", Layer::Tier),
        ("agent", Layer::Control),
        ("program", Layer::Program),
        (TEST_KIT, Layer::Testing),
        ("e2e", Layer::Testing),
    ];

    /// The workspace of `TABLE` where `name` has one more dependency.
    fn with(name: &str, dependency: &str, kind: Kind) -> Vec<String> {
        let packages: Vec<Package> = TABLE
            .iter()
            .map(|(package, _)| Package {
                name: package.to_string(),
                dependencies: match *package == name {
                    true => vec![(dependency.to_owned(), kind)],
                    false => Vec::new(),
                },
            })
            .collect();
        violations(&packages, TABLE)
    }

    #[test]
    fn downward_is_allowed() {
        for (name, dependency) in [
            ("rt", "fleet"),
            ("edge", "rt"),
            ("agent", "edge"),
            ("program", "agent"),
            ("edge", "tokio"),
            ("e2e", "agent"),
        ] {
            assert_eq!(
                with(name, dependency, Kind::Normal),
                Vec::<String>::new(),
                "{name} → {dependency}"
            );
        }
    }

    #[test]
    fn upward_and_sideways_between_tiers_is_not() {
        for (name, dependency) in [
            ("fleet", "rt"),
            ("rt", "edge"),
            ("edge", "agent"),
            ("edge", "sql"),
            ("agent", "program"),
        ] {
            for kind in [Kind::Normal, Kind::Tests] {
                assert_eq!(with(name, dependency, kind).len(), 1, "{name} → {dependency}");
            }
        }
    }

    #[test]
    fn a_pure_crate_does_no_io_outside_its_tests() {
        assert_eq!(
            with("fleet", "tokio", Kind::Normal),
            ["fleet is pure and imports tokio"]
        );
        assert!(with("fleet", "tempfile", Kind::Tests).is_empty());
        assert!(with("fleet", "serde", Kind::Normal).is_empty());
    }

    #[test]
    fn the_test_kit_is_for_tests_and_for_the_demo() {
        assert!(with("edge", TEST_KIT, Kind::Tests).is_empty());
        assert!(with("program", TEST_KIT, Kind::Normal).is_empty());
        assert_eq!(with("edge", TEST_KIT, Kind::Normal).len(), 1);
        assert_eq!(with("edge", "e2e", Kind::Tests).len(), 1);
        assert!(with(TEST_KIT, "rt", Kind::Normal).is_empty());
        assert_eq!(with(TEST_KIT, "edge", Kind::Normal).len(), 1);
    }

    #[test]
    fn the_table_and_the_workspace_must_agree() {
        let stranger = Package {
            name: "stranger".to_owned(),
            dependencies: Vec::new(),
        };
        let found = violations(&[stranger], &[("gone", Layer::Pure)]);
        assert!(found[0].starts_with("stranger is not in the table"), "{found:?}");
        assert!(found[1].starts_with("gone is in the table"), "{found:?}");
    }
}
