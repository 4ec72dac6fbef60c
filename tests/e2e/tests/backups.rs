//! The database goes to an object store and comes back as it was at a moment: both engines, from a replica too, and what
//! must be refused.

use std::path::PathBuf;
use std::time::Duration;

use pontoon_e2e::fleet::{Engine, Fleet, attempt, expect, long, run};
use pontoon_e2e::under_load::database_socket;
use pontoon_testkit::database::{connect_root, rows};
use pontoon_testkit::{DatabaseOptions, LabError, Server, Skip, Spawn, in_lab, wait_until};
use serde_json::Value;

const KEYS: &str = "/etc/pontoon/s3";
const PORT: u16 = 5000;

#[test]
fn mariadb_goes_to_the_store_and_back_to_any_moment() -> Result<(), LabError> {
    let name = "mariadb_goes_to_the_store_and_back_to_any_moment";
    in_lab(name, Duration::from_secs(280), |lab| async move {
        there_and_back(Fleet::new(lab).await?).await
    })
}

#[test]
fn mysql_goes_to_the_store_and_back_to_any_moment() -> Result<(), LabError> {
    let name = "mysql_goes_to_the_store_and_back_to_any_moment";
    in_lab(name, Duration::from_secs(280), |lab| async move {
        there_and_back(Fleet::with(lab, Engine::Mysql, DatabaseOptions::default()).await?).await
    })
}

