//! What an operator is told of certificates, and what one may ask for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_acme::{Entry, FailureKind, Place, schedule};
use pontoon_fleet::{
    CertificateReport, Challenge, Code, FleetView, Proofs, Refusal, Role, ServerName, Tier, TierDetail,
    UnixMillis,
};

use super::order::orderer;
use super::{change, file_of, place, wanted};
use crate::api::{API_VERSION, CertLine, CertStatus, Health, Problem, RenewCertRequest};
use crate::core::Agent;
use crate::publish;
use crate::reporter::Reporter;

/// An order is waited for so long; then the command says that it goes on.
const PATIENCE: Duration = Duration::from_secs(300);

/// `GET /v1/certs`
pub(crate) fn status(agent: &Agent) -> Result<CertStatus, Refusal> {
    let me = agent.member()?.me;
    let view = publish::view(agent).ok_or_else(|| agent.config().err().unwrap_or_else(no_view))?;
    let acme = wanted(agent);
    let mut lines: Vec<CertLine> = Vec::new();
    let reports = on_edges(agent, &view);
    let names = acme.iter().flat_map(|acme| &acme.names);
    for name in names {
        let Some(acme) = &acme else { break };
        let entry = agent.acme.book().names.get(name).cloned().unwrap_or_default();
        lines.push(of_authority(agent, name, &entry, &place(acme), &reports));
    }
    let ours = |source: &str| lines.iter().any(|line| line.file == source);
    let mut files: BTreeMap<(String, Option<UnixMillis>), CertLine> = BTreeMap::new();
    for (server, report) in &reports {
        if ours(&report.source) {
            continue;
        }
        let key = (report.source.clone(), report.not_after);
        let line = files.entry(key).or_insert_with(|| of_file(report));
        place_on(line, server, report);
    }
    lines.extend(files.into_values());
    Ok(CertStatus {
        version: API_VERSION,
        fleet: view.fleet.to_string(),
        me,
        orderer: orderer(agent),
        directory: acme.map(|acme| acme.directory),
        certificates: lines,
        now: agent.clock.unix(),
    })
}

fn no_view() -> Refusal {
    Refusal::new(Code::J007, "this server is not in the fleet's configuration")
}

/// What the edges say of certificates.
fn on_edges(agent: &Agent, view: &FleetView) -> Vec<(ServerName, CertificateReport)> {
    let reports = publish::observed(agent);
    let mut found = Vec::new();
    for server in view.with_role(Role::Edge) {
        let heard = reports.get(&server.name);
        let tier = heard.and_then(|heard| heard.report.tier(Tier::Edge));
        if let Some(TierDetail::Edge(edge)) = tier.map(|tier| &tier.detail) {
            let own = edge.certificates.iter();
            found.extend(own.map(|certificate| (server.name.clone(), certificate.clone())));
        }
    }
    found
}

fn of_authority(
    agent: &Agent,
    name: &str,
    entry: &Entry,
    place: &Place,
    reports: &[(ServerName, CertificateReport)],
) -> CertLine {
    let issued = entry.issued.as_ref().map(|stamped| &stamped.value);
    let file = file_of(agent, name).certificate.display().to_string();
    let attempt = entry.attempt.as_ref().map(|stamped| (stamped.at, &stamped.value));
    let failed = attempt.filter(|(_, attempt)| attempt.asked == schedule::asked(place, name));
    let failure = failed.and_then(|(at, attempt)| Some((at, attempt.failure.clone()?.1)));
    let mut line = CertLine {
        names: vec![name.to_owned()],
        issuer: issued.map(|issued| issued.issuer.clone()),
        not_after: issued.map(|issued| issued.not_after),
        source: place.directory.clone(),
        next: Some(schedule::due(Some(entry), place, name)),
        error: failure.as_ref().map(|(_, what)| what.clone()),
        error_at: failure.map(|(at, _)| at),
        on: Vec::new(),
        refused: Vec::new(),
        file,
    };
    for (server, report) in reports {
        if report.source == line.file {
            place_on(&mut line, server, report);
        }
    }
    line
}

fn of_file(report: &CertificateReport) -> CertLine {
    CertLine {
        names: report.names.clone(),
        issuer: Some(report.issuer.clone()).filter(|issuer| !issuer.is_empty()),
        not_after: report.not_after,
        source: "file".to_owned(),
        next: None,
        error: None,
        error_at: None,
        on: Vec::new(),
        refused: Vec::new(),
        file: report.source.clone(),
    }
}

/// Says whether `server` shows it: an older one is not it.
fn place_on(line: &mut CertLine, server: &ServerName, report: &CertificateReport) {
    if report.not_after.is_some() && report.not_after == line.not_after {
        line.on.push(server.clone());
    }
    if let Some(why) = &report.refused {
        line.refused.push((server.clone(), why.clone()));
    }
}

/// The files of certificates that Pontoon renews: their end is no operator's business unless that fails.
pub(crate) fn renewed_by_us(agent: &Agent) -> Vec<String> {
    let names = wanted(agent).map(|acme| acme.names).unwrap_or_default();
    let file = |name: &String| file_of(agent, name).certificate.display().to_string();
    names.iter().map(file).collect()
}

/// What is not as it should be, for `pontoon status`.
pub(crate) fn problems(agent: &Agent) -> Vec<Problem> {
    let Some(acme) = wanted(agent) else {
        return Vec::new();
    };
    let (now, book) = (agent.clock.unix(), agent.acme.book());
    let place = place(&acme);
    let of_name = |name: &String| problem(name, book.names.get(name)?, &place, now);
    acme.names.iter().filter_map(of_name).collect()
}

