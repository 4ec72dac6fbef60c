//! `pontoon lease probe`: whether a store is fit to keep the lease.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_config::{ClientCertificate, Credentials, EtcdTls};
use pontoon_fleet::{Code, Refusal};
use pontoon_lease::probe::{Effort, Report, probe};
use pontoon_lease::{Place, open};
use pontoon_rt::clock::{Clock, SystemClock};
use serde_json::json;

use super::{Context, config};
use crate::output::paint::harmless;

/// `pontoon lease`
#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Race for small objects in a store and say whether one writer wins each time; removes them again
    Probe(Probe),
}

impl Lease {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        let Lease::Probe(args) = self;
        args.json
    }
}

/// `pontoon lease probe`
#[derive(Debug, Args)]
pub struct Probe {
    /// The store: s3://BUCKET[/KEY] or etcd://HOST:PORT[,HOST:PORT] (etcds: over TLS); by default that of fleet.toml
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Whose bucket it is, as in https://s3.example.com; by default AWS's
    #[arg(long, value_name = "URL", requires = "url")]
    pub endpoint: Option<String>,
    /// Where the keys are: file:PATH, env:NAME or credential:NAME (systemd's); never the keys themselves
    #[arg(long, value_name = "WHERE", requires = "url")]
    pub credentials: Option<String>,
    /// The authorities that signed etcd's certificates, PEM; by default those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// The certificate that etcd is shown, PEM
    #[arg(long, value_name = "FILE", requires_all = ["url", "key"])]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// How many write at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=32))]
    pub writers: u8,
    /// How often; each round has a race to create and one to replace
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Print what the store did as JSON
    #[arg(long)]
    pub json: bool,
}

/// Carries it out.
pub async fn lease(context: &Context, command: Lease) -> anyhow::Result<u8> {
    let Lease::Probe(args) = command;
    let place = place(context, &args)?;
    let cell = open(&place, PATIENCE)?;
    // Two servers that probe at once do not meet.
    let name = format!("{}-{}", SystemClock.unix().0, std::process::id());
    let effort = Effort {
        writers: usize::from(args.writers),
        rounds: usize::from(args.rounds),
    };
    let report = probe(&*cell, &name, effort).await?;
    let verdict = report.verdict();
    if args.json {
        let answer = json!({ "fit": verdict.is_ok(), "code": verdict.as_ref().err().map(|no| no.code), "report": report });
        context.screen.json(&answer)?;
        return Ok(verdict.map_or_else(|no| no.code.category().exit_status(), |()| 0));
    }
    verdict?;
    context.screen.answer(&summary(&report))?;
    Ok(0)
}

fn place(context: &Context, args: &Probe) -> anyhow::Result<Place> {
    if let Some(url) = &args.url {
        let credentials = args.credentials.as_deref().map(credentials).transpose()?;
        let place = Place::parse(url, args.endpoint.as_deref(), credentials)?;
        return Ok(place.with_files(files(args))?);
    }
    let loaded = config::load(context)?;
    let found = Place::of(loaded.config.lease.as_ref(), &loaded.config.fleet.name);
    Ok(found.ok_or_else(|| {
        Refusal::new(Code::C003, "there is no store to probe")
            .because("the lease of this configuration is a file on one server (`lease.store` is \"single\")")
            .next(
                "probe a store before you write it down",
                "pontoon lease probe s3://BUCKET --endpoint https://HOST",
            )
    })?)
}

fn files(args: &Probe) -> EtcdTls {
    let pair = args.certificate.clone().zip(args.key.clone());
    EtcdTls {
        ca: args.ca.clone(),
        client: pair.map(|(certificate, key)| ClientCertificate { certificate, key }),
    }
}

fn summary(report: &Report) -> String {
    format!(
        "fit for a lease: {}\n{} rounds of {} writers: one winner each time, no stale write taken, nothing lost\n\
         a request takes {} ms in the middle, {} ms at p99\n",
        harmless(&report.place),
        report.rounds,
        report.writers,
        report.request_p50_ms,
        report.request_p99_ms
    )
}

/// What cannot be read may be the secret itself: it is not repeated.
pub(super) fn credentials(text: &str) -> Result<Credentials, Refusal> {
    match text.split_once(':') {
        Some(("file", path)) if path.starts_with('/') => Ok(Credentials::File(PathBuf::from(path))),
        Some(("env", name)) if !name.is_empty() => Ok(Credentials::Env(name.to_owned())),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Credentials::Systemd(name.to_owned()))
        }
        _ => Err(Refusal::new(Code::C007, "--credentials says where the keys are")
            .because("it is one of file:/PATH, env:NAME and credential:NAME")),
    }
}

/// For one request: as long as the lease of an object store allows.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_pointed_to() {
        assert_eq!(credentials("file:/k"), Ok(Credentials::File("/k".into())));
        assert_eq!(credentials("env:KEYS"), Ok(Credentials::Env("KEYS".into())));
        assert_eq!(
            credentials("credential:s3"),
            Ok(Credentials::Systemd("s3".into()))
        );
        for wrong in ["AKIA1:hunter2", "file:relative", "env:", "credential:../x", "x"] {
            let error = credentials(wrong).unwrap_err();
            assert_eq!(error.code, Code::C007);
            assert!(!format!("{error:?}").contains("hunter2"), "{error}");
        }
    }
}