async fn there_and_back(mut fleet: Fleet) -> Result<(), LabError> {
    let store = start_store(&mut fleet).await?;
    fleet.found().await?;
    let a = &fleet.a;
    write_keys(a)?;

    // Not said where: named, with what to do.
    no(a, &["db", "backup"], "C003").await?;
    configure(a, &store, "").await?;
    let shown = run(a, &["db", "status"]).await?;
    expect(shown.contains("backup: "), || shown.clone())?;

    tell(
        a,
        "CREATE TABLE notes.moments (id INT PRIMARY KEY, what TEXT) ENGINE=InnoDB",
    )
    .await?;
    write(a, 1..=10, "before").await?;
    run(a, &["db", "backup"]).await?;
    let copies = listed(a).await?;
    expect(
        copies["copies"].as_array().is_some_and(|all| !all.is_empty()),
        || copies.to_string(),
    )?;
    write(a, 11..=20, "after").await?;
    let until = now(a).await?;
    pass_second(a).await?;
    tell(a, "DELETE FROM notes.moments WHERE id > 5").await?;
    pass_second(a).await?;
    write(a, 21..=30, "later").await?;
    let end = now(a).await?;
    archived_up_to(a, end).await?;

    // The moment before the mistake, into a fresh directory on the machine that has none.
    let b = &fleet.b;
    write_keys(b)?;
    let from = [
        "--from".to_owned(),
        "s3://copies/notes".to_owned(),
        "--endpoint".to_owned(),
        store.clone(),
        "--credentials".to_owned(),
        format!("file:{KEYS}"),
    ];
    let program = server_program(fleet.engine);
    let restore = |extra: &[&str]| -> Vec<String> {
        let fixed = ["db", "restore", "--json"].map(str::to_owned);
        let program = ["--server-program".to_owned(), program.clone()];
        [&fixed[..], &from[..], &program[..]]
            .concat()
            .into_iter()
            .chain(extra.iter().map(|word| (*word).to_owned()))
            .collect()
    };
    let moment = clock(until + 1);
    let out = json_of(
        b,
        &restore(&["--into", "/var/lib/restored-before", "--to-time", &moment]),
    )
    .await?;
    expect(
        out["aside"].is_null() && out["transactions"].as_u64() > Some(0),
        || out.to_string(),
    )?;
    expect(
        content(&fleet, b, "/var/lib/restored-before").await? == (20, 20),
        || format!("before the mistake: {out}"),
    )?;

    // Everything, over what is there: it is renamed, and an attempt that was killed is not in the way.
    let out = json_of(b, &restore(&["--into", "/var/lib/restored-before"])).await?;
    let aside = out["aside"]["to"].as_str().unwrap_or_default().to_owned();
    expect(
        aside.starts_with("/var/lib/restored-before.pontoon-aside-"),
        || out.to_string(),
    )?;
    expect(b.path(&aside)?.join("mysql").is_dir(), || aside.clone())?;
    expect(
        content(&fleet, b, "/var/lib/restored-before").await? == (15, 30),
        || format!("all of it: {out}"),
    )?;

    // What is not in the store is refused before anything is made.
    for (extra, code) in [
        (
            &["--into", "/var/lib/restored-x", "--to-time", "2001-01-01"][..],
            "D022",
        ),
        (
            &["--into", "/var/lib/restored-x", "--to-time", "2099-01-01"][..],
            "D022",
        ),
        (
            &["--into", "/var/lib/restored-x", "--copy", "no-such"][..],
            "D022",
        ),
        (
            &["--into", "/var/lib/restored-x", "--to-gtid", "7-7-7777777"][..],
            "D022",
        ),
    ] {
        let words = restore(extra);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        no(b, &words, code).await?;
        expect(
            !b.path("/var/lib/restored-x")?.exists()
                && !b.path("/var/lib/restored-x.pontoon-restoring")?.exists(),
            || format!("{extra:?} left something"),
        )?;
    }
    // The primary's own directory is not restored over, whatever is asked.
    no(a, &["db", "restore"], "D023").await?;
    no(
        a,
        &[
            "db",
            "restore",
            "--into",
            "/var/lib/restored-y",
            "--from",
            "ftp://x",
        ],
        "C002",
    )
    .await?;
    no(a, &["db", "backup", "nobody"], "F004").await?;

    // A store whose content was changed is not believed.
    damage(a, &store).await?;
    let words = restore(&["--into", "/var/lib/restored-x"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    no(b, &words, "D021").await?;

    if fleet.engine == Engine::Mysql && !long() {
        return Ok(()); // what follows is the same for both
    }
    // With a replica that is well, the copy is taken from there.
    fleet.join().await?;
    let b = &fleet.b;
    wait_until("a replica", Duration::from_secs(60), async || {
        let shown = run(a, &["db", "status"]).await.ok()?;
        shown.contains("replica").then_some(())
    })
    .await?;
    run(a, &["db", "backup"]).await?;
    let copies = listed(a).await?;
    expect(
        copies["copies"][0]["server"] == "b" && copies["copies"][0]["primary"] == false,
        || copies.to_string(),
    )?;
    write(a, 31..=40, "with a replica").await?;
    archived_up_to(a, now(a).await?).await?;
    let mut words = restore(&["--into", "/var/lib/restored-replicas"]);
    words.extend([
        "--copy".to_owned(),
        copies["copies"][0]["id"].as_str().unwrap_or_default().to_owned(),
    ]);
    json_of(a, &words).await?;
    expect(
        content(&fleet, a, "/var/lib/restored-replicas").await? == (25, 40),
        || "a copy of the replica".to_owned(),
    )?;

    // Nor is a replica's.
    no(b, &["db", "restore", "--into", "/var/lib/mysql"], "D023").await
}

/// Refused with that code.
async fn no(server: &Server, words: &[&str], code: &str) -> Result<(), LabError> {
    let (status, out, err) = attempt(server, words).await?;
    expect(status != 0 && (out.contains(code) || err.contains(code)), || {
        format!("{words:?}: {status}\n{out}\n{err}")
    })
}

/// moto on a machine of its own, with a bucket. Returns its URL.
async fn start_store(fleet: &mut Fleet) -> Result<String, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = pontoon_e2e::repository().join(".cache/stores/moto/bin");
    let program = std::env::split_paths(&path)
        .chain([unpacked])
        .map(|dir| dir.join("moto_server"))
        .find(|file| file.is_file())
        .ok_or_else(|| Skip("moto_server is not here: script/get-stores".to_owned()))?;
    let server = fleet.lab.add_server("s3", Vec::new()).await?;
    let mut spawn = Spawn::new(program.display().to_string(), "moto").args(["-H", "0.0.0.0", "-p", "5000"]);
    for name in ["PATH", "HOME"] {
        spawn = spawn.env(name, std::env::var(name).unwrap_or_default());
    }
    server.spawn(spawn).await?;
    let url = format!("http://{}:{PORT}", server.private());
    let bucket = format!("{url}/copies");
    wait_until("the object store", Duration::from_secs(60), async || {
        fleet.a.exec("curl", &["-sf", "-X", "PUT", &bucket]).await.ok()
    })
    .await?;
    Ok(url)
}

fn write_keys(server: &Server) -> Result<(), LabError> {
    let path = server.path(KEYS)?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(LabError::io("make /etc/pontoon"))?;
    }
    let keys = "access_key_id = x\nsecret_access_key = y\nregion = us-east-1\n";
    std::fs::write(path, keys).map_err(LabError::io("write the keys"))
}

