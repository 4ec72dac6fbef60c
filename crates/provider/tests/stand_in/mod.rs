//! Stand-ins for the providers' interfaces, on loopback: written from their documents, not the providers themselves. One
//! knows one address and where it is, and misbehaves as it is told.

#![allow(dead_code, reason = "each of the tests uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_config::{AddressMethod, Addresses, Credentials, Hosted};
use pontoon_fleet::{Epoch, ServerName};
use pontoon_provider::{Claim, Mover};

pub const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 111));

/// What must never be seen anywhere but on the wire.
pub const SECRET: &str = "hunter2hunter2";

/// Which provider is stood in for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    HetznerCloud,
    HetznerRobot,
    DigitalOcean,
    Ovh,
}

pub const ALL: [Kind; 4] = [
    Kind::HetznerCloud,
    Kind::HetznerRobot,
    Kind::DigitalOcean,
    Kind::Ovh,
];

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Every request is answered so: status, header, body.
    Every(u16, &'static str, &'static str),
    /// Requests that move something are answered so, and nothing is done.
    Moves(u16, &'static str),
    /// Requests that move something are answered so, and done.
    DoneBut(u16),
    /// Says that it is done, and does nothing.
    Lies,
    /// Answers questions only: what moves something is done, and the connection closed.
    ClosesAfter,
    /// Never answers.
    Hangs,
    /// What is no JSON.
    Nonsense,
    /// JSON of another kind.
    OtherJson,
}

/// What a request was.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

pub struct State {
    pub at: String,
    pub fault: Fault,
    pub asked: Vec<Asked>,
    /// Questions that are answered as before the move, while the provider is at it.
    pub slow: u32,
    was: String,
    left: u32,
}

#[derive(Clone)]
pub struct StandIn {
    pub kind: Kind,
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

impl StandIn {
    /// The address is at server a.
    pub fn new(kind: Kind) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = kind.target("a");
        let stand_in = StandIn {
            kind,
            url: format!("http://{}{}", listener.local_addr().unwrap(), kind.base()),
            state: Arc::new(Mutex::new(State {
                was: at.clone(),
                at,
                fault: Fault::None,
                asked: Vec::new(),
                slow: 0,
                left: 0,
            })),
        };
        let served = stand_in.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        stand_in
    }

