//! The three that are compared, each set up to do the same: pass requests to one application over kept connections,
//! with `X-Forwarded-For`, `-Proto` and `-Host`, checks of the application once a second (nginx has none), no access log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use pontoon_benches::program::{Proxy, start};
use pontoon_fleet::Ports;
use pontoon_rt::paths::Paths;
use pontoon_testkit::{LabError, Skip, find_program, free_port};
use serde_json::json;

use crate::wire::{NAME, Over};

/// What a proxy is started for.
pub struct Setting<'s> {
    /// The application.
    pub origin: SocketAddr,
    /// The cores of the proxy; a thread or worker for each.
    pub cores: &'s [usize],
    /// Whether answers of 64 KB come: nginx and HAProxy are faster with buffers that hold one, and slower with these
    /// when none come.
    pub large: bool,
    /// How visitors speak.
    pub over: Over,
    /// Connections of visitors at a time, and some.
    pub most: usize,
    /// Where files may be put.
    pub dir: &'s Path,
}

/// A peer's program: named by the environment, unpacked by a script into `.cache`, or installed.
fn program(variable: &str, unpacked: &str, name: &str) -> Result<PathBuf, LabError> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let cached = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.cache")
        .join(unpacked);
    named
        .or_else(|| cached.is_file().then_some(cached))
        .or_else(|| find_program(name))
        .ok_or_else(|| {
            LabError::from(Skip(format!(
                "{name} is not here: script/bench fetches Debian's, or {variable} names one"
            )))
        })
}

/// The peers' versions in their own words.
///
/// # Errors
/// [`LabError::Skip`] when one is not here.
pub fn versions() -> Result<String, LabError> {
    let say = |program: PathBuf| -> Result<String, LabError> {
        let said = Command::new(&program).arg("-v").output();
        let said = said.map_err(LabError::io("a peer's version"))?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or_default();
        Ok(line.split(" 20").next().unwrap_or(line).to_owned())
    };
    Ok(format!(
        "{}; {}",
        say(nginx_program()?)?,
        say(haproxy_program()?)?
    ))
}

fn nginx_program() -> Result<PathBuf, LabError> {
    program("PONTOON_BENCH_NGINX", "nginx/usr/sbin/nginx", "nginx")
}

fn haproxy_program() -> Result<PathBuf, LabError> {
    program("PONTOON_BENCH_HAPROXY", "haproxy/bin/haproxy", "haproxy")
}

fn listen() -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}

/// nginx: reuseport, a pool of kept connections, no limit to requests on one.
///
/// # Errors
/// [`LabError::Skip`] when there is none.
pub async fn nginx(setting: &Setting<'_>) -> Result<Proxy, LabError> {
    let program = nginx_program()?;
    let home = setting.dir.join("nginx");
    std::fs::create_dir_all(&home).map_err(LabError::io("folder"))?;
    let (root, address) = (home.display(), listen()?);
    let buffers = match setting.large {
        true => "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
        false => "",
    };
    let (listen, certificate) = match setting.over {
        Over::Plain => ("", String::new()),
        // All three offer TLS 1.2, too.
        Over::Tls | Over::Http2 => (
            if setting.over == Over::Tls {
                " ssl"
            } else {
                " ssl http2"
            },
            format!(
                "ssl_certificate {0}/site.pem; ssl_certificate_key {0}/site.key; ssl_protocols TLSv1.2 TLSv1.3;",
                setting.dir.display()
            ),
        ),
    };
    let config = format!(
        "daemon off; user root; worker_processes {workers}; worker_rlimit_nofile {files}; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections {most}; multi_accept on; }}\n\
         http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
         uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi; keepalive_requests 1000000000; keepalive_timeout 75s; {buffers} {certificate}\n\
         upstream app {{ server {origin}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{ listen {address}{listen} reuseport backlog=4096; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; }} }} }}\n",
        workers = setting.cores.len(),
        most = setting.most,
        files = 2 * setting.most + 1000,
        origin = setting.origin,
    );
    let file = home.join("nginx.conf");
    std::fs::write(&file, config).map_err(LabError::io("nginx.conf"))?;
    let arguments = ["-e", "stderr", "-c"].map(str::to_owned);
    let arguments = [&arguments[..], &[file.display().to_string()]].concat();
    let log = home.join("log");
    start("nginx", &program, &arguments, &log, address, setting.cores).await
}

