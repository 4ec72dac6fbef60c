//! Certificates live 30 days and are renewed at 20 by whoever holds the authority's key: ten days for somebody to
//! notice when that fails.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_fleet::{Code, EventKind, Refusal, ServerName};
use pontoon_pki::{Authority, Identity, NewKey, SERVER_LIFETIME};
use pontoon_rt::http::Call;

use crate::authorise::{Peer, is_control};
use crate::core::Agent;
use crate::dial;
use crate::peer::{RenewAnswer, RenewRequest};

/// Between two looks at the certificate's end.
const INTERVAL: Duration = Duration::from_secs(600);

/// Runs until shutdown.
pub(crate) async fn run(agent: Arc<Agent>) {
    loop {
        if let Some(membership) = agent.membership()
            && membership.identity.reload().renew_due(agent.clock.unix())
            && let Err(refusal) = renew(&agent).await
        {
            tracing::error!(%refusal, "the certificate is due and was not renewed; trying again in ten minutes");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = agent.shutdown.requested() => return,
        }
    }
}

/// Makes a new key and gets a certificate for it: from the authority's key on this server, or from a control server.
pub(crate) async fn renew(agent: &Arc<Agent>) -> Result<(), Refusal> {
    let membership = agent.member()?;
    let (me, dir) = (membership.me.clone(), agent.paths.identity_dir());
    let old = membership.identity.current();
    let key = NewKey::pending(&dir)?;
    let private = private_address(agent, &me)?;
    let csr = key.csr(&me, private)?;
    let certificate = match Authority::load_optional(&dir)? {
        Some(authority) => authority.sign_server(&csr, &me, private, agent.clock.unix(), SERVER_LIFETIME)?,
        None => ask_a_control_server(agent, &me, &csr).await?,
    };
    let identity = Identity::assemble(old.fleet().clone(), &key, &certificate, &old.ca_pem())?;
    identity.save(&dir)?;
    membership.identity.reload();
    if let Some(database) = agent.database.read().await.as_ref() {
        database.renew_tls().await?;
    }
    agent.record(EventKind::CertificateRenewed {
        until: identity.not_after(),
    });
    Ok(())
}

/// Signs for a member: the name and address are those of the configuration, whatever the request says.
pub(crate) fn sign(agent: &Agent, peer: &Peer, request: &RenewRequest) -> Result<RenewAnswer, Refusal> {
    let Some(name) = peer.name() else {
        return Err(agent.member().err().unwrap_or_else(no_authority));
    };
    let authority = Authority::load_optional(&agent.paths.identity_dir())?.ok_or_else(no_authority)?;
    let private = private_address(agent, name)?;
    let certificate =
        authority.sign_server(&request.csr, name, private, agent.clock.unix(), SERVER_LIFETIME)?;
    Ok(RenewAnswer { certificate })
}

async fn ask_a_control_server(agent: &Agent, me: &ServerName, csr: &str) -> Result<String, Refusal> {
    let active = agent.config()?;
    let mut last = no_authority();
    for server in active.config.servers.iter().filter(|server| &server.name != me) {
        if !is_control(&server.roles.iter().copied().collect::<Vec<_>>()) {
            continue;
        }
        let address = dial::address_of(agent, &server.name)?;
        let call = Call::post(server.name.as_str(), "/p/v1/renew");
        let request = RenewRequest { csr: csr.to_owned() };
        match dial::ask::<_, RenewAnswer>(agent, &server.name, address, &call, Some(&request)).await {
            Ok(answer) => return Ok(answer.certificate),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

fn private_address(agent: &Agent, name: &ServerName) -> Result<IpAddr, Refusal> {
    let active = agent.config()?;
    let server = active
        .config
        .server(name)
        .ok_or_else(|| dial::no_such_server(name, &active.config))?;
    Ok(server.private)
}

fn no_authority() -> Refusal {
    Refusal::new(Code::J009, "no server with the authority's key answered")
        .because("servers with the role db hold it")
        .next("see who answers", "pontoon status")
}
