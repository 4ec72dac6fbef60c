//! A database on paper, for unit tests.

use std::path::Path;

use pontoon_fleet::Engine;

use crate::node::{DatabaseNode, Run};

/// One that is run as a process, with its files in `dir`.
pub(crate) fn process_node(dir: &Path, argv: &[&str]) -> DatabaseNode {
    DatabaseNode {
        engine: Engine::Mariadb,
        version: "10.11.19".to_owned(),
        program: vec!["/usr/sbin/mariadbd".to_owned()],
        user: "root".to_owned(),
        datadir: dir.join("data"),
        socket: dir.join("mysqld.sock"),
        port: 3306,
        server_id: 7,
        own_log_bin: false,
        follows: None,
        files: dir.join("data.pontoon"),
        run: Run::Process {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            log: dir.join("log"),
        },
    }
}
