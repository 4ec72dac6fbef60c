//! Certificates from an authority, in a fleet of two: one orders, both serve, and no visitor notices when one is
//! renewed, when the server that orders dies in the middle of it, or when the authority is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon_e2e::authority::Authority;
use pontoon_e2e::fleet::{
    Fleet, attempt, expect, kill_agent, long, refused, run, start_agent, status, tell, wait_until_healthy,
};
use pontoon_testkit::{LabError, Process, Server, Spawn, in_lab, wait_until};
use serde_json::Value;

const FILE: &str = "/etc/pontoon/fleet.toml";
const NAME: &str = "notes.example.com";
/// Whom visitors trust.
const ROOTS: &str = "/etc/pontoon/visitors-roots.pem";

/// Visitors over HTTPS: two with a connection for each request, to the two edges in turn, and one with a connection that
/// stays. It ends when its file is gone, and says how many were served and what went wrong. Python, because every machine
/// of the lab has it.
const VISITORS: &str = r#"
import http.client, os, ssl, sys, threading, time
name, roots, going, edges = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
good, bad = [0], []
class Visit(http.client.HTTPSConnection):
    def __init__(self, edge):
        self.tls = ssl.create_default_context(cafile=roots)
        super().__init__(name, 443, timeout=20, context=self.tls)
        self.edge = edge
    def connect(self):
        import socket
        plain = socket.create_connection((self.edge, 443), 20)
        self.sock = self.tls.wrap_socket(plain, server_hostname=name)
def ask(visit):
    visit.request('GET', '/up')
    answer = visit.getresponse()
    answer.read()
    if answer.status != 200: raise Exception('status %d' % answer.status)
    good[0] += 1
def new(first):
    turn = first
    while os.path.exists(going):
        try:
            visit = Visit(edges[turn % len(edges)])
            ask(visit)
            visit.close()
        except Exception as error: bad.append('new: %r' % error)
        turn += 1
        time.sleep(0.01)
def kept(edge):
    visit = Visit(edge)
    while os.path.exists(going):
        try: ask(visit)
        except Exception as error:
            bad.append('kept: %r' % error)
            visit = Visit(edge)
        time.sleep(0.02)
threads = [threading.Thread(target=new, args=(n,)) for n in range(2)] + [threading.Thread(target=kept, args=(e,)) for e in edges]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('served', good[0], 'failed', len(bad), bad[:3], flush=True)
"#;

struct Visitors {
    on: Server,
    process: Process,
}

impl Visitors {
    async fn start(fleet: &Fleet, on: &Server) -> Result<Visitors, LabError> {
        on.sh("touch /tmp/visitors-go").await?;
        let edges = [fleet.a.public().to_string(), fleet.b.public().to_string()];
        let spawn = Spawn::new("python3", "visitors")
            .args(["-c", VISITORS, NAME, ROOTS, "/tmp/visitors-go"])
            .args(edges);
        let process = on.spawn(spawn).await?;
        Ok(Visitors {
            on: on.clone(),
            process,
        })
    }

