//! A real ACME authority on the lab: Pebble, which Let's Encrypt's developers test clients with, and its name server.

use std::time::Duration;

use pontoon_testkit::{Lab, LabError, Process, Server, Skip, Spawn, find_program, wait_until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

/// Where its name server is told what names stand for.
const NAMES: &str = "http://127.0.0.1:8055";

/// An authority on a machine of its own, outside of the fleet.
pub struct Authority {
    /// The machine.
    pub server: Server,
    pebble: Process,
    names: Process,
    /// The name server that it asks.
    resolver: String,
    /// Who signed the certificate of its own web server, PEM: what `edge.tls.acme.ca` is to have.
    pub trusted_by: String,
}

impl Authority {
    /// Whether it can be had here.
    ///
    /// # Errors
    /// What is missing.
    pub fn available() -> Result<(), Skip> {
        find_program("pebble")
            .and(find_program("pebble-challtestsrv"))
            .map(drop)
            .ok_or_else(|| Skip("Debian's package pebble is not installed".to_owned()))
    }

    /// Switches a machine `ca` on, and starts it there. No name stands for anything yet.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(lab: &mut Lab) -> Result<Authority, LabError> {
        Authority::available()?;
        let server = lab.add_server("ca", Vec::new()).await?;
        server.exec("mkdir", &["-p", "/etc/pontoon"]).await?;
        let trusted_by = own_certificate(&server)?;
        let listen = |port: u16| format!("{}:{port}", server.public());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": listen(14000), "managementListenAddress": listen(15000),
            "certificate": "/etc/pontoon/own.pem", "privateKey": "/etc/pontoon/own.key",
            "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": 7_776_000,
        }});
        write(&server, "/etc/pontoon/pebble.json", &config.to_string())?;
        let names = Spawn::new("pebble-challtestsrv", "names").args([
            "-dns01",
            "127.0.0.1:8053",
            "-management",
            "127.0.0.1:8055",
            "-defaultIPv4",
            "",
            "-defaultIPv6",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]);
        let names = server.spawn(names).await?;
        let resolver = "127.0.0.1:8053".to_owned();
        let pebble = spawn(&server, &resolver).await?;
        let authority = Authority {
            server,
            pebble,
            names,
            resolver,
            trusted_by,
        };
        authority.wait().await?;
        Ok(authority)
    }

    /// Its directory, as a server of the fleet has it in its configuration.
    pub fn directory(&self) -> String {
        format!("https://{}:14000/dir", self.server.public())
    }

    /// From now on `name` stands for the public address of `server`.
    ///
    /// # Errors
    /// When its name server does not take it.
    pub async fn resolves(&self, name: &str, server: &Server) -> Result<(), LabError> {
        for (what, value) in [
            ("clear-a", serde_json::json!({ "host": format!("{name}.") })),
            (
                "add-a",
                serde_json::json!({ "host": format!("{name}."), "addresses": [server.public().to_string()] }),
            ),
        ] {
            let url = format!("{NAMES}/{what}");
            self.server
                .exec("curl", &["-sSf", "-d", &value.to_string(), &url])
                .await?;
        }
        Ok(())
    }

    /// What visitors trust: its present root. It has a new one with each start.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn root(&self) -> Result<String, LabError> {
        let url = format!("https://{}:15000/roots/0", self.server.public());
        self.server.exec("curl", &["-sSfk", &url]).await
    }

    /// Its name server stops to answer, or answers again, what it was asked meanwhile too: the authority looks at
    /// nothing in between.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hesitate(&self, hesitates: bool) -> Result<(), LabError> {
        self.names.id().freeze(hesitates)
    }

    /// Everything that it was asked, as it wrote it down.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.server.log_file("pebble")).unwrap_or_default()
    }

    /// It is gone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> Result<(), LabError> {
        self.pebble.kill_9().await
    }

    /// It is there again, and knows no account and no order.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> Result<(), LabError> {
        self.pebble = spawn(&self.server, &self.resolver).await?;
        self.wait().await
    }

    /// From its next start on it asks the name server at the public address of `server`, and no other.
    pub fn asks(&mut self, server: &Server) {
        self.resolver = format!("{}:53", server.public());
    }

    async fn wait(&self) -> Result<(), LabError> {
        let directory = self.directory();
        wait_until("the authority answers", Duration::from_secs(30), async || {
            self.server.exec("curl", &["-sSfk", &directory]).await.ok()
        })
        .await
        .map(drop)
    }
}

async fn spawn(server: &Server, resolver: &str) -> Result<Process, LabError> {
    // It would wait for up to 15 seconds before it looks, use some proofs again, and refuse some good nonces: the last it
    // may, clients must live with that.
    let pebble = Spawn::new("pebble", "pebble")
        .args(["-config", "/etc/pontoon/pebble.json", "-dnsserver", resolver])
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_AUTHZREUSE", "0");
    server.spawn(pebble).await
}

/// Gives its web server a certificate, and gives back who signed that.
fn own_certificate(server: &Server) -> Result<String, LabError> {
    let failed = |error: rcgen::Error| LabError::App(error.to_string());
    let root_key = KeyPair::generate().map_err(failed)?;
    let mut root = CertificateParams::new(Vec::new()).map_err(failed)?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).map_err(failed)?.pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = CertificateParams::new([server.public().to_string()])
        .and_then(|params| params.signed_by(&key, &issuer))
        .map_err(failed)?;
    write(server, "/etc/pontoon/own.pem", &certificate.pem())?;
    write(server, "/etc/pontoon/own.key", &key.serialize_pem())?;
    Ok(root_pem)
}

fn write(server: &Server, path: &str, text: &str) -> Result<(), LabError> {
    std::fs::write(server.path(path)?, text).map_err(LabError::io("write a file"))
}
