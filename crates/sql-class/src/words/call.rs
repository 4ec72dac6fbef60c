//! What a parenthesis after a word means.

use crate::{Engine, Previous, Reason, Version};

/// What a parenthesis after a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Unless the grammar says otherwise, a call of a function that nobody here knows.
    Unknown,
    /// No call: a keyword, an operator or a type.
    Grammar,
    /// A built-in function that reads, or computes.
    Pure,
    /// A built-in function for the primary.
    Refused(Reason),
    /// It takes a named lock.
    TakesLock,
    /// It releases named locks.
    ReleasesLock,
    /// It asks about the statement before.
    Previous(Previous),
    /// It asks for the connection's id.
    ConnectionId,
}

/// Words with the same meaning before a parenthesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Callable {
    pub(crate) names: &'static [&'static str],
    pub(crate) call: Call,
    /// The versions of MySQL that have it: from, and until before.
    pub(super) mysql: (u32, u32),
    /// The versions of MariaDB that have it.
    pub(super) mariadb: (u32, u32),
    /// Without `IGNORE_SPACE` the parenthesis has to follow directly; otherwise the word is a name, and may be that
    /// of a stored function.
    pub(super) touching: (bool, bool),
}

pub(super) const ALWAYS: (u32, u32) = (0, u32::MAX);
pub(super) const NEVER: (u32, u32) = (u32::MAX, u32::MAX);

impl Callable {
    /// Whether this version of the engine has it built in.
    #[inline]
    pub(crate) fn exists(&self, engine: Engine, version: Version) -> bool {
        let (from, until) = match engine {
            Engine::MySql => self.mysql,
            Engine::MariaDb => self.mariadb,
        };
        from <= version.0 && version.0 < until
    }

    /// Whether the parenthesis has to follow directly.
    #[inline]
    pub(crate) fn touching(&self, engine: Engine) -> bool {
        match engine {
            Engine::MySql => self.touching.0,
            Engine::MariaDb => self.touching.1,
        }
    }

    pub(super) const fn of(call: Call, names: &'static [&'static str]) -> Callable {
        Callable {
            names,
            call,
            mysql: ALWAYS,
            mariadb: ALWAYS,
            touching: (false, false),
        }
    }

    pub(super) const fn mysql(mut self, from: u32) -> Callable {
        self.mysql = (from, u32::MAX);
        self.mariadb = NEVER;
        self
    }

    pub(super) const fn mariadb(mut self, from: u32) -> Callable {
        self.mariadb = (from, u32::MAX);
        self.mysql = NEVER;
        self
    }

    pub(super) const fn since(mut self, mysql: u32, mariadb: u32) -> Callable {
        self.mysql = (mysql, u32::MAX);
        self.mariadb = (mariadb, u32::MAX);
        self
    }

    pub(super) const fn touch(mut self, mysql: bool, mariadb: bool) -> Callable {
        self.touching = (mysql, mariadb);
        self
    }
}
