//! Other people's programs before the same databases, with one thread each.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pontoon_sql_tests::servers::Pair;
use pontoon_testkit::{LabError, Skip, free_port};
use tokio::process::Command;

use crate::stand::{Cores, Proxy, start};

/// A program that `script/get-…` has unpacked below `.cache`.
fn unpacked(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache").join(path);
    path.is_file().then_some(path)
}

/// HAProxy in TCP mode before the primary: the one of `.cache/haproxy`, or an installed one.
///
/// # Errors
/// [`LabError::Skip`] when there is none.
pub async fn haproxy(pair: &Pair, dir: &Path, cores: &Cores) -> Result<Proxy, LabError> {
    let program = unpacked("haproxy/bin/haproxy").or_else(|| pontoon_testkit::find_program("haproxy"));
    let program =
        program.ok_or_else(|| Skip("HAProxy is not here: script/get-haproxy fetches it".to_owned()))?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = format!(
        "global\n maxconn 4000\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n \
         timeout server 1h\nlisten sql\n bind {address}\n server db 127.0.0.1:{}\n",
        pair.primary.port()
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).map_err(LabError::io("haproxy.cfg"))?;
    let arguments = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    let log = dir.join("haproxy.log");
    start("haproxy", &program, &arguments, &log, address, &cores.proxy).await
}

/// The cluster as MySQL Router knows it: by a number of its own.
const CLUSTER: &str = "00000000-0000-0000-0000-0000000be4c4";

/// The tables that MySQL Router reads to find an InnoDB ReplicaSet, with the columns that it asks for. MySQL Shell
/// would make views of that name.
const METADATA: &[&str] = &[
    "CREATE USER router@'127.0.0.1' IDENTIFIED BY 'router'",
    "GRANT ALL ON *.* TO router@'127.0.0.1'",
    "CREATE DATABASE mysql_innodb_cluster_metadata",
    "CREATE TABLE mysql_innodb_cluster_metadata.schema_version (major INT, minor INT, patch INT)",
    "INSERT INTO mysql_innodb_cluster_metadata.schema_version VALUES (2, 1, 0)",
    "CREATE TABLE mysql_innodb_cluster_metadata.v2_instances (instance_id INT PRIMARY KEY, cluster_id CHAR(36), \
     label VARCHAR(64), mysql_server_uuid CHAR(36), address VARCHAR(64), endpoint VARCHAR(64), xendpoint VARCHAR(64), \
     attributes JSON)",
    "CREATE TABLE mysql_innodb_cluster_metadata.v2_ar_clusters (view_id INT, cluster_type VARCHAR(8), \
     primary_mode VARCHAR(8), async_topology_type VARCHAR(32), cluster_id CHAR(36), cluster_name VARCHAR(64), \
     attributes JSON, options JSON, router_options JSON, description TEXT, clusterset_id CHAR(36))",
    "CREATE TABLE mysql_innodb_cluster_metadata.v2_ar_members (view_id INT, cluster_id CHAR(36), instance_id INT, \
     label VARCHAR(64), member_id CHAR(36), member_role VARCHAR(16), master_instance_id INT, master_member_id CHAR(36))",
    "CREATE TABLE mysql_innodb_cluster_metadata.v2_this_instance (cluster_id CHAR(36), instance_id INT, \
     cluster_name VARCHAR(64), cluster_type VARCHAR(8))",
    "CREATE TABLE mysql_innodb_cluster_metadata.v2_routers (router_id INT PRIMARY KEY, cluster_id CHAR(36), \
     router_name VARCHAR(64), product_name VARCHAR(64), address VARCHAR(64), version VARCHAR(12), \
     last_check_in TIMESTAMP NULL, attributes JSON, options JSON, clusterset_id CHAR(36))",
    "CREATE TABLE mysql_innodb_cluster_metadata.routers LIKE mysql_innodb_cluster_metadata.v2_routers",
];

