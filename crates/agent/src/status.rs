//! From what is known to what an operator reads at 3 a.m.: is it up, is it redundant, what is wrong, what next. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_decide::view::Observed;
use pontoon_fleet::units;
use pontoon_fleet::{
    DatabaseRole, Event, FleetView, LeaseRecord, Role, ServerName, ServerState, Tier, TierDetail, UnixMillis,
};

use crate::api::{API_VERSION, Health, Problem, ServerStatus, Status};
use crate::{status_cache, status_dns};

/// Everything that the verdict is made of.
pub(crate) struct StatusInputs<'a> {
    pub(crate) me: &'a ServerName,
    pub(crate) view: &'a FleetView,
    /// The latest report of each server and its age.
    pub(crate) reports: &'a BTreeMap<ServerName, Observed>,
    /// Requests per second by edge, in thousandths.
    pub(crate) rates: &'a BTreeMap<ServerName, u64>,
    pub(crate) lease: Option<LeaseRecord>,
    pub(crate) lease_store: &'a str,
    /// What is wrong with failover.
    pub(crate) failover: Vec<Problem>,
    /// What is wrong with certificates from authorities.
    pub(crate) acme: Vec<Problem>,
    /// The files of certificates that Pontoon renews.
    pub(crate) renewed_by_us: Vec<String>,
    pub(crate) recent: Vec<Event>,
    pub(crate) now: UnixMillis,
}

/// A certificate that ends sooner is named as a problem: by then it should have been renewed.
const CERTIFICATE_WORTH_A_LINE: Duration = Duration::from_secs(21 * 86_400);

/// A replica that is further behind than this is named as a problem.
const LAG_WORTH_A_LINE_MS: u64 = 10_000;

/// Builds the whole answer to `GET /v1/status`.
pub(crate) fn status(inputs: StatusInputs<'_>) -> Status {
    let servers: Vec<ServerStatus> = inputs
        .view
        .servers
        .iter()
        .map(|server| row(&inputs, server))
        .collect();
    let mut problems = Vec::new();
    disks(&inputs, &mut problems);
    edges(&inputs, &mut problems);
    certificates(&inputs, &mut problems);
    applications(&inputs, &servers, &mut problems);
    databases(&inputs, &mut problems);
    reads(&inputs, &mut problems);
    agents(&inputs, &servers, &mut problems);
    status_dns::name_servers(&inputs, &mut problems);
    status_cache::cache(&inputs, &mut problems);
    problems.extend(inputs.failover);
    problems.extend(inputs.acme);
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.health));
    let health = problems
        .iter()
        .map(|problem| problem.health)
        .max()
        .unwrap_or(Health::Healthy);
    Status {
        version: API_VERSION,
        fleet: Some(inputs.view.fleet.to_string()),
        me: Some(inputs.me.clone()),
        revision: inputs.view.revision,
        health,
        problems,
        lease: inputs.lease,
        lease_store: inputs.lease_store.to_owned(),
        servers,
        recent: inputs.recent,
        now: inputs.now,
    }
}

fn row(inputs: &StatusInputs<'_>, server: &pontoon_fleet::ServerView) -> ServerStatus {
    let heard = inputs.reports.get(&server.name);
    let (app_healthy, app_reason) = app_health(inputs, &server.name);
    ServerStatus {
        name: server.name.clone(),
        roles: server.roles.iter().copied().collect(),
        private: server.private,
        public: server.public.clone(),
        state: server.state,
        heard_ms_ago: heard.map(|heard| u64::try_from(heard.age.as_millis()).unwrap_or(u64::MAX)),
        report: heard.map(|heard| heard.report.clone()),
        edge_millirequests_per_second: inputs.rates.get(&server.name).copied(),
        app_healthy,
        app_reason,
    }
}

