//! The names of the edges, asked as a resolver asks: they follow what happens to servers, edges and agents.

use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, attempt, end_program, expect, kill_agent, logs, refused, run, start_agent, status, tell,
    wait_until_healthy,
};
use pontoon_testkit::{LabError, Server, in_lab, wait_until};

const FILE: &str = "/etc/pontoon/fleet.toml";
const HOOK: &str = "/etc/pontoon/dns-hook";
const ZONE: &str = "/etc/pontoon/example.zone";

/// Asks the name server at the public address of `to`, from `from`: the last bytes of the addresses of a name, sorted;
/// `None` without an answer. Python, because every machine of the lab has it and no name server's tools.
async fn lookup(from: &Server, to: &Server, name: &str) -> Option<Vec<u8>> {
    let script = format!(
        "import socket,struct,sys\n\
         q=b'\\x12\\x34\\0\\0\\0\\1\\0\\0\\0\\0\\0\\0'+b''.join(bytes([len(l)])+l.encode() for l in '{name}'.split('.'))+b'\\0\\0\\1\\0\\1'\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.connect(('{}',53)); s.send(q)\n\
         r=s.recv(4096); n=struct.unpack('>H',r[6:8])[0]\n\
         assert r[3]&15==0 and len(r)==len(q)+16*n, r\n\
         print(' '.join(str(r[len(q)+16*i+15]) for i in range(n)))",
        to.public()
    );
    let text = from.exec("python3", &["-c", &script]).await.ok()?;
    let mut lasts: Vec<u8> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    lasts.sort_unstable();
    Some(lasts)
}

async fn until(from: &Server, to: &Server, name: &str, wanted: Vec<u8>) -> Result<(), LabError> {
    let what = format!("{} says {wanted:?} for {name}", to.name());
    let outcome = wait_until(&what, Duration::from_secs(60), || {
        let (said, wanted) = (lookup(from, to, name), Some(wanted.clone()));
        async move {
            let said = said.await;
            (said == wanted).then_some(())
        }
    })
    .await;
    if outcome.is_err() {
        let last = lookup(from, to, name).await;
        let why = run(to, &["dns", "explain", name]).await.unwrap_or_default();
        tell(&format!("{what}; it said {last:?}\n{why}{}", logs(to, 30)));
    }
    outcome
}

/// The program of `[dns.hook]` on `server` was called last with this for the name.
async fn was_told(server: &Server, wanted: &str) -> Result<(), LabError> {
    let what = format!("the program of {} is told {wanted:?}", server.name());
    let script = format!(
        "grep 'notes.example.com A ' /tmp/told-{} | tail -n 1",
        server.name()
    );
    wait_until(&what, Duration::from_secs(60), || async {
        (server.sh(&script).await.ok()?.trim() == wanted).then_some(())
    })
    .await
}

