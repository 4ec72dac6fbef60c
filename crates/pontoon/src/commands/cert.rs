//! `pontoon cert`: the certificates that visitors are shown.

use clap::{Args, Subcommand};
use pontoon_agent::api::{CertStatus, RenewCertRequest};

use super::{Context, change};
use crate::output::cert::render;

/// `pontoon cert`
#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Show every certificate: names, issuer, end, where it comes from, when the next is due, what went wrong last
    Status(Status),
    /// Order new certificates from the authority now, before they are due
    Renew(Renew),
}

impl Cert {
    /// Whether the answer is for machines.
    pub fn wants_json(&self) -> bool {
        match self {
            Cert::Status(args) => args.json,
            Cert::Renew(args) => args.json,
        }
    }
}

/// `pontoon cert status`
#[derive(Debug, Args)]
pub struct Status {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// `pontoon cert renew`
#[derive(Debug, Args)]
pub struct Renew {
    /// For this name alone; by default for all that come from the authority
    name: Option<String>,
    /// Print the progress as JSON lines
    #[arg(long)]
    json: bool,
}

/// Asks the agent.
pub async fn cert(context: &Context, args: Cert) -> anyhow::Result<u8> {
    match args {
        Cert::Status(args) => {
            let found: CertStatus = context.client.get("/v1/certs").await?;
            if args.json {
                context.screen.json(&found)?;
            } else {
                context.screen.answer(&render(&found, context.screen.out))?;
            }
            Ok(0)
        }
        Cert::Renew(args) => {
            let name = args.name.map(|name| name.to_ascii_lowercase());
            let request = RenewCertRequest { name };
            change::follow(
                context,
                "/v1/certs/renew",
                &request,
                args.json,
                "pontoon cert status",
            )
            .await
        }
    }
}