    /// How many were served. None may have failed.
    async fn stop(self) -> Result<u64, LabError> {
        self.on.sh("rm /tmp/visitors-go").await?;
        wait_until("end of the visitors", Duration::from_secs(60), async || {
            (!self.process.alive()).then_some(())
        })
        .await?;
        let said = self.process.log_tail();
        tell(&said);
        let words: Vec<&str> = said.split_whitespace().collect();
        let number = |after: &str| {
            let at = words.iter().position(|word| *word == after)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        let (served, failed) = (number("served").unwrap_or(0), number("failed"));
        expect(failed == Some(0) && served > 0, || format!("visitors: {said}"))?;
        Ok(served)
    }
}

/// `[edge.tls.acme]` with these lines, in place of what was there.
async fn configure(server: &Server, lines: &str) -> Result<(), LabError> {
    run(server, &["plan"]).await?;
    let path = server.path(FILE)?;
    let text = std::fs::read_to_string(&path).map_err(LabError::io("read fleet.toml"))?;
    let before = text.split("[edge.tls").next().unwrap_or(&text);
    let text = format!("{before}[edge.tls]\nredirect = false\n\n[edge.tls.acme]\n{lines}\n");
    std::fs::write(path, text).map_err(LabError::io("write fleet.toml"))?;
    run(server, &["apply", "--yes"]).await.map(drop)
}

async fn certificates(server: &Server) -> Result<Value, LabError> {
    let text = run(server, &["cert", "status", "--json"]).await?;
    serde_json::from_str(&text).map_err(|error| LabError::App(format!("{error}: {text}")))
}

/// The digest of the certificate that the edge of `edge` shows; `None` while it shows none that `ROOTS` lets in.
async fn shown(from: &Server, edge: &Server) -> Option<String> {
    shown_for(from, edge, NAME).await
}

async fn shown_for(from: &Server, edge: &Server, name: &str) -> Option<String> {
    let script = format!(
        "import ssl,socket,hashlib\n\
         tls=ssl.create_default_context(cafile='{ROOTS}')\n\
         with tls.wrap_socket(socket.create_connection(('{}',443),5),server_hostname='{name}') as s:\n\
         \tprint(hashlib.sha256(s.getpeercert(True)).hexdigest())",
        edge.public()
    );
    let said = from.exec("python3", &["-c", &script]).await.ok()?;
    Some(said.trim().to_owned())
}

/// Waits until both edges show the same certificate, another one than `before`, and gives its digest.
async fn both_show(fleet: &Fleet, from: &Server, before: Option<&str>) -> Result<String, LabError> {
    wait_until(
        "both edges show the certificate",
        Duration::from_secs(60),
        async || {
            let (one, other) = (shown(from, &fleet.a).await?, shown(from, &fleet.b).await?);
            (one == other && before != Some(&one)).then_some(one)
        },
    )
    .await
}

/// The error of a name in `cert status`.
fn error_of<'a>(status: &'a Value, name: &str) -> &'a str {
    let lines = status["certificates"].as_array();
    let line = lines.and_then(|lines| lines.iter().find(|line| line["names"][0] == name));
    line.and_then(|line| line["error"].as_str()).unwrap_or_default()
}

async fn ordered_renewed_and_kept(fleet: &Fleet, ca: &mut Authority) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    for server in [a, b] {
        let path = server.path("/etc/pontoon/acme-ca.pem")?;
        std::fs::write(path, &ca.trusted_by).map_err(LabError::io("write a file"))?;
    }
    let roots = ca.server.path(ROOTS)?;
    std::fs::write(roots, ca.root().await?).map_err(LabError::io("write a file"))?;
    // The first server orders, and the authority finds the other one at the name: every edge answers.
    ca.resolves(NAME, b).await?;
    let good = format!(
        "directory = \"{}\"\nca = \"/etc/pontoon/acme-ca.pem\"",
        ca.directory()
    );
    configure(a, &good).await?;
    let first = both_show(fleet, &ca.server, None).await?;
    wait_until_healthy(a, 2).await?;
    let said = wait_until(
        "the status says who serves it",
        Duration::from_secs(60),
        async || {
            let said = run(b, &["cert", "status"]).await.ok()?;
            (said.contains("a b") && said.contains("Pebble")).then_some(said)
        },
    )
    .await?;
    tell(&said);
    for server in [a, b] {
        let modes = server
            .sh("stat -c '%a %n' /var/lib/pontoon/acme.json /var/lib/pontoon/tls /var/lib/pontoon/tls/*")
            .await?;
        expect(
            modes.starts_with("600 ") && modes.contains("640 /var/lib/pontoon/tls/notes"),
            || modes.clone(),
        )?;
    }
    // What is not an answer to a challenge is the application's.
    let not_found = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' http://{}/.well-known/acme-challenge/a/b",
        a.public()
    );
    expect(a.sh(&not_found).await? != "200", || {
        "a path was taken for a token".to_owned()
    })?;
    refused(a, &["cert", "renew", "elsewhere.example.com"], "T003", 2).await?;

    let visitors = Visitors::start(fleet, &ca.server).await?;
    // Asked for on the server that does not order.
    run(b, &["cert", "renew", NAME]).await?;
    let second = both_show(fleet, &ca.server, Some(&first)).await?;
    let third = killed_in_the_middle(fleet, ca, &second).await?;

    // The authority is gone: what is there is served, and the status says why there is no other.
    ca.stop().await?;
    let said = refused(a, &["cert", "renew"], "T002", 1).await?;
    expect(said.contains("no connection to"), || said.clone())?;
    wait_until("the status says it", Duration::from_secs(60), async || {
        let status = status(b).await.ok()?.to_string();
        status
            .contains("the certificate for notes.example.com was not renewed: no connection to")
            .then_some(())
    })
    .await?;
    let said = run(a, &["cert", "status"]).await?;
    tell(&said);
    expect(both_show(fleet, &ca.server, None).await? == third, || {
        "something else is served".to_owned()
    })?;
    expect(visitors.stop().await? > 20, || {
        "too few visitors to say anything".to_owned()
    })?;
    proved_in_the_dns(fleet, ca).await?;
    if !long() {
        // What else an authority may have against us is asked of it in `crates/acme/tests/pebble.rs`.
        return Ok(());
    }
    configure(a, &good).await?;
    bad_input(fleet, ca, &good).await
}