fn problem(name: &str, entry: &Entry, place: &Place, now: UnixMillis) -> Option<Problem> {
    let issued = entry.issued.as_ref().map(|stamped| &stamped.value);
    let attempt = &entry.attempt.as_ref()?.value;
    let (_, why) = attempt.failure.as_ref()?;
    if attempt.asked != schedule::asked(place, name) {
        return None;
    }
    let (what, done) = match issued {
        None => (format!("there is no certificate for {name}: {why}"), None),
        Some(issued) if issued.not_after <= now => (
            format!("the certificate for {name} has ended, and there is no new one: {why}"),
            None,
        ),
        Some(issued) => {
            let days = issued.not_after.since(now).as_secs() / 86_400;
            (
                format!("the certificate for {name} was not renewed: {why}"),
                Some(format!(
                    "the present one is served for {days} days more, and it is tried again"
                )),
            )
        }
    };
    Some(Problem {
        health: Health::Degraded,
        what,
        done,
        next: vec![
            "pontoon cert status".to_owned(),
            format!("pontoon cert renew {name}"),
        ],
    })
}

/// `POST /v1/certs/renew`: asks for new certificates, and waits for them.
pub(crate) async fn renew(
    agent: &Arc<Agent>,
    request: RenewCertRequest,
    reporter: &Reporter,
) -> Result<String, Refusal> {
    let me = agent.member()?.me;
    let acme = wanted(agent).ok_or_else(|| {
        Refusal::new(Code::T003, "no certificate of this fleet comes from an authority")
            .because("the configuration has no [edge.tls.acme]")
            .next("where they come from", "pontoon cert status")
    })?;
    let names = match request.name {
        None => acme.names.clone(),
        Some(name) if acme.names.contains(&name) => vec![name],
        Some(name) => {
            return Err(Refusal::new(
                Code::T003,
                format!("{name} gets no certificate from the authority"),
            )
            .because(format!("these do: {}", acme.names.join(", "))));
        }
    };
    if !agent.is_control() {
        return Err(
            Refusal::new(Code::J005, format!("{me} may not order certificates"))
                .because("servers with the role db may: they hold the fleet's account")
                .next("on one of those", "pontoon cert renew"),
        );
    }
    let now = agent.clock.unix();
    let asked: Vec<(String, UnixMillis)> = change(agent, |book| {
        let stamp = |name: String| {
            let entry = book.entry(&name);
            // Later than what was answered already, whatever the clock of who answered said.
            let last = [
                entry.wanted,
                entry.attempt.as_ref().map(|attempt| attempt.at),
                entry.issued.as_ref().map(|issued| issued.value.obtained),
            ];
            let least = last.into_iter().flatten().max().map_or(0, |at| at.0 + 1);
            let at = UnixMillis(now.0.max(least));
            entry.wanted = Some(at);
            (name, at)
        };
        names.into_iter().map(stamp).collect()
    });
    let mut failed: Option<Refusal> = None;
    for (name, at) in &asked {
        let who = orderer(agent).unwrap_or_else(|| me.clone());
        reporter
            .step(&who, format!("ordering a certificate for {name}"))
            .await;
        match answered(agent, name, *at).await {
            Ok(text) => reporter.done(&who, &text).await,
            Err(refusal) => {
                reporter.note(refusal.to_string()).await;
                failed.get_or_insert(refusal);
            }
        }
    }
    match failed {
        Some(refusal) => Err(refusal),
        None => Ok("the edges serve them from now on".to_owned()),
    }
}

async fn answered(agent: &Agent, name: &str, asked: UnixMillis) -> Result<String, Refusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let changed = agent.acme.changed.notified();
        let entry = agent.acme.book().names.get(name).cloned().unwrap_or_default();
        if let Some(issued) = entry
            .issued
            .map(|stamped| stamped.value)
            .filter(|issued| issued.obtained >= asked)
        {
            let days = issued.not_after.since(agent.clock.unix()).as_secs() / 86_400;
            return Ok(format!(
                "{name}: issued by {}, good for {days} days",
                issued.issuer
            ));
        }
        if let Some(attempt) = entry.attempt.filter(|attempt| attempt.at >= asked)
            && let Some((kind, why)) = attempt.value.failure
        {
            let code = match kind {
                FailureKind::Unproved => Code::T010,
                _ => Code::T002,
            };
            let refusal = Refusal::new(code, format!("there is no new certificate for {name}")).because(why);
            let in_the_dns = wanted(agent).is_some_and(|acme| acme.challenge == Challenge::Dns01);
            return Err(match kind {
                FailureKind::Unproved => refusal.next("how the name servers are", "pontoon status --wide"),
                // It asked whom the zone is delegated to, who may be somebody else.
                FailureKind::Refused if in_the_dns => refusal.next(
                    "where the authority looks",
                    format!("dig +trace TXT {}", Proofs::place(name)),
                ),
                _ => refusal.next("what is served meanwhile", "pontoon cert status"),
            });
        }
        if Instant::now() >= deadline {
            return Err(
                Refusal::new(Code::T002, format!("there is no new certificate for {name} yet"))
                    .because(format!(
                        "nothing was heard of it for {} s; it goes on",
                        PATIENCE.as_secs()
                    ))
                    .next("how it stands", "pontoon cert status"),
            );
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
