//! Database versions: which release a version string means, and whether it is one that Pontoon knows.

use pontoon_fleet::Engine;

/// Major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 10 in 10.11.6
    pub major: u32,
    /// 11 in 10.11.6
    pub minor: u32,
}

impl Release {
    /// Reads a server's version string. MariaDB before 11 puts `5.5.5-` before its own for the sake of old replicas
    /// (MariaDB Knowledge Base, "version strings").
    pub fn parse(version: &str) -> Option<Release> {
        let version = version.strip_prefix("5.5.5-").unwrap_or(version);
        let mut numbers = version.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Release { major, minor })
    }
}

/// MariaDB 10.6 to 11.8, MySQL 8.0 to 9.x. An external database is not asked.
pub fn is_supported(engine: Engine, release: Release) -> bool {
    let release = (release.major, release.minor);
    match engine {
        Engine::Mariadb => ((10, 6)..=(11, 8)).contains(&release),
        Engine::Mysql => ((8, 0)..(10, 0)).contains(&release),
        Engine::External => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_strings_of_the_wild() {
        for (engine, version, supported) in [
            (Engine::Mariadb, "10.11.6-MariaDB-0+deb12u1", true),
            (Engine::Mariadb, "5.5.5-10.6.12-MariaDB-log", true),
            (Engine::Mariadb, "11.8.3-MariaDB", true),
            (Engine::Mariadb, "10.5.23-MariaDB", false),
            (Engine::Mariadb, "12.0.2-MariaDB", false),
            (Engine::Mysql, "8.0.36-0ubuntu0.22.04.1", true),
            (Engine::Mysql, "9.7.0", true),
            (Engine::Mysql, "5.7.44-log", false),
        ] {
            assert_eq!(
                is_supported(engine, Release::parse(version).unwrap()),
                supported,
                "{version}"
            );
        }
        for bad in ["", "x", "10", "10.", ".6", "99999999999.1"] {
            assert_eq!(Release::parse(bad), None, "{bad:?}");
        }
    }
}