/// Whether the application on `server` is healthy in the eyes of most edges that answer; one that does counts
/// when they are divided, because then visitors are served.
fn app_health(inputs: &StatusInputs<'_>, server: &ServerName) -> (Option<bool>, Option<String>) {
    let (mut seen, mut healthy, mut reason) = (0, 0, None);
    for view in inputs
        .view
        .servers
        .iter()
        .filter(|view| view.state != ServerState::Unreachable)
    {
        let Some(Observed { report, .. }) = inputs.reports.get(&view.name) else {
            continue;
        };
        let Some(TierDetail::Edge(edge)) = report.tier(Tier::Edge).map(|tier| &tier.detail) else {
            continue;
        };
        let Some(upstream) = edge.upstreams.iter().find(|upstream| &upstream.server == server) else {
            continue;
        };
        seen += 1;
        if upstream.healthy {
            healthy += 1;
        } else if reason.is_none() {
            reason = upstream.reason.clone();
        }
    }
    match seen {
        0 => (None, None),
        _ if healthy * 2 >= seen => (Some(true), None),
        _ => (Some(false), reason),
    }
}

/// First of all: what else is wrong on a server whose disk is full follows from it.
fn disks(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    for server in &inputs.view.servers {
        let heard = inputs.reports.get(&server.name);
        let Some(folder) = heard.and_then(|heard| heard.report.full_disk.as_ref()) else {
            continue;
        };
        let name = &server.name;
        problems.push(Problem {
            health: Health::Degraded,
            what: format!("the disk of {name} is full: nothing more can be written to {folder}"),
            done: Some("what could not be written is tried again when there is space".to_owned()),
            next: vec![format!("on {name}: df -h {folder}")],
        });
    }
}

fn edges(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    let with_edge: Vec<_> = inputs.view.with_role(Role::Edge).collect();
    let mut working = 0;
    let maintenance = inputs.view.answers.maintenance.as_ref();
    if let Some(maintenance) = maintenance.filter(|one| !one.is_over(inputs.now)) {
        let left = maintenance
            .until
            .map(|until| until.0.saturating_sub(inputs.now.0).div_ceil(1000));
        let end = left.map_or_else(String::new, |left| {
            let left = units::format_duration(Duration::from_secs(left));
            format!("; it ends by itself in {left}")
        });
        let except = match maintenance.except.len() {
            0 => String::new(),
            _ => {
                let networks: Vec<_> = maintenance.except.iter().map(ToString::to_string).collect();
                format!(", except those from {}", networks.join(", "))
            }
        };
        problems.push(Problem {
            health: Health::Degraded,
            what: format!("visitors get the maintenance page{except}"),
            done: Some(format!("an operator wanted it so{end}")),
            next: vec!["pontoon edge maintenance off".to_owned()],
        });
    }
    for server in &with_edge {
        let report = inputs
            .reports
            .get(&server.name)
            .and_then(|heard| heard.report.tier(Tier::Edge));
        let not_listening = match report.map(|tier| &tier.detail) {
            Some(TierDetail::Edge(edge)) => edge.not_listening.clone(),
            _ => Vec::new(),
        };
        if server.state != ServerState::Unreachable && report.is_some() {
            working += 1;
        }
        if server.state != ServerState::Unreachable && report.is_none() {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("the edge on {} does not report", server.name),
                done: Some(format!("the agent on {} starts it again by itself", server.name)),
                next: vec!["pontoon events".to_owned()],
            });
        }
        let refused = match report.map(|tier| &tier.detail) {
            Some(TierDetail::Edge(edge)) => edge.pages_refused.clone(),
            _ => Vec::new(),
        };
        for page in refused {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("the edge on {} cannot show a page: {page}", server.name),
                done: Some("what it read of the file before is shown, or plain text".to_owned()),
                next: vec![format!("mend the file on {} (edge.errors)", server.name)],
            });
        }
        for address in not_listening {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("the edge on {} cannot listen: {address}", server.name),
                done: Some("it tries again every second".to_owned()),
                next: vec!["ss -ltnp".to_owned()],
            });
        }
    }
    if !with_edge.is_empty() && working == 0 {
        problems.push(Problem {
            health: Health::Down,
            what: "no edge is known to work: visitors may not be served".to_owned(),
            done: None,
            next: vec!["pontoon events".to_owned()],
        });
    }
}

