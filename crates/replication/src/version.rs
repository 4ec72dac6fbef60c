//! Versions of database servers: which are supported, which may follow which.

use std::fmt;

use pontoon_fleet::{Code, Engine, Refusal};

/// A server's version, such as 10.11.19.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 10 of 10.11.19.
    pub major: u32,
    /// 11 of 10.11.19.
    pub minor: u32,
    /// 19 of 10.11.19.
    pub patch: u32,
}

impl Version {
    /// Finds the version in a text such as `10.11.19-MariaDB-0+deb12u1` or `8.0.36`.
    pub fn parse(text: &str) -> Option<Version> {
        // A MariaDB that pretends to be an old MySQL for old clients: `5.5.5-10.6.1-MariaDB`.
        let text = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut numbers = text
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?
            .split('.');
        let mut next = || numbers.next()?.parse().ok();
        Some(Version {
            major: next()?,
            minor: next()?,
            patch: next().unwrap_or(0),
        })
    }

    /// Reads what `--version` prints: the engine and its version.
    pub fn of_banner(banner: &str) -> Option<(Engine, Version)> {
        let (_, rest) = banner.split_once("Ver ")?;
        let engine = if banner.contains("MariaDB") {
            Engine::Mariadb
        } else {
            Engine::Mysql
        };
        Some((engine, Version::parse(rest.trim_start())?))
    }

    /// Refuses what was never tested.
    ///
    /// # Errors
    /// [`Code::D001`].
    pub fn check_supported(self, engine: Engine) -> Result<(), Refusal> {
        let at = |major, minor, patch| Version { major, minor, patch };
        let (from, below, says) = match engine {
            Engine::Mariadb => (at(10, 6, 0), at(12, 0, 0), "MariaDB 10.6 to 11.8"),
            // Replication speaks of sources and replicas in statements and settings alike since 8.0.26.
            Engine::Mysql => (at(8, 0, 26), at(10, 0, 0), "MySQL 8.0.26 to 9.x"),
            Engine::External => return Ok(()),
        };
        if self >= from && self < below {
            return Ok(());
        }
        Err(
            Refusal::new(Code::D001, format!("{engine} {self} is not supported"))
                .because(format!("supported: {says}"))
                .next(
                    "leave the database alone and put only the proxies in front of it",
                    "engine = \"external\" in [db]",
                ),
        )
    }

    /// Refuses a replica that could not read its source's files. A copy is made of files, so the release series must
    /// be one; inside it the replica may be newer, not older.
    ///
    /// # Errors
    /// [`Code::D002`].
    pub fn check_may_follow(self, engine: Engine, source: (Engine, Version)) -> Result<(), Refusal> {
        let (source_engine, source_version) = source;
        let refusal = |why: &str| self.no_replica(engine, source, why);
        if engine != source_engine {
            return Err(refusal(
                "they are two engines: their files and their GTIDs differ",
            ));
        }
        if (self.major, self.minor) != (source_version.major, source_version.minor) {
            return Err(refusal(
                "the copy is made of files, and another release series reads them differently",
            ));
        }
        if self < source_version {
            return Err(refusal("a replica may be newer than its source, not older"));
        }
        Ok(())
    }

    /// Refuses a replica that a dump does not make one of. A dump goes to another release series; the binary log does
    /// as far as its vendor says: to a newer one, with MySQL to the next one only (MySQL manual, «Replication
    /// Compatibility Between MySQL Versions»).
    ///
    /// # Errors
    /// [`Code::D002`].
    pub fn check_may_load(self, engine: Engine, source: (Engine, Version)) -> Result<(), Refusal> {
        let (source_engine, source_version) = source;
        let refusal = |why: &str| self.no_replica(engine, source, why);
        if engine != source_engine {
            return Err(refusal(
                "they are two engines: their statements and their GTIDs differ",
            ));
        }
        if self < source_version {
            return Err(refusal("a replica may be newer than its source, not older"));
        }
        let is_mysql = engine == Engine::Mysql;
        if is_mysql && self.major > 8 && (source_version.major, source_version.minor) < (8, 4) {
            return Err(refusal(
                "MySQL replicates from 8.0 to 8.4 and from 8.4 to 9, not past a series",
            ));
        }
        Ok(())
    }

