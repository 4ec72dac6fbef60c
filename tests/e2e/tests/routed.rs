//! Addresses that a provider moves: a real fleet, a lease in etcd, and a stand-in for Hetzner Robot's interface that
//! routes in the lab what it is told to route. It was written from the provider's documents and is not the provider.

#![allow(clippy::unwrap_used, clippy::panic)] // a panic is the report

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_e2e::fleet::{
    Fleet, attempt, event_kinds, expect, kill_agent, logs, long, refused, run, start_agent, tell,
};
use pontoon_testkit::{Lab, LabError, Server, StoreKind, in_lab, wait_until};

const FILE: &str = "/etc/pontoon/fleet.toml";
const TOKEN: &str = "/etc/pontoon/robot.env";
const LIMIT: Duration = Duration::from_secs(60);

/// The interface, at the visitors' side of the lab.
#[derive(Clone)]
struct Robot {
    url: String,
    /// Address and the server that it is routed to.
    routes: Arc<Mutex<Vec<(Ipv4Addr, String)>>>,
    /// The login is not taken.
    closed: Arc<Mutex<bool>>,
}

impl Robot {
    fn start(routes: Vec<(Ipv4Addr, String)>) -> Robot {
        let listener = TcpListener::bind((Lab::VISITOR, 0)).unwrap();
        let robot = Robot {
            url: format!("http://{}", listener.local_addr().unwrap()),
            routes: Arc::new(Mutex::new(Vec::new())),
            closed: Arc::default(),
        };
        routes.into_iter().for_each(|(ip, to)| robot.route(ip, &to));
        let served = robot.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        robot
    }

    fn at(&self, ip: Ipv4Addr) -> Option<String> {
        let routes = self.routes.lock().unwrap();
        routes
            .iter()
            .find(|(one, _)| *one == ip)
            .map(|(_, to)| to.clone())
    }

