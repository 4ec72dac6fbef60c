//! Three cache servers as one: memcached and its proxies are frozen, killed and taken out, and nobody finds a value that is
//! older than one that was said to be stored (P8).
//!
//! `PONTOON_LONG=1`: twenty flaps and 3,000 keys; `PONTOON_ROUNDS=n` says how many flaps.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, expect, kill_agent, logs, long, rounds_asked, run, start_agent, status, tell,
};
use pontoon_testkit::{LabError, Server, find_program, in_lab, wait_until};
use rustix::process::Signal;

const FILE: &str = "/etc/pontoon/fleet.toml";

/// A process that says nothing is given up after 300 ms; what is above is the machine's.
const NOTICED: Duration = Duration::from_millis(400);

fn keys() -> usize {
    if long() { 3000 } else { 300 }
}

/// Sets every key to the word, or reads every key, through the proxy of the server where it runs; says what was answered,
/// and what the longest wait was, in microseconds.
const CLIENT: &str = r#"
import socket, sys, time
what, word, keys = sys.argv[1], sys.argv[2], int(sys.argv[3])
slowest = 0
s = socket.create_connection(('127.0.0.1', 11211), 60)
f = s.makefile('rb')
for n in range(keys):
    began = time.monotonic()
    if what == 'set':
        s.sendall(b'set key%d 0 0 %d\r\n%s\r\n' % (n, len(word), word.encode()))
        print(n, f.readline().decode().strip().split(' ')[0])
    else:
        s.sendall(b'get key%d\r\n' % n)
        line = f.readline()
        if line.startswith(b'VALUE'):
            print(n, f.readline().decode().strip())
            line = f.readline()
        assert line == b'END\r\n', line
    slowest = max(slowest, time.monotonic() - began)
print('slowest', int(slowest * 1e6))
"#;

/// What was said to be stored, by key.
#[derive(Default)]
struct Ledger(BTreeMap<usize, u32>);

impl Ledger {
    /// Sets every key to `round` through `server`; says how many were stored.
    async fn write(&mut self, server: &Server, round: u32) -> Result<usize, LabError> {
        let mut stored = 0;
        for (key, said) in client(server, "set", round).await?.0 {
            if said == "STORED" {
                stored += 1;
                self.0.insert(key, round);
            } else {
                expect(said == "SERVER_ERROR", || format!("key{key}: {said}"))?;
            }
        }
        Ok(stored)
    }

    /// Reads every key through `server`; says how many were found.
    async fn read(&self, server: &Server) -> Result<usize, LabError> {
        Ok(self.read_timed(server).await?.0)
    }

    /// The same, with the longest wait for one of them.
    async fn read_timed(&self, server: &Server) -> Result<(usize, Duration), LabError> {
        let (found, slowest) = client(server, "get", 0).await?;
        for (key, value) in &found {
            let least = self.0.get(key).copied().unwrap_or_default();
            let value: u32 = value.parse().unwrap_or_default();
            let name = server.name();
            expect(value >= least, || {
                format!("through {name}, key{key} is {value} after {least} was stored")
            })?;
        }
        Ok((found.len(), slowest))
    }
}

async fn client(
    server: &Server,
    what: &str,
    round: u32,
) -> Result<(Vec<(usize, String)>, Duration), LabError> {
    let (word, keys) = (round.to_string(), keys().to_string());
    let text = server
        .exec("python3", &["-c", CLIENT, what, &word, &keys])
        .await?;
    let lines = || text.lines().filter_map(|line| line.split_once(' '));
    let slowest = lines().find(|(word, _)| *word == "slowest");
    let slowest = slowest.and_then(|(_, micros)| micros.parse().ok());
    let said = lines().filter_map(|(key, said)| Some((key.parse().ok()?, said.to_owned())));
    Ok((said.collect(), Duration::from_micros(slowest.unwrap_or_default())))
}

