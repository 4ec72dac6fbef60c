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
    // Taken out of the lock first: who opens or looks at the database must not wait for this.
    let database = agent.database.read().await.clone();
    if let Some(database) = database {
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

#[cfg(test)]
mod tests {
    use pontoon_fleet::Role;

    use super::*;
    use crate::testing::{self, DAY};

    #[tokio::test]
    async fn a_certificate_is_renewed_at_twenty_days_by_the_holder_of_the_key() {
        let fixture = testing::founder().await;
        let agent = &fixture.agent;
        let identity = agent.membership().unwrap().identity;
        let (first_end, first_pem) = (
            identity.current().not_after(),
            identity.current().certificate_pem(),
        );
        fixture.clock.advance(DAY * 19);
        assert!(!identity.current().renew_due(agent.clock.unix()));
        fixture.clock.advance(DAY + Duration::from_secs(60));
        assert!(identity.current().renew_due(agent.clock.unix()));
        renew(agent).await.unwrap();
        let renewed = identity.current();
        assert!(renewed.not_after() > first_end && renewed.certificate_pem() != first_pem);
        assert!(!renewed.renew_due(agent.clock.unix()));
        let on_disk = Identity::load(&agent.paths.identity_dir()).unwrap();
        assert_eq!(on_disk.certificate_pem(), renewed.certificate_pem());
    }

    #[tokio::test]
    async fn a_certificate_is_signed_for_the_configured_address_and_for_members_only() {
        let fixture = testing::founder().await;
        let agent = &fixture.agent;
        let key = NewKey::generate().unwrap();
        let me: ServerName = "a".parse().unwrap();
        // The request asks for another address; the configuration's counts.
        let csr = key.csr(&me, "198.51.100.99".parse().unwrap()).unwrap();
        let member = Peer::Member {
            name: me.clone(),
            roles: Role::ALL.to_vec(),
            control: true,
        };
        let answer = sign(agent, &member, &RenewRequest { csr: csr.clone() }).unwrap();
        let current = agent.membership().unwrap().identity.current();
        let identity = Identity::assemble(
            current.fleet().clone(),
            &key,
            &answer.certificate,
            &current.ca_pem(),
        )
        .unwrap();
        assert_eq!(identity.addresses(), ["198.51.100.11".parse::<IpAddr>().unwrap()]);
        let gone = Peer::Outsider {
            name: "b".parse().unwrap(),
        };
        assert!(sign(agent, &gone, &RenewRequest { csr: csr.clone() }).is_err());
        assert!(sign(agent, &Peer::Stranger, &RenewRequest { csr }).is_err());
    }
}