#[test]
fn names_follow_the_addresses() -> Result<(), LabError> {
    in_lab(
        "names_follow_the_addresses",
        Duration::from_secs(240),
        |lab| async move {
            let fleet = Fleet::new(lab).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            fleet.found().await?;
            fleet.join().await?;
            // It writes down what the join has changed.
            run(a, &["plan"]).await?;
            let last = |server: &Server| server.public().octets()[3];
            let both = {
                let mut both = vec![last(a), last(b)];
                both.sort_unstable();
                both
            };
            // What does not hold is refused before anything changes.
            refused(a, &["dns", "explain", "notes.example.com"], "C003", 2).await?;
            a.sh(&format!(
                "printf '[dns]\\nzone = \"example.com\"\\nnames = [\"www.example.org\"]\\n' >>{FILE}"
            ))
            .await?;
            let (code, _, said) = attempt(a, &["check"]).await?;
            expect(
                code == 2 && said.contains("is not in the zone example.com"),
                || said.clone(),
            )?;
            a.sh(&format!("sed -i 's/^names = .*/names = [\"example.com\", \"notes.example.com\"]\\nfile = \"{}\"/' {FILE}", ZONE.replace('/', "\\/")))
            .await?;
            // A program is told too, by one of the two.
            for server in [a, b] {
                server
                    .sh(&format!(
                        "printf '#!/bin/sh\\necho \"$*\" >>/tmp/told-{}\\n' >{HOOK} && chmod 755 {HOOK}",
                        server.name()
                    ))
                    .await?;
            }
            a.sh(&format!("printf '[dns.hook]\\nexec = \"{HOOK}\"\\n' >>{FILE}"))
                .await?;
            let zone = "$TTL 60\n@ SOA ns h 1 7200 900 1209600 60\n@ NS ns\n@ MX 1 mail\nmail A 192.0.2.25\n";
            for server in [a, b] {
                server.sh(&format!("printf '%s' '{zone}' >{ZONE}")).await?;
            }
            run(a, &["apply", "--yes"]).await?;
            for server in [a, b] {
                until(a, server, "notes.example.com", both.clone()).await?;
                until(b, server, "example.com", both.clone()).await?;
                until(b, server, "mail.example.com", vec![25]).await?;
            }
            wait_until_healthy(a, 2).await?;

            // A zone that is wrong on one server: it answers as before, and the status says where the mistake is.
            b.sh(&format!("printf 'mail A 192.0.2.256\\n' >>{ZONE}")).await?;
            wait_until("the status names the line", Duration::from_secs(60), || async {
                let status = status(a).await.ok()?.to_string();
                status.contains("example.zone:6: A: ").then_some(())
            })
            .await?;
            until(a, b, "mail.example.com", vec![25]).await?;
            b.sh(&format!("sed -i '$d' {ZONE}")).await?;
            wait_until_healthy(a, 2).await?;

            // A drained server is out at once.
            run(a, &["drain", "b"]).await?;
            for server in [a, b] {
                until(a, server, "notes.example.com", vec![last(a)]).await?;
            }
            was_told(a, &format!("set notes.example.com A 20 {}", a.public())).await?;
            run(a, &["undrain", "b"]).await?;
            for server in [a, b] {
                until(a, server, "notes.example.com", both.clone()).await?;
            }

            // The zone is signed: both servers have the same key and the same word for the registrar.
            refused(a, &["dns", "ds"], "A010", 2).await?;
            a.sh(&format!("printf '[dns.dnssec]\n' >>{FILE}")).await?;
            run(a, &["apply", "--yes"]).await?;
            wait_until("both sign with one key", Duration::from_secs(60), || async {
                let (one, other) = (
                    run(a, &["dns", "ds"]).await.ok()?,
                    run(b, &["dns", "ds"]).await.ok()?,
                );
                let tag = one
                    .strip_prefix("example.com. IN DS ")?
                    .split(' ')
                    .next()?
                    .to_owned();
                let said = run(a, &["status", "--wide"]).await.ok()?;
                let signing = said
                    .lines()
                    .filter(|line| line.contains(&tag) && line.contains("days)"));
                (one == other && signing.count() == 2).then_some(())
            })
            .await?;
            until(a, b, "notes.example.com", both.clone()).await?;

            // Agents die: names stay, and name servers too.
            kill_agent(a).await?;
            kill_agent(b).await?;
            until(a, b, "notes.example.com", both.clone()).await?;
            start_agent(a).await?;
            start_agent(b).await?;
            wait_until_healthy(a, 2).await?;
            // A name server that dies is started again.
            end_program(b, "dns").await?;
            until(a, b, "notes.example.com", both.clone()).await?;

            // A server dies: its address goes, and comes back.
            b.link_down().await?;
            until(a, a, "notes.example.com", vec![last(a)]).await?;
            let said = run(a, &["dns", "explain", "notes.example.com"]).await?;
            let out = format!("out  {}", b.public());
            expect(said.contains(&out) && said.contains("b is not heard of"), || {
                said.clone()
            })?;
            b.link_up().await?;
            until(a, a, "notes.example.com", both.clone()).await?;
            refused(a, &["dns", "explain", "example.org"], "C002", 2)
                .await
                .map(drop)
        },
    )
}
