//! Programs in other languages: what they print directly and through the proxy is the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

mod behind;
#[path = "../../../crates/sqlproxy/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use behind::Behind;
use pontoon_sql_tests::client::Road;
use pontoon_sql_tests::play::Stage;
use pontoon_sql_tests::servers::Engine;
use pontoon_testkit::find_program;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn mariadb() {
    compare_all(Engine::Mariadb).await;
}

#[tokio::test]
async fn mysql() {
    compare_all(Engine::Mysql).await;
}

/// A program: how it is started, and what it gets on its standard input.
struct Program {
    name: &'static str,
    /// What must be there; said when it is not.
    needs: PathBuf,
    command: Vec<String>,
    /// Whether it takes `HOST PORT SOCKET` as its last arguments; otherwise options of the command-line clients.
    positional: bool,
    input: Option<String>,
}

async fn compare_all(engine: Engine) {
    let Some(mut behind) = Behind::start(engine).await else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut differ = Vec::new();
    for program in programs(scratch.path()) {
        if engine == Engine::Mariadb && program.name.starts_with("mysql of") {
            println!(
                "SKIPPED: {}: it has no mysql_native_password, and MariaDB's accounts have",
                program.name
            );
            continue;
        }
        if !program.needs.exists() {
            println!(
                "SKIPPED: {}: {} is not there",
                program.name,
                program.needs.display()
            );
            continue;
        }
        let mut said = Vec::new();
        for stage in [&[behind.pair.direct()][..], &behind.stages()].concat() {
            behind.pair.fresh().await.unwrap();
            said.push(run(&program, &stage).await);
        }
        let lines = said[0].lines().count();
        println!("{}: {lines} lines", program.name);
        if std::env::var_os("PONTOON_SQL_SHOW").is_some() {
            println!("{}", said[0]);
        }
        let ended_well = said[0]
            .lines()
            .filter(|line| line.starts_with("exit status"))
            .all(|line| line.ends_with(" 0"));
        assert!(lines > 20 && ended_well, "{}: {}", program.name, said[0]);
        for (index, through) in said.iter().enumerate().skip(1) {
            if let Some(line) = first_difference(&said[0], through) {
                differ.push(format!("{} through proxy {index}: {line}", program.name));
            }
        }
    }
    assert!(differ.is_empty(), "\n{}\n", differ.join("\n"));
}

async fn run(program: &Program, stage: &Stage) -> String {
    let (Road::Tcp(tcp), Road::Unix(socket)) = (&stage.tcp, &stage.unix) else {
        panic!("a stage has two doors");
    };
    let socket = socket.display().to_string();
    let port = tcp.port().to_string();
    if program.positional {
        return one(program, &["127.0.0.1".to_owned(), port, socket]).await;
    }
    let by_tcp = [
        "--protocol=tcp".to_owned(),
        "-h127.0.0.1".to_owned(),
        format!("-P{port}"),
    ];
    let by_socket = ["--protocol=socket".to_owned(), format!("--socket={socket}")];
    one(program, &by_tcp).await + &one(program, &by_socket).await
}

async fn one(program: &Program, arguments: &[String]) -> String {
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).args(arguments);
    command.stdin(match &program.input {
        Some(path) => Stdio::from(std::fs::File::open(path).unwrap()),
        None => Stdio::null(),
    });
    command.kill_on_drop(true);
    let output = timeout(LIMIT, command.output())
        .await
        .expect("it does not end")
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}\n{}\n",
        text(&output.stdout),
        text(&output.stderr),
        output.status
    )
}

fn first_difference(direct: &str, through: &str) -> Option<String> {
    let (mut left, mut right) = (direct.lines(), through.lines());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => {
                let cut =
                    |line: Option<&str>| line.unwrap_or("(nothing)").chars().take(400).collect::<String>();
                return Some(format!("\n   direct:  {}\n   through: {}", cut(one), cut(other)));
            }
        }
    }
}

fn programs(scratch: &Path) -> Vec<Program> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = here.join("../../.cache");
    let file = |name: &str| here.join("clients").join(name).display().to_string();
    let found = |name: &str| find_program(name).unwrap_or_else(|| PathBuf::from(name));
    let scripted = |name, needs: PathBuf, command: Vec<String>| Program {
        name,
        needs,
        command,
        positional: true,
        input: None,
    };
    let python = cache.join("clients/python/bin/python");
    let system_python = PathBuf::from("/usr/bin/python3");
    let mut all = Vec::new();
    for module in ["pymysql", "mysql.connector"] {
        let command = vec![
            python.display().to_string(),
            file("python_client.py"),
            module.to_owned(),
        ];
        all.push(scripted(module, python.clone(), command));
    }
    let command = vec![
        system_python.display().to_string(),
        file("python_client.py"),
        "MySQLdb".to_owned(),
    ];
    all.push(scripted(
        "MySQLdb (mysqlclient)",
        PathBuf::from("/usr/lib/python3/dist-packages/MySQLdb"),
        command,
    ));
    let modules = cache.join("clients/node/node_modules");
    let command = vec![
        "env".to_owned(),
        format!("NODE_PATH={}", modules.display()),
        "node".to_owned(),
        file("mysql2_client.js"),
    ];
    all.push(scripted("mysql2 (node)", modules.join("mysql2"), command));
    for module in ["mysqli", "pdo"] {
        let php = found("php");
        let command = vec![
            php.display().to_string(),
            file("php_client.php"),
            module.to_owned(),
        ];
        all.push(scripted(module, php, command));
    }
    let lines = scratch.join("lines.txt");
    std::fs::write(&lines, "1\n2\n3\n".repeat(1000)).unwrap();
    let text = std::fs::read_to_string(file("program.sql")).unwrap();
    let input = scratch.join("program.sql");
    std::fs::write(&input, text.replace("LINES", &lines.display().to_string())).unwrap();
    // MariaDB's client of today refuses a server without TLS; these databases have it or not, as they come.
    for (name, path, tls) in [
        ("mariadb", found("mariadb"), "--skip-ssl"),
        (
            "mariadb of the cache",
            cache.join("mariadb/bin/mariadb"),
            "--skip-ssl",
        ),
        (
            "mysql of the cache",
            cache.join("mysql/bin/mysql"),
            "--ssl-mode=preferred",
        ),
    ] {
        let options = "--force --table --column-type-info --show-warnings --local-infile=1 -uapp -ppw -Dapp";
        let mut command = vec![path.display().to_string()];
        command.extend(["--no-defaults", tls].map(str::to_owned));
        command.extend(options.split(' ').map(str::to_owned));
        all.push(Program {
            name,
            needs: path,
            command,
            positional: false,
            input: Some(input.display().to_string()),
        });
    }
    all
}