/// HAProxy: a thread for each core, connections to the application shared by all requests.
///
/// # Errors
/// [`LabError::Skip`] when there is none.
pub async fn haproxy(setting: &Setting<'_>) -> Result<Proxy, LabError> {
    let program = haproxy_program()?;
    let address = listen()?;
    let buffers = match setting.large {
        true => " tune.bufsize 73728\n",
        false => "",
    };
    let tls = match setting.over {
        Over::Plain => String::new(),
        Over::Tls | Over::Http2 => format!(" ssl crt {}/both.pem alpn h2,http/1.1", setting.dir.display()),
    };
    let scheme = if setting.over == Over::Plain {
        "http"
    } else {
        "https"
    };
    let config = format!(
        "global\n maxconn {most}\n nbthread {threads}\n tune.pool-high-fd-ratio 90\n{buffers}defaults\n mode http\n \
         option http-keep-alive\n http-reuse always\n timeout connect 5s\n timeout client 75s\n timeout server 60s\n \
         timeout http-keep-alive 75s\nlisten web\n bind {address} backlog 4096{tls}\n option forwardfor\n \
         http-request set-header X-Forwarded-Proto {scheme}\n http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n \
         server app {origin} check inter 1s pool-max-conn 1024\n",
        threads = setting.cores.len(),
        most = setting.most,
        origin = setting.origin,
    );
    let file = setting.dir.join("haproxy.cfg");
    std::fs::write(&file, config).map_err(LabError::io("haproxy.cfg"))?;
    let arguments = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    let log = setting.dir.join("haproxy.log");
    start("haproxy", &program, &arguments, &log, address, setting.cores).await
}

/// `pontoon edge` as it is shipped, by the view of a fleet of one server.
///
/// # Errors
/// When it is not built, or does not listen.
pub async fn pontoon(setting: &Setting<'_>) -> Result<Proxy, LabError> {
    let program = std::env::current_exe()
        .map_err(LabError::io("this program"))?
        .with_file_name("pontoon");
    let address = listen()?;
    let paths = Paths::under(&setting.dir.join("pontoon"));
    paths.create_dirs().map_err(|error| odd(&error))?;
    let view = view(setting, address)?;
    std::fs::write(paths.state_dir.join("view.json"), view.to_string()).map_err(LabError::io("view"))?;
    let arguments = [
        "edge".to_owned(),
        "--server=a".to_owned(),
        format!("--threads={}", setting.cores.len()),
        format!("--state-dir={}", paths.state_dir.display()),
        format!("--run-dir={}", paths.run_dir.display()),
    ];
    let log = setting.dir.join("pontoon.log");
    start("pontoon", &program, &arguments, &log, address, setting.cores).await
}

/// The certificate of all three: `site.pem` and `site.key`, and `both.pem` for HAProxy.
///
/// # Errors
/// When it cannot be made or written.
pub fn certificate(dir: &Path) -> Result<(), LabError> {
    let key = rcgen::KeyPair::generate().map_err(|error| odd(&error))?;
    let parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(|error| odd(&error))?;
    let certificate = parameters.self_signed(&key).map_err(|error| odd(&error))?;
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    let both = format!("{certificate}{key}");
    for (file, text) in [
        ("site.pem", &certificate),
        ("site.key", &key),
        ("both.pem", &both),
    ] {
        std::fs::write(dir.join(file), text).map_err(LabError::io("certificate"))?;
    }
    Ok(())
}

fn view(setting: &Setting<'_>, listen: SocketAddr) -> Result<serde_json::Value, LabError> {
    let origin = setting.origin;
    let is_plain = setting.over == Over::Plain;
    let (http, https) = if is_plain {
        (vec![listen], None)
    } else {
        (vec![], Some(listen))
    };
    let https = https.map(|at| {
        json!({
            "listen": {"a": [at]}, "min_version": "1.2", "redirect": true, "hsts_seconds": null, "acme_thumbprint": null,
            "certificates": [{
                "certificate": setting.dir.join("site.pem"), "key": setting.dir.join("site.key"), "ocsp": null,
            }],
        })
    });
    let ports = Ports::from_base(free_port()?);
    Ok(json!({
        "fleet": "bench", "revision": 1, "epoch": 1, "serial": 1, "sql": null,
        "servers": [{
            "name": "a", "private": listen.ip(), "public": [], "roles": ["edge", "app"], "zone": null,
            "standby": false, "state": "up", "ports": ports, "edge_listen": http,
        }],
        "https": https,
        "app": {
            "upstream": origin, "drain": 30_000,
            "health": {"path": "/", "expect": null, "interval": 1000, "timeout": 1000, "fall": 2, "rise": 2},
            "retries": {"methods": ["GET", "HEAD", "OPTIONS"], "max": 1, "budget": 20_000},
        },
    }))
}

fn odd(error: &dyn std::fmt::Display) -> LabError {
    LabError::Unknown(error.to_string())
}