/// Certificates for visitors that are about to end, or that an edge could not take.
fn certificates(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    for server in inputs.view.with_role(Role::Edge) {
        let heard = inputs.reports.get(&server.name);
        let tier = heard.and_then(|heard| heard.report.tier(Tier::Edge));
        let Some(TierDetail::Edge(edge)) = tier.map(|tier| &tier.detail) else {
            continue;
        };
        for certificate in &edge.certificates {
            let (name, source) = (&server.name, &certificate.source);
            if let Some(why) = &certificate.refused {
                let goes_on = certificate.not_after.is_some();
                problems.push(Problem {
                    health: Health::Degraded,
                    what: format!("the edge on {name} cannot use a certificate: {why}"),
                    done: goes_on.then(|| "it serves the one before, and looks again each second".to_owned()),
                    next: vec!["pontoon explain T001".to_owned()],
                });
            }
            let Some(not_after) = certificate
                .not_after
                .filter(|_| !inputs.renewed_by_us.contains(source))
            else {
                continue;
            };
            let left = not_after.since(inputs.now);
            if left < CERTIFICATE_WORTH_A_LINE {
                let what = match left.as_secs() / 86_400 {
                    _ if left.is_zero() => format!("the certificate {source} on {name} has ended"),
                    0 => format!("the certificate {source} on {name} ends today"),
                    days => format!("the certificate {source} on {name} ends in {days} days"),
                };
                problems.push(Problem {
                    health: Health::Degraded,
                    what,
                    done: None,
                    next: vec!["put a new certificate into its file: it is taken up at once".to_owned()],
                });
            }
        }
    }
}

fn applications(inputs: &StatusInputs<'_>, servers: &[ServerStatus], problems: &mut Vec<Problem>) {
    if inputs.view.app.is_none() {
        return;
    }
    let with_app: Vec<_> = servers
        .iter()
        .filter(|server| server.roles.contains(&Role::App))
        .collect();
    for server in &with_app {
        if server.app_healthy == Some(false) {
            let reason = server.app_reason.as_deref().unwrap_or("no reason given");
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("the application on {} is out: {reason}", server.name),
                done: Some("its requests go to the other servers".to_owned()),
                next: vec![format!("look at your application's log on {}", server.name)],
            });
        }
        if server.state == ServerState::Draining {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("{} is drained", server.name),
                done: Some("its requests go to the other servers".to_owned()),
                next: vec![format!("pontoon undrain {}", server.name)],
            });
        }
    }
    let known: Vec<_> = with_app.iter().filter_map(|server| server.app_healthy).collect();
    if !known.is_empty() && !known.contains(&true) {
        problems.push(Problem {
            health: Health::Down,
            what: "no application server is healthy: visitors get errors".to_owned(),
            done: Some("requests are tried on every server all the same".to_owned()),
            next: vec!["look at your application's log".to_owned()],
        });
    }
}