    /// What a provider's routers do.
    fn route(&self, ip: Ipv4Addr, to: &str) {
        let (ip_text, via) = (format!("{ip}/32"), to.to_owned());
        let status = Command::new("ip")
            .args(["route", "replace", &ip_text, "via", &via])
            .status();
        assert!(status.unwrap().success(), "{ip} via {via}");
        let mut routes = self.routes.lock().unwrap();
        routes.retain(|(one, _)| *one != ip);
        routes.push((ip, via));
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some((line, headers, body)) = read(&stream) else {
            return;
        };
        let ip = line
            .split_whitespace()
            .nth(1)
            .and_then(|path| path.strip_prefix("/failover/")?.parse().ok());
        let authorised = headers.contains("authorization: Basic dTpw") && !*self.closed.lock().unwrap();
        let known = ip.filter(|ip| self.at(*ip).is_some());
        let (status, body) = match (authorised, known) {
            (false, _) => (
                401,
                r#"{"error":{"status":401,"code":"UNAUTHORIZED","message":"no"}}"#.to_owned(),
            ),
            (_, None) => (
                404,
                r#"{"error":{"status":404,"code":"FAILOVER_IP_NOT_FOUND","message":"no"}}"#.to_owned(),
            ),
            (_, Some(ip)) => {
                if let Some(to) = body.strip_prefix("active_server_ip=") {
                    self.route(ip, to);
                }
                let at = self.at(ip).unwrap_or_default();
                (
                    200,
                    format!(r#"{{"failover":{{"ip":"{ip}","active_server_ip":"{at}"}}}}"#),
                )
            }
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}

fn read(stream: &TcpStream) -> Option<(String, String, String)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok()?;
        }
        headers.push_str(&format!("{}: {value}\n", name.to_ascii_lowercase()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, headers, String::from_utf8(body).ok()?))
}

/// Both public addresses are on every server, as the provider asks for, and are announced by none.
async fn own_addresses(server: &Server, all: [Ipv4Addr; 2]) -> Result<(), LabError> {
    let own = server.public();
    let lo: String = all
        .iter()
        .map(|ip| format!("ip addr replace {ip}/32 dev lo; "))
        .collect();
    server
        .sh(&format!("ip addr del {own}/24 dev eth0 2>/dev/null; {lo}"))
        .await
        .map(drop)
}

async fn until_held(by: &Server, wanted: &[(&str, &str)]) -> Result<(), LabError> {
    let waited = wait_until("addresses where they belong", LIMIT, || async {
        let (code, out, _) = attempt(by, &["address", "status", "--json"]).await.ok()?;
        let said: serde_json::Value = serde_json::from_str(&out).ok().filter(|_| code == 0)?;
        let homes = said["homes"].as_array()?;
        let here = |(home, holder): &(&str, &str)| {
            let mut homes = homes.iter();
            homes.any(|said| said["home"] == *home && said["holders"] == serde_json::json!([holder]))
        };
        wanted.iter().all(here).then_some(())
    });
    if let Err(error) = waited.await {
        let (_, out, err) = attempt(by, &["address", "status"]).await?;
        tell(&format!("{out}{err}{}", logs(by, 60)));
        return Err(error);
    }
    Ok(())
}

/// Waits until a visitor is served at the address.
async fn until_served(ip: Ipv4Addr) -> Result<(), LabError> {
    let url = format!("http://{ip}/");
    wait_until(&format!("an answer at {ip}"), LIMIT, || async {
        let asked = tokio::process::Command::new("curl")
            .args(["-sf", "-m", "2", "-o", "/dev/null", &url])
            .status();
        asked.await.is_ok_and(|status| status.success()).then_some(())
    })
    .await
}

#[test]
fn a_provider_routes_a_lost_servers_address_to_the_other() -> Result<(), LabError> {
    in_lab(
        "a_provider_routes_a_lost_servers_address_to_the_other",
        Duration::from_secs(300),
        |lab| async move {
            StoreKind::Etcd.available()?;
            let mut fleet = Fleet::new(lab).await?;
            fleet.found().await?;
            refused(&fleet.a, &["address", "test"], "A001", 2).await?;
            fleet.join().await?;
            fleet.share_lease(StoreKind::Etcd).await?;
            let (a, b) = (&fleet.a, &fleet.b);
            let (pa, pb) = (a.private().to_string(), b.private().to_string());
            let all = [a.public(), b.public()];
            let robot = Robot::start(vec![(a.public(), pa.clone()), (b.public(), pb.clone())]);
            for server in [a, b] {
                own_addresses(server, all).await?;
                server
                    .sh(&format!(
                        "umask 077; printf 'user = u\\npassword = p\\n' > {TOKEN}"
                    ))
                    .await?;
            }
            run(a, &["plan"]).await?; // follows the join in the file
            let ip = format!(
                "\\n[ip]\\nmethod = \"hetzner-robot\"\\nendpoint = \"{}\"\\nhome_after = \"1s\"\\ncredentials = {{ file = \"{TOKEN}\" }}\\n\
                 [ip.targets]\\na = \"{pa}\"\\nb = \"{pb}\"\\n",
                robot.url
            );
            a.sh(&format!("printf '{ip}' >> {FILE}")).await?;
            run(a, &["apply", "--yes"]).await?;
            until_held(a, &[("a", "a"), ("b", "b")]).await?;
            for server in [a, b] {
                let said = run(server, &["address", "test"]).await?;
                expect(said.contains("of a: a (") && said.contains("of b: b ("), || {
                    said.clone()
                })?;
            }
            tell(&run(a, &["address", "status"]).await?);
            until_served(b.public()).await?;

            // The login is not taken any more: said, and nothing moves.
            *robot.closed.lock().unwrap() = true;
            let (code, _, said) = attempt(b, &["address", "test"]).await?;
            expect(code == 1 && said.contains("A004") && said.contains("401"), || {
                format!("{code} {said}")
            })?;
            *robot.closed.lock().unwrap() = false;

            if long() {
                callers(&fleet, &robot).await?;
            }
            b.power_off().await?;
            until_held(a, &[("a", "a"), ("b", "a")]).await?;
            assert_eq!(robot.at(b.public()), Some(pa.clone()));
            until_served(b.public()).await?;
            tell(&run(a, &["address", "status"]).await?);
            let kinds = event_kinds(a).await?;
            expect(kinds.iter().any(|kind| kind == "address_routed"), || {
                format!("{kinds:?}")
            })
        },
    )
}

/// Somebody else gives an order, and whoever gives them dies.
async fn callers(fleet: &Fleet, robot: &Robot) -> Result<(), LabError> {
    let (a, b) = (&fleet.a, &fleet.b);
    robot.route(b.public(), &a.private().to_string());
    wait_until("the address back at b", LIMIT, || async {
        (robot.at(b.public()) == Some(b.private().to_string())).then_some(())
    })
    .await?;
    let caller = |said: &str| {
        let mut lines = said.lines();
        lines.find_map(|line| {
            line.strip_suffix(" gives the orders (hetzner-robot)")
                .map(str::to_owned)
        })
    };
    let before = caller(&run(a, &["address", "status"]).await?).unwrap_or_default();
    let (first, other) = if before == "a" { (a, b) } else { (b, a) };
    kill_agent(first).await?;
    wait_until("another to give the orders", LIMIT, || async {
        let (_, out, _) = attempt(other, &["address", "status"]).await.ok()?;
        (caller(&out)? == other.name()).then_some(())
    })
    .await?;
    start_agent(first).await?;
    until_held(other, &[("a", "a"), ("b", "b")]).await
}