    pub fn fault(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    pub fn at(&self) -> String {
        self.state.lock().unwrap().at.clone()
    }

    /// What was asked so far, without questions of the time; forgotten then.
    pub fn asked(&self) -> Vec<Asked> {
        let mut asked = std::mem::take(&mut self.state.lock().unwrap().asked);
        asked.retain(|asked| asked.path != "/1.0/auth/time");
        asked
    }

    /// A mover that asks here, with its secret in a file in `dir`.
    pub fn mover(&self, dir: &Path, timeout: Duration) -> Mover {
        let file = dir.join("provider.env");
        std::fs::write(&file, self.kind.credentials()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let settings = settings(
            self.kind.method(),
            Some(file),
            Some(self.url.clone()),
            timeout,
            self.kind.targets(),
        );
        let mover = Mover::new(&"notes".parse().unwrap(), &settings).unwrap().unwrap();
        mover.looking_each(Duration::from_millis(10))
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some(asked) = read(&stream) else { return };
        let mut state = self.state.lock().unwrap();
        state.asked.push(asked.clone());
        let moves = asked.method == "POST";
        let time = asked.path == "/1.0/auth/time";
        let fault = state.fault.clone();
        let answer = match fault {
            Fault::Hangs => {
                drop(state);
                // The connection stays open until the test has ended.
                loop {
                    std::thread::park();
                }
            }
            Fault::Every(status, header, body) => (status, header, body.to_owned()),
            Fault::Nonsense => (200, "", "<html>welcome</html>".to_owned()),
            Fault::OtherJson => (200, "", "[7]".to_owned()),
            Fault::Moves(status, body) if moves => (status, "", body.to_owned()),
            Fault::Lies if moves => (200, "", self.kind.done(&state.at)),
            _ if time => (200, "", "1700000000".to_owned()),
            _ if moves => match self.kind.moved(&asked) {
                Some(target) => {
                    state.was = std::mem::replace(&mut state.at, target);
                    state.left = state.slow;
                    match fault {
                        Fault::ClosesAfter => return,
                        Fault::DoneBut(status) => (status, "", String::new()),
                        _ => (201, "", self.kind.done(&state.at)),
                    }
                }
                None => (400, "", r#"{"message":"what?"}"#.to_owned()),
            },
            _ => {
                let at = match state.left {
                    0 => state.at.clone(),
                    left => {
                        state.left = left - 1;
                        state.was.clone()
                    }
                };
                match self.kind.found(&asked.path, &at) {
                    Some(found) => (200, "", found),
                    None => (404, "", r#"{"message":"no such thing"}"#.to_owned()),
                }
            }
        };
        drop(state);
        let (status, header, body) = answer;
        let header = if header.is_empty() {
            String::new()
        } else {
            format!("{header}\r\n")
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}

impl Kind {
    pub fn method(self) -> AddressMethod {
        match self {
            Kind::HetznerCloud => AddressMethod::HetznerCloud,
            Kind::HetznerRobot => AddressMethod::HetznerRobot,
            Kind::DigitalOcean => AddressMethod::DigitalOcean,
            Kind::Ovh => AddressMethod::Ovh,
        }
    }

    fn base(self) -> &'static str {
        match self {
            Kind::HetznerCloud => "/v1",
            Kind::HetznerRobot | Kind::DigitalOcean => "",
            Kind::Ovh => "/1.0",
        }
    }

    /// What it calls a server of the fleet.
    pub fn target(self, server: &str) -> String {
        let number = server.as_bytes()[0];
        match self {
            Kind::HetznerCloud | Kind::DigitalOcean => format!("47{number}"),
            Kind::HetznerRobot => format!("198.51.100.{number}"),
            Kind::Ovh => format!("ns{number}.ip-198-51-100.eu"),
        }
    }

    pub fn targets(self) -> BTreeMap<ServerName, String> {
        ["a", "b"]
            .map(|name| (name.parse().unwrap(), self.target(name)))
            .into()
    }

    fn credentials(self) -> String {
        match self {
            Kind::HetznerCloud | Kind::DigitalOcean => format!("token = {SECRET}\n"),
            Kind::HetznerRobot => format!("user = fleet\npassword = {SECRET}\n"),
            Kind::Ovh => format!("application_key = k\napplication_secret = {SECRET}\nconsumer_key = c\n"),
        }
    }

    /// The answer to a question where the address is.
    fn found(self, path: &str, at: &str) -> Option<String> {
        Some(match (self, path) {
            (Kind::HetznerCloud, "/v1/floating_ips?page=1&per_page=50") => {
                r#"{"floating_ips":[{"id":1,"ip":"198.51.100.9","server":null}],"meta":{"pagination":{"page":1,"next_page":2}}}"#.to_owned()
            }
            (Kind::HetznerCloud, "/v1/floating_ips?page=2&per_page=50") => format!(
                r#"{{"floating_ips":[{{"id":42,"ip":"{IP}","server":{at},"type":"ipv4"}}],"meta":{{"pagination":{{"page":2,"next_page":null}}}}}}"#
            ),
            (Kind::HetznerRobot, "/failover/198.51.100.111") => format!(
                r#"{{"failover":{{"ip":"{IP}","netmask":"255.255.255.255","server_ip":"198.51.100.97","active_server_ip":"{at}"}}}}"#
            ),
            (Kind::DigitalOcean, "/v2/reserved_ips/198.51.100.111") => {
                format!(r#"{{"reserved_ip":{{"ip":"{IP}","droplet":{{"id":{at},"name":"x"}},"locked":false}}}}"#)
            }
            (Kind::Ovh, "/1.0/ip/198.51.100.111%2F32") => {
                format!(r#"{{"ip":"{IP}/32","type":"failover","routedTo":{{"serviceName":"{at}"}}}}"#)
            }
            _ => return None,
        })
    }

    /// Where a request to move it wants it.
    fn moved(self, asked: &Asked) -> Option<String> {
        let json = || serde_json::from_str::<serde_json::Value>(&asked.body).ok();
        match (self, asked.path.as_str()) {
            (Kind::HetznerCloud, "/v1/floating_ips/42/actions/assign") => {
                json()?["server"].as_u64().map(|id| id.to_string())
            }
            (Kind::HetznerRobot, "/failover/198.51.100.111") => {
                asked.body.strip_prefix("active_server_ip=").map(str::to_owned)
            }
            (Kind::DigitalOcean, "/v2/reserved_ips/198.51.100.111/actions") => {
                let json = json().filter(|json| json["type"] == "assign")?;
                json["droplet_id"].as_u64().map(|id| id.to_string())
            }
            (Kind::Ovh, "/1.0/ip/198.51.100.111%2F32/move") => json()?["to"].as_str().map(str::to_owned),
            _ => None,
        }
    }

    /// The answer to a request that was taken.
    fn done(self, at: &str) -> String {
        match self {
            Kind::HetznerCloud => {
                r#"{"action":{"id":13,"command":"assign_floating_ip","status":"running","error":null}}"#
                    .to_owned()
            }
            Kind::HetznerRobot => format!(r#"{{"failover":{{"ip":"{IP}","active_server_ip":"{at}"}}}}"#),
            Kind::DigitalOcean => {
                r#"{"action":{"id":7,"status":"in-progress","type":"assign_ip"}}"#.to_owned()
            }
            Kind::Ovh => r#"{"taskId":7,"function":"genericMoveFloatingIp","status":"init"}"#.to_owned(),
        }
    }
}

/// `[ip]` of a provider.
pub fn settings(
    method: AddressMethod,
    credentials: Option<std::path::PathBuf>,
    endpoint: Option<String>,
    timeout: Duration,
    targets: BTreeMap<ServerName, String>,
) -> Addresses {
    Addresses {
        method,
        fast: false,
        home_after: Duration::from_secs(60),
        gateway: None,
        interface: None,
        hosted: Some(Hosted {
            timeout,
            credentials: credentials.map(Credentials::File),
            endpoint,
            targets,
        }),
    }
}

/// The address is wanted at that server.
pub fn claim(to: &str) -> Claim {
    Claim {
        ip: IP,
        to: to.parse().unwrap(),
        home: "a".parse().unwrap(),
        epoch: Epoch(7),
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        headers,
        body: String::from_utf8(body).ok()?,
    })
}