/// Names that are proved by records: the authority asks the name server of `b`, and `a` orders.
async fn proved_in_the_dns(fleet: &Fleet, ca: &mut Authority) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    ca.asks(b);
    ca.start_again().await?;
    let roots = ca.server.path(ROOTS)?;
    std::fs::write(roots, ca.root().await?).map_err(LabError::io("write a file"))?;
    let lines = format!(
        "names = [\"{NAME}\", \"*.{NAME}\"]\nchallenge = \"dns-01\"\ndirectory = \"{}\"\nca = \"/etc/pontoon/acme-ca.pem\"\n\
         \n[dns]\nzone = \"example.com\"",
        ca.directory()
    );
    configure(a, &lines).await?;
    // The authority that begins anew knows nothing of the certificate that is there.
    run(b, &["cert", "renew"]).await?;
    for name in [NAME.to_owned(), format!("any.{NAME}")] {
        wait_until("both edges show it", Duration::from_secs(60), async || {
            let (one, other) = (
                shown_for(&ca.server, a, &name).await?,
                shown_for(&ca.server, b, &name).await?,
            );
            (one == other).then_some(())
        })
        .await?;
    }
    // The records are gone, and the book says nothing of them.
    for server in [a, b] {
        wait_until(
            "nothing is left of the proofs",
            Duration::from_secs(60),
            async || {
                let book = book_of(server)?;
                let entries = book["names"].as_object()?.values();
                let left = entries.filter(|entry| !entry["proof"]["value"].is_null()).count();
                let there = ask_for_text(&ca.server, server).await?;
                (left == 0 && !there).then_some(())
            },
        )
        .await?;
    }
    wait_until_healthy(a, 2).await
}

/// Whether the name server of `server` has a TXT record for authorities.
async fn ask_for_text(from: &Server, server: &Server) -> Option<bool> {
    let script = format!(
        "import socket,struct\n\
         q=b'\\x12\\x34\\0\\0\\0\\1\\0\\0\\0\\0\\0\\0'+b''.join(bytes([len(l)])+l.encode() for l in '_acme-challenge.{NAME}'.split('.'))+b'\\0\\0\\x10\\0\\1'\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.connect(('{}',53)); s.send(q)\n\
         print(struct.unpack('>H',s.recv(4096)[6:8])[0])",
        server.public()
    );
    let said = from.exec("python3", &["-c", &script]).await.ok()?;
    Some(said.trim() != "0")
}

/// What the agent of `server` has on its disk of certificates.
fn book_of(server: &Server) -> Option<Value> {
    let text = std::fs::read_to_string(server.path("/var/lib/pontoon/acme.json").ok()?).ok()?;
    serde_json::from_str(&text).ok()
}