/// Every key can be stored and found again through each of `servers`.
async fn all_serve(ledger: &mut Ledger, servers: &[&Server], round: u32) -> Result<(), LabError> {
    for server in servers {
        let what = format!("{} stores every key", server.name());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
        loop {
            // Before there is a door the client cannot connect.
            if ledger.write(server, round).await.unwrap_or_default() == keys() {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                tell(&format!("{what}: not in time\n{}", logs(server, 40)));
                return expect(false, || what);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    for server in servers {
        let found = ledger.read(server).await?;
        expect(found == keys(), || {
            format!("{} finds {found} of {}", server.name(), keys())
        })?;
    }
    Ok(())
}

/// The lists that the servers' proxies go by, as far as they have one.
async fn lists(server: &Server) -> Result<Vec<u64>, LabError> {
    let status = status(server).await?;
    let servers = status["servers"].as_array().cloned().unwrap_or_default();
    let tiers = servers
        .iter()
        .flat_map(|server| server["report"]["tiers"].as_array().cloned().unwrap_or_default());
    Ok(tiers
        .filter_map(|tier| tier["detail"]["cache"]["list"].as_u64())
        .collect())
}

#[test]
fn the_cache_never_goes_back_in_time() -> Result<(), LabError> {
    let Some(memcached) = find_program("memcached") else {
        tell(
            "SKIPPED the_cache_never_goes_back_in_time: memcached is not installed, and not on PATH by script/get-memcached",
        );
        return Ok(());
    };
    let limit = Duration::from_secs(if long() { 1_800 } else { 300 });
    in_lab("the_cache_never_goes_back_in_time", limit, |lab| async move {
        let mut fleet = Fleet::new(lab).await?;
        fleet.found().await?;
        fleet.join().await?;
        fleet.join_another("c").await?;
        for server in fleet.servers() {
            // Where the servers find it, if it is not installed.
            let link = format!(
                "mkdir -p /run/lab/bin && ln -s {} /run/lab/bin/",
                memcached.display()
            );
            server.sh(&link).await?;
        }
        let outcome = play(&fleet).await;
        fleet.explain(outcome).await
    })
}

async fn play(fleet: &Fleet) -> Result<(), LabError> {
    let servers = fleet.servers();
    let [a, b, c] = servers[..] else {
        return expect(false, || "there are not three servers".to_owned());
    };
    run(a, &["plan"]).await?;
    a.sh(&format!("printf '\\n[cache]\\nmemory = \"64MiB\"\\n' >>{FILE}"))
        .await?;
    run(a, &["apply", "--yes"]).await?;
    let mut ledger = Ledger::default();
    let mut round = 1;
    all_serve(&mut ledger, &servers, round).await?;

    // The proxy of one server is cut off from the control plane meanwhile: it goes by what it was told last.
    kill_agent(c).await?;
    // A memcached freezes, others write, it goes on: what it holds is what was said to be there, or newer, or nothing.
    let flaps = rounds_asked().unwrap_or(if long() { 20 } else { 2 });
    let mut slowest = Vec::new();
    for flap in 0..flaps {
        let frozen = [c, a, b][flap % 3];
        let process = fleet.process(frozen, "memcached")?;
        process.signal(Signal::STOP)?;
        // The first to ask it finds out; nobody waits after that.
        slowest.push(ledger.read_timed(a).await?.1);
        round += 1;
        let (one, other) = (ledger.write(a, round).await?, ledger.write(b, round).await?);
        expect(one < keys() && other < keys(), || {
            "a frozen memcached stored something".to_owned()
        })?;
        expect(one > 0 && other > 0, || "nobody stored anything".to_owned())?;
        for server in &servers {
            ledger.read(server).await?;
        }
        process.signal(Signal::CONT)?;
        for server in &servers {
            ledger.read(server).await?;
        }
        round += 1;
        all_serve(&mut ledger, &servers, round).await?;
        for server in &servers {
            ledger.read(server).await?;
        }
    }

    slowest.sort_unstable();
    let within = slowest.iter().filter(|time| **time <= NOTICED).count();
    tell(&format!(
        "{flaps} flaps, {} keys, three proxies, one without its agent: no old value; one that hung was noticed after {:?} \
         (median; longest {:?}, {within} of {flaps} within {NOTICED:?})",
        keys(),
        slowest.get(slowest.len() / 2).copied().unwrap_or_default(),
        slowest.last().copied().unwrap_or_default(),
    ));
    start_agent(c).await?;

    // It dies, and comes back empty; then the proxy before it.
    for name in ["memcached", "cache"] {
        fleet.process(b, name)?.kill_9()?;
        ledger.read(a).await?;
        round += 1;
        all_serve(&mut ledger, &servers, round).await?;
    }

    // A server whose agent is dead holds the list up, and goes on with the one that it has.
    kill_agent(c).await?;
    a.sh(&format!("printf 'placement = \"rendezvous\"\\n' >>{FILE}"))
        .await?;
    round += 1;
    all_serve(&mut ledger, &servers, round).await?;
    let before = lists(a).await?.into_iter().max().unwrap_or_default();
    start_agent(c).await?;
    run(a, &["apply", "--yes"]).await?;
    // While the list changes nothing old is found through anybody.
    wait_until("all go by the new list", Duration::from_secs(90), || async {
        let lists = lists(a).await.ok()?;
        (lists.len() == 3 && lists.iter().all(|list| *list > before)).then_some(())
    })
    .await?;
    for server in &servers {
        ledger.read(server).await?;
    }
    round += 1;
    all_serve(&mut ledger, &servers, round).await
}
