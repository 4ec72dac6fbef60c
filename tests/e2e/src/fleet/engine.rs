//! Which database engine a fleet has.

use pontoon_testkit::{Bind, DatabaseOptions, LabDatabase, LabError, Mariadb, Mysql, Server, Skip};

/// An engine that the lab can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// MariaDB, as installed.
    Mariadb,
    /// MySQL, as `script/get-sid mysql` unpacked it.
    Mysql,
}

impl Engine {
    /// Whether it can be had here.
    ///
    /// # Errors
    /// What is missing.
    pub fn available(self) -> Result<(), Skip> {
        match self {
            Engine::Mariadb => Mariadb::available(),
            Engine::Mysql => Mysql::available(),
        }
    }

    /// What a server needs to see for it.
    ///
    /// # Errors
    /// What is missing.
    pub fn binds(self) -> Result<Vec<Bind>, Skip> {
        match self {
            Engine::Mariadb => Mariadb::binds(),
            Engine::Mysql => Ok(Vec::new()),
        }
    }

    /// Starts it on a server.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        self,
        server: &Server,
        options: &DatabaseOptions,
    ) -> Result<Box<dyn LabDatabase>, LabError> {
        Ok(match self {
            Engine::Mariadb => Box::new(Mariadb::start(server, options).await?),
            Engine::Mysql => Box::new(Mysql::start(server, options).await?),
        })
    }
}