/// Adds `[db.backup]` to what is active.
async fn configure(server: &Server, store: &str, more: &str) -> Result<(), LabError> {
    let path = server.path("/etc/pontoon/fleet.toml")?;
    let text = std::fs::read_to_string(&path).map_err(LabError::io("read the configuration"))?;
    let backup = format!(
        "\n[db.backup]\nbucket = \"copies\"\nendpoint = \"{store}\"\ncredentials = {{ file = \"{KEYS}\" }}\nevery = \"1d\"\narchive_every = \"1s\"\n{more}"
    );
    std::fs::write(&path, text + &backup).map_err(LabError::io("write the configuration"))?;
    run(server, &["apply", "--yes"]).await.map(drop)
}

async fn listed(server: &Server) -> Result<Value, LabError> {
    let text = run(server, &["db", "backups", "--json"]).await?;
    serde_json::from_str(&text).map_err(|error| LabError::App(format!("{error}: {text}")))
}

async fn archived_up_to(server: &Server, seconds: u64) -> Result<(), LabError> {
    wait_until("the archive to follow", Duration::from_secs(60), async || {
        let copies = listed(server).await.ok()?;
        (copies["copies"][0]["to"].as_u64()? > (seconds + 1) * 1000).then_some(())
    })
    .await
}

async fn tell(server: &Server, statement: &str) -> Result<(), LabError> {
    let mut root = connect_root(&database_socket(server)?).await?;
    let _: Vec<u64> = rows(&mut root, statement).await?;
    Ok(())
}

async fn write(server: &Server, ids: std::ops::RangeInclusive<u32>, what: &str) -> Result<(), LabError> {
    for id in ids {
        tell(
            server,
            &format!("INSERT INTO notes.moments VALUES ({id}, '{what}')"),
        )
        .await?;
    }
    Ok(())
}

/// The database's clock in seconds: what its binary log is written by.
async fn now(server: &Server) -> Result<u64, LabError> {
    let mut root = connect_root(&database_socket(server)?).await?;
    let found: Vec<u64> = rows(&mut root, "SELECT UNIX_TIMESTAMP()").await?;
    found
        .first()
        .copied()
        .ok_or_else(|| LabError::Unknown("no clock".to_owned()))
}

/// Waits until what is written now is of another second than what was written before.
async fn pass_second(server: &Server) -> Result<(), LabError> {
    let begun = now(server).await?;
    wait_until("the next second", Duration::from_secs(60), async || {
        (now(server).await.ok()? > begun + 1).then_some(())
    })
    .await
}

/// A moment as `--to-time` takes it.
fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil from days (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

async fn json_of(server: &Server, words: &[String]) -> Result<Value, LabError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (status, out, err) = attempt(server, &words).await?;
    expect(status == 0, || format!("{words:?}: {status}\n{out}\n{err}"))?;
    let last = out.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| LabError::App(format!("{error}: {out}")))
}

/// The program of the engine's server.
fn server_program(engine: Engine) -> String {
    let program = match engine {
        Engine::Mariadb => PathBuf::from("/usr/sbin/mariadbd"),
        Engine::Mysql => pontoon_e2e::repository().join(".cache/mysql/bin/mysqld"),
    };
    program.display().to_string()
}

/// Starts a server on a restored directory as its owner would, and counts what is in it: rows, and the highest number.
async fn content(fleet: &Fleet, server: &Server, dir: &str) -> Result<(u64, u64), LabError> {
    let program = server_program(fleet.engine);
    let socket = "/run/restored.sock";
    let process = server
        .spawn(Spawn::new(program, "restored").args([
            "--no-defaults".to_owned(),
            format!("--datadir={dir}"),
            format!("--socket={socket}"),
            "--skip-networking".to_owned(),
            "--pid-file=/run/restored.pid".to_owned(),
            "--user=root".to_owned(),
        ]))
        .await?;
    let path = server.path(socket)?;
    let found = wait_until("the restored database", Duration::from_secs(60), async || {
        let mut root = connect_root(&path).await.ok()?;
        let query = "SELECT COUNT(*), MAX(id) FROM notes.moments";
        let found: Vec<(u64, u64)> = rows(&mut root, query).await.ok()?;
        found.first().copied()
    })
    .await;
    process.kill_9().await?;
    found
}

/// Changes a byte of the newest copy in the store.
async fn damage(server: &Server, store: &str) -> Result<(), LabError> {
    let copies = listed(server).await?;
    let id = copies["copies"][0]["id"].as_str().unwrap_or_default().to_owned();
    let object = format!("{store}/copies/notes/copies/{id}/data");
    let file = "/var/lib/damaged";
    let script = format!(
        "curl -sf {object} -o {file} && printf x | dd of={file} bs=1 seek=4096 conv=notrunc status=none && \
         curl -sf -H Expect: -H 'Content-Type: application/octet-stream' -T {file} {object}"
    );
    server.sh(&script).await.map(drop)
}