/// The server that orders dies when the authority has the order and does not answer yet. The other one goes on with it.
async fn killed_in_the_middle(fleet: &Fleet, ca: &Authority, before: &str) -> Result<String, LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    ca.hesitate(true)?;
    let renewing = {
        let a = a.clone();
        // Its agent dies: what becomes of the command is nobody's business.
        tokio::spawn(async move { attempt(&a, &["cert", "renew"]).await.map(drop) })
    };
    let order = wait_until("b knows the order", Duration::from_secs(60), async || {
        let order = &book_of(b)?["names"][NAME]["begun"]["value"]["order"];
        order.as_str().map(str::to_owned)
    })
    .await?;
    kill_agent(a).await?;
    ca.hesitate(false)?;
    let outcome = renewing.await.map_err(|error| LabError::App(error.to_string()))?;
    outcome?;
    let asked_again = AtomicBool::new(false);
    let after = wait_until("b has the certificate", Duration::from_secs(120), async || {
        // On a machine that is very slow the authority may have given up before it was answered: then somebody has to
        // ask again, and it is another order.
        let gave_up = book_of(b).is_some_and(|book| book["names"][NAME]["attempt"]["value"]["failures"] != 0);
        if gave_up && !asked_again.swap(true, Ordering::Relaxed) {
            attempt(b, &["cert", "renew"]).await.ok()?;
        }
        let shown = shown(&ca.server, b).await?;
        (shown != before).then_some(shown)
    })
    .await?;
    let number = order.rsplit('/').next().unwrap_or(&order);
    let issued = format!("for order {number}");
    let issued_for_it = |line: &str| line.contains("Issued certificate") && line.ends_with(&issued);
    expect(
        asked_again.into_inner() || ca.log().lines().any(issued_for_it),
        || format!("another order than {order} was gone on with"),
    )?;
    // Without its agent the edge serves what it has (P5); with it, what the others have.
    expect(
        shown(&ca.server, &fleet.a).await.as_deref() == Some(before),
        || "the edge without an agent shows something else".to_owned(),
    )?;
    start_agent(a).await?;
    let both = both_show(fleet, &ca.server, Some(before)).await?;
    expect(both == after, || "yet another certificate".to_owned())?;
    wait_until_healthy(a, 2).await?;
    Ok(both)
}

async fn bad_input(fleet: &Fleet, ca: &Authority, good: &str) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    // A name that leads elsewhere, and one that leads nowhere, beside a good one.
    ca.resolves("elsewhere.example.com", &ca.server).await?;
    let names = [NAME, "elsewhere.example.com", "nowhere.example.com"];
    configure(a, &format!("names = {names:?}\n{good}")).await?;
    let found = wait_until(
        "the status says what is wrong",
        Duration::from_secs(90),
        async || {
            let found = certificates(b).await.ok()?;
            let wrong = names[1..].iter().all(|name| !error_of(&found, name).is_empty());
            wrong.then_some(found)
        },
    )
    .await?;
    tell(&run(b, &["cert", "status"]).await?);
    expect(
        error_of(&found, "elsewhere.example.com").contains("elsewhere"),
        || found.to_string(),
    )?;
    let good_one = &found["certificates"][0];
    expect(good_one["on"].as_array().is_some_and(|on| on.len() == 2), || {
        good_one.to_string()
    })?;

    let other_ca = a.path("/etc/pontoon/other-ca.pem")?;
    std::fs::write(&other_ca, ca.root().await?).map_err(LabError::io("write a file"))?;
    let directory = format!("directory = \"{}\"", ca.directory());
    for (lines, wanted) in [
        (
            format!("{directory}\nca = \"/etc/pontoon/other-ca.pem\""),
            "not signed by one of the authorities in /etc/pontoon/other-ca.pem",
        ),
        (good.replace("/dir\"", "/nothing\""), "answers 404"),
        (
            format!("{good}\nemail = \"a..b@example.com\""),
            "it does not take the address a..b@example.com",
        ),
    ] {
        configure(a, &lines).await?;
        let said = refused(a, &["cert", "renew"], "T002", 1).await?;
        expect(said.contains(wanted), || format!("wanted {wanted:?}: {said}"))?;
    }
    // Mended, it is tried at once.
    configure(a, good).await?;
    run(a, &["cert", "renew"]).await?;
    wait_until_healthy(a, 2).await
}

#[test]
fn one_orders_and_both_serve() -> Result<(), LabError> {
    in_lab(
        "one_orders_and_both_serve",
        Duration::from_secs(600),
        |lab| async move {
            Authority::available()?;
            let mut fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            fleet.join().await?;
            let mut ca = Authority::start(&mut fleet.lab).await?;
            let outcome = ordered_renewed_and_kept(&fleet, &mut ca).await;
            if outcome.is_err() {
                for server in [&fleet.a, &fleet.b] {
                    tell(
                        &attempt(server, &["cert", "status"])
                            .await
                            .map_or_else(|error| error.to_string(), |(_, out, err)| format!("{out}{err}")),
                    );
                }
                let log = ca.log();
                let end: Vec<&str> = log.lines().rev().take(40).collect();
                tell(&end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            fleet.explain(outcome).await
        },
    )
}