/// MySQL Router with read/write splitting before the databases.
///
/// # Errors
/// [`LabError::Skip`] when there is none.
pub async fn router(pair: &mut Pair, dir: &Path, cores: &Cores) -> Result<Proxy, LabError> {
    let missing = || Skip("MySQL Router is not here: script/get-sid router fetches it".to_owned());
    let program = unpacked("router/bin/mysqlrouter").ok_or_else(missing)?;
    let keyring_tool = unpacked("router/bin/mysqlrouter_keyring").ok_or_else(missing)?;
    let plugins = unpacked("router/root/usr/lib/mysqlrouter/plugin/routing.so").ok_or_else(missing)?;
    let home = dir.join("router");
    std::fs::create_dir_all(&home).map_err(LabError::io("folder"))?;
    describe(pair).await?;
    let (keyring, master) = (home.join("keyring"), home.join("master.key"));
    let master = format!("--master-key-file={}", master.display());
    for words in [&["init"][..], &["set", "router", "password", "router"]] {
        let [command, rest @ ..] = words else { continue };
        let mut tool = Command::new(&keyring_tool);
        tool.arg(command).arg(&keyring).arg(&master).args(rest);
        let done = tool.stdout(Stdio::null()).status().await;
        if !done.map_err(LabError::io("mysqlrouter_keyring"))?.success() {
            return Err(LabError::Unknown("mysqlrouter_keyring failed".to_owned()));
        }
    }
    let (certificate, key) = certificate().map_err(|error| LabError::Unknown(error.to_string()))?;
    std::fs::write(home.join("cert.pem"), certificate).map_err(LabError::io("cert.pem"))?;
    std::fs::write(home.join("key.pem"), key).map_err(LabError::io("key.pem"))?;
    let servers: Vec<String> = pair
        .servers()
        .map(|server| format!("\"mysql://127.0.0.1:{}\"", server.port()))
        .collect();
    let state = format!(
        "{{\"metadata-cache\":{{\"group-replication-id\":\"{CLUSTER}\",\"cluster-metadata-servers\":[{}],\
         \"view-id\":1}},\"version\":\"1.1.0\"}}",
        servers.join(",")
    );
    std::fs::write(home.join("state.json"), state).map_err(LabError::io("state.json"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = home.join("router.conf");
    let plugins = plugins.parent().unwrap_or(&plugins);
    std::fs::write(&config, settings(&home, plugins, address)).map_err(LabError::io("router.conf"))?;
    let arguments = ["-c".to_owned(), config.display().to_string()];
    let log = home.join("out.log");
    start("mysql router", &program, &arguments, &log, address, &cores.proxy).await
}

/// An RSA certificate and its key: with another, caching_sha2_password's clients get no public key from MySQL Router.
fn certificate() -> Result<(String, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    let certificate = rcgen::CertificateParams::new(vec!["router".to_owned()])?.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Tells MySQL Router which servers there are. No TLS: neither proxy's clients use it here.
async fn describe(pair: &mut Pair) -> Result<(), LabError> {
    for statement in METADATA {
        pair.on_primary(statement).await?;
    }
    let schema = "mysql_innodb_cluster_metadata";
    let ports: Vec<u16> = pair.servers().map(|server| server.port()).collect();
    let mut rows = vec![
        format!(
            "INSERT INTO {schema}.v2_ar_clusters VALUES (1, 'ar', 'pm', 'SINGLE-PRIMARY-TREE', '{CLUSTER}', 'bench', \
             '{{}}', '{{}}', '{{}}', '', NULL)"
        ),
        format!("INSERT INTO {schema}.v2_this_instance VALUES ('{CLUSTER}', 1, 'bench', 'ar')"),
    ];
    for table in ["v2_routers", "routers"] {
        rows.push(format!(
            "INSERT INTO {schema}.{table} VALUES (1, '{CLUSTER}', 'bench', 'MySQL Router', '127.0.0.1', '9.7.0', \
             NOW(), '{{}}', '{{}}', NULL)"
        ));
    }
    let ids = pair.server_uuids().await?;
    for (index, (id, port)) in ids.iter().zip(ports).enumerate() {
        let number = index + 1;
        let (role, source) = match index {
            0 => ("PRIMARY", "NULL, NULL".to_owned()),
            _ => ("SECONDARY", format!("1, '{}'", ids[0])),
        };
        rows.push(format!(
            "INSERT INTO {schema}.v2_instances VALUES ({number}, '{CLUSTER}', 's{number}', '{id}', '127.0.0.1:{port}', \
             '127.0.0.1:{port}', NULL, '{{}}')"
        ));
        rows.push(format!(
            "INSERT INTO {schema}.v2_ar_members VALUES (1, '{CLUSTER}', {number}, 's{number}', '{id}', '{role}', {source})"
        ));
    }
    for row in rows {
        pair.on_primary(&row).await?;
    }
    pair.caught_up().await
}

fn settings(home: &Path, plugins: &Path, address: SocketAddr) -> String {
    let mut text = String::from("[DEFAULT]\nname=bench\nmax_total_connections=12000\n");
    for (key, value) in [
        ("plugin_folder", plugins.to_owned()),
        ("logging_folder", home.to_owned()),
        ("runtime_folder", home.to_owned()),
        ("data_folder", home.to_owned()),
        ("keyring_path", home.join("keyring")),
        ("master_key_path", home.join("master.key")),
        ("dynamic_state", home.join("state.json")),
        ("client_ssl_cert", home.join("cert.pem")),
        ("client_ssl_key", home.join("key.pem")),
    ] {
        let _ = writeln!(text, "{key}={}", value.display());
    }
    let _ = write!(
        text,
        "[logger]\nlevel=WARNING\n[io]\nthreads=1\n[metadata_cache:bench]\ncluster_type=rs\nrouter_id=1\nuser=router\n\
         metadata_cluster=bench\nttl=5\n[connection_pool]\nmax_idle_server_connections=64\n[routing:split]\n\
         bind_address={}\nbind_port={}\ndestinations=metadata-cache://bench/?role=PRIMARY_AND_SECONDARY\n\
         routing_strategy=round-robin\nprotocol=classic\nconnection_sharing=1\nclient_ssl_mode=PREFERRED\n\
         server_ssl_mode=PREFERRED\naccess_mode=auto\n",
        address.ip(),
        address.port()
    );
    text
}