    fn no_replica(self, engine: Engine, source: (Engine, Version), why: &str) -> Refusal {
        let (source_engine, source_version) = source;
        Refusal::new(
            Code::D002,
            format!("{engine} {self} cannot be a replica of {source_engine} {source_version}"),
        )
        .because(why)
        .next(
            format!(
                "install {source_engine} {}.{} here",
                source_version.major, source_version.minor
            ),
            format!("apt-get install {source_engine}-server"),
        )
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn banners_are_read() {
        for (banner, engine, text) in [
            (
                "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)",
                Engine::Mariadb,
                "10.11.19",
            ),
            (
                "/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))",
                Engine::Mysql,
                "9.7.4",
            ),
        ] {
            assert_eq!(Version::of_banner(banner), Some((engine, version(text))));
        }
        for nonsense in ["", "Ver ", "Ver x.y", "mysqld Ver 99999999999.1"] {
            assert_eq!(Version::of_banner(nonsense), None, "{nonsense}");
        }
        assert_eq!(version("5.5.5-10.6.1-MariaDB"), version("10.6.1"));
    }

    #[test]
    fn supported_is_what_was_tested() {
        for (engine, good, bad) in [
            (
                Engine::Mariadb,
                &["10.6.0", "10.11.19", "11.4.2", "11.8.1"][..],
                &["10.5.29", "12.0.1", "5.5.68"][..],
            ),
            (
                Engine::Mysql,
                &["8.0.26", "8.4.0", "9.7.4"],
                &["5.7.44", "8.0.25", "10.0.0"],
            ),
        ] {
            for text in good {
                version(text).check_supported(engine).unwrap();
            }
            for text in bad {
                assert_eq!(
                    version(text).check_supported(engine).unwrap_err().code,
                    Code::D001,
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_dump_goes_to_a_newer_series_and_not_back_or_past_one() {
        for (engine, source, replica, may) in [
            (Engine::Mariadb, "10.6.1", "11.8.1", true),
            (Engine::Mariadb, "10.11.10", "10.11.10", true),
            (Engine::Mariadb, "10.11.10", "10.11.9", false),
            (Engine::Mariadb, "11.4.1", "10.11.10", false),
            (Engine::Mysql, "8.0.36", "8.4.0", true),
            (Engine::Mysql, "8.4.0", "9.7.4", true),
            (Engine::Mysql, "8.0.36", "9.7.4", false),
            (Engine::Mysql, "9.7.4", "8.4.0", false),
        ] {
            let checked = version(replica).check_may_load(engine, (engine, version(source)));
            assert_eq!(checked.is_ok(), may, "{source} to {replica}: {checked:?}");
        }
        let other = version("9.7.4").check_may_load(Engine::Mysql, (Engine::Mariadb, version("9.7.4")));
        assert_eq!(other.unwrap_err().code, Code::D002);
    }

    #[test]
    fn a_replica_is_of_the_same_series_and_not_older() {
        let source = (Engine::Mariadb, version("10.11.10"));
        for good in ["10.11.10", "10.11.19"] {
            version(good).check_may_follow(Engine::Mariadb, source).unwrap();
        }
        for (engine, bad) in [
            (Engine::Mariadb, "10.11.9"),
            (Engine::Mariadb, "11.4.2"),
            (Engine::Mariadb, "10.6.20"),
            (Engine::Mysql, "10.11.10"),
        ] {
            assert_eq!(
                version(bad).check_may_follow(engine, source).unwrap_err().code,
                Code::D002,
                "{bad}"
            );
        }
    }
}