fn databases(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    let Some(sql) = &inputs.view.sql else { return };
    let spread = sql.spread().is_some();
    for server in inputs.view.with_role(Role::Db) {
        if server.state == ServerState::Unreachable {
            continue;
        }
        let is_primary = sql.primary.as_ref() == Some(&server.name);
        let Some(database) = inputs
            .reports
            .get(&server.name)
            .and_then(|heard| heard.report.database.as_ref())
        else {
            continue;
        };
        let name = &server.name;
        let error = database.error.as_deref().unwrap_or("no message");
        if database.role == DatabaseRole::Down {
            problems.push(Problem {
                health: if is_primary {
                    Health::Down
                } else {
                    Health::Degraded
                },
                what: format!("the database on {name} does not answer: {error}"),
                done: is_primary.then(|| "the SQL proxies hold new connections for a while".to_owned()),
                next: vec![
                    format!("look at the database's log on {name}"),
                    "pontoon events".to_owned(),
                ],
            });
        } else if !is_primary && (database.error.is_some() || database.role != DatabaseRole::Replica) {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("replication to {name} does not run: {error}"),
                done: Some(match spread {
                    true => "the primary goes on and answers the reads; this copy grows old".to_owned(),
                    false => "the primary goes on; this copy grows old".to_owned(),
                }),
                next: vec![format!("pontoon db unstick {name}")],
            });
        } else if !is_primary && database.lag_ms.is_some_and(|lag| lag > LAG_WORTH_A_LINE_MS) {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!(
                    "the replica {name} is {:.0} s behind",
                    database.lag_ms.unwrap_or_default() as f64 / 1000.0
                ),
                done: spread.then(|| "nobody reads from it until it has caught up".to_owned()),
                next: vec!["pontoon status --watch".to_owned()],
            });
        } else if is_primary && database.read_only {
            problems.push(Problem {
                health: Health::Down,
                what: format!("the primary database on {name} is read-only"),
                done: None,
                next: vec!["pontoon events".to_owned()],
            });
        }
    }
    if sql.primary.is_none() {
        problems.push(Problem {
            health: Health::Down,
            what: "no database server may take writes: nobody holds the lease".to_owned(),
            done: Some("the SQL proxies hold new connections for a while".to_owned()),
            next: vec!["pontoon events".to_owned()],
        });
    }
}

/// SQL proxies that are to spread reads and cannot.
fn reads(inputs: &StatusInputs<'_>, problems: &mut Vec<Problem>) {
    for server in &inputs.view.servers {
        if server.state == ServerState::Unreachable {
            continue;
        }
        let heard = inputs.reports.get(&server.name);
        let tier = heard.and_then(|heard| heard.report.tier(Tier::Sql));
        let Some(TierDetail::Sql(sql)) = tier.map(|tier| &tier.detail) else {
            continue;
        };
        let Some(obstacle) = sql.spread.as_ref().and_then(|spread| spread.obstacle.as_ref()) else {
            continue;
        };
        let name = &server.name;
        let next = if server.roles.contains(&Role::Db) {
            format!("on {name}: systemctl restart pontoon-agent")
        } else {
            format!("copy that file to {name} from a server with the role db")
        };
        problems.push(Problem {
            health: Health::Degraded,
            what: format!("the SQL proxy on {name} spreads no reads: {obstacle}"),
            done: Some("it passes connections through to the primary".to_owned()),
            next: vec![next],
        });
    }
}

fn agents(inputs: &StatusInputs<'_>, servers: &[ServerStatus], problems: &mut Vec<Problem>) {
    for server in servers {
        if server.state == ServerState::Unreachable {
            let since = match server.heard_ms_ago {
                Some(age) => format!("has not answered for {} s", age / 1000),
                None => "has never answered".to_owned(),
            };
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("the agent on {} {since}", server.name),
                done: Some("traffic follows the edges' own checks, not the agent's".to_owned()),
                next: vec![format!("on {}: systemctl status pontoon-agent", server.name)],
            });
        } else if let Some(trouble) = server.report.as_ref().and_then(|report| report.trouble.as_ref()) {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!("{} is not as configured: {trouble}", server.name),
                done: Some("nothing more until the cause is mended".to_owned()),
                next: vec![
                    format!("pontoon explain {}", trouble.code),
                    "pontoon apply".to_owned(),
                ],
            });
        } else if let Some(report) = &server.report
            && report.revision != inputs.view.revision
        {
            problems.push(Problem {
                health: Health::Degraded,
                what: format!(
                    "{} runs revision {}, this server revision {}",
                    server.name, report.revision, inputs.view.revision
                ),
                done: Some("the older one fetches the newer by itself".to_owned()),
                next: vec!["pontoon events".to_owned()],
            });
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
