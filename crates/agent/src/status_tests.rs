use std::time::Duration;

use pontoon_config::Config;
use pontoon_decide::view::{ViewInputs, compose};
use pontoon_fleet::{
    CertificateReport, DatabaseReport, DrainBook, DrainMark, EdgeReport, Engine, Epoch, Maintenance,
    Revision, ServerReport, SpreadReport, SqlReport, TierReport, UpstreamReport,
};

use super::*;

const TWO: &str = r#"
version = 1
[fleet]
name = "notes"
domains = ["notes.example.com"]
[[server]]
name = "a"
private = "198.51.100.11"
public = ["198.51.100.111"]
[[server]]
name = "b"
private = "198.51.100.12"
public = ["198.51.100.112"]
[app]
upstream = "127.0.0.1:8080"
[db]
engine = "mariadb"
listen = ["127.0.0.1:3306"]
"#;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn database(role: DatabaseRole) -> DatabaseReport {
    DatabaseReport {
        engine: Engine::Mariadb,
        version: "10.11.19".to_owned(),
        role,
        read_only: role != DatabaseRole::Primary,
        position: "0-1-7".to_owned(),
        lag_ms: (role == DatabaseRole::Replica).then_some(12),
        error: None,
    }
}

fn report(server: &str, role: DatabaseRole) -> Observed {
    let upstream = |server: &str| UpstreamReport {
        server: name(server),
        healthy: true,
        reason: None,
        in_flight: 0,
        drained_at: None,
    };
    let edge = EdgeReport {
        upstreams: vec![upstream("a"), upstream("b")],
        ..EdgeReport::default()
    };
    Observed {
        report: ServerReport {
            server: name(server),
            at: UnixMillis(0),
            version: "0.1.0".to_owned(),
            revision: Revision(2),
            settled: Revision(2),
            trouble: None,
            config_digest: "d".to_owned(),
            tiers: vec![TierReport {
                pid: 7,
                view_serial: 1,
                detail: TierDetail::Edge(edge),
            }],
            database: Some(database(role)),
            load_percent: 10,
            drains: DrainBook::default(),
            lease: None,
            unheard: Vec::new(),
            full_disk: None,
            maintenance: Default::default(),
            purges: Default::default(),
            addresses_changed: pontoon_fleet::UnixMillis::default(),
            elsewhere: Vec::new(),
            routing: None,
        },
        age: Duration::from_millis(100),
    }
}

fn healthy() -> BTreeMap<ServerName, Observed> {
    [
        (name("a"), report("a", DatabaseRole::Primary)),
        (name("b"), report("b", DatabaseRole::Replica)),
    ]
    .into()
}

fn edge_of<'a>(reports: &'a mut BTreeMap<ServerName, Observed>, server: &str) -> &'a mut EdgeReport {
    match &mut reports.get_mut(&name(server)).unwrap().report.tiers[0].detail {
        TierDetail::Edge(edge) => edge,
        _ => unreachable!("the fixture has an edge there"),
    }
}

fn verdict(reports: &BTreeMap<ServerName, Observed>, drains: &DrainBook, leader: Option<&str>) -> Status {
    maintained(reports, drains, leader, None)
}

fn maintained(
    reports: &BTreeMap<ServerName, Observed>,
    drains: &DrainBook,
    leader: Option<&str>,
    maintenance: Option<Maintenance>,
) -> Status {
    let config = Config::parse(TWO).unwrap();
    let lease = leader.map(|leader| LeaseRecord {
        epoch: Epoch(1),
        leader: name(leader),
    });
    let view = compose(&ViewInputs {
        config: &config,
        revision: Revision(2),
        epoch: Epoch(1),
        serial: 1,
        me: &name("a"),
        reports,
        drains,
        maintenance: maintenance.as_ref(),
        lease: lease.as_ref(),
        unreachable_after: Duration::from_secs(3),
        write_until: None,
        opening: false,
        holding: None,
        issued: &Default::default(),
        cache: None,
        addresses: &Default::default(),
    });
    status(StatusInputs {
        me: &name("a"),
        view: &view,
        reports,
        rates: &BTreeMap::new(),
        lease,
        lease_store: "single",
        failover: Vec::new(),
        acme: Vec::new(),
        renewed_by_us: vec!["/renewed.pem".to_owned()],
        recent: Vec::new(),
        now: UnixMillis(0),
    })
}

fn problems(reports: &BTreeMap<ServerName, Observed>) -> (Health, Vec<String>) {
    let status = verdict(reports, &DrainBook::default(), Some("a"));
    (
        status.health,
        status.problems.into_iter().map(|problem| problem.what).collect(),
    )
}

#[test]
fn all_is_well() {
    let (health, said) = problems(&healthy());
    assert_eq!((health, said.as_slice()), (Health::Healthy, [].as_slice()));
}

#[test]
fn a_full_disk_is_named_first() {
    let mut reports = healthy();
    let report = &mut reports.get_mut(&name("b")).unwrap().report;
    report.full_disk = Some("/var/lib/mysql".to_owned());
    let (health, said) = problems(&reports);
    let full = "the disk of b is full: nothing more can be written to /var/lib/mysql";
    assert_eq!(
        (health, said.as_slice()),
        (Health::Degraded, &[full.to_owned()][..])
    );
}

#[test]
fn a_certificate_is_named_in_time_and_when_it_was_refused() {
    let day = |days: u64| Some(UnixMillis(days * 86_400_000 + 1));
    let certificate = |not_after, refused: Option<&str>| CertificateReport {
        source: "/etc/x.pem".to_owned(),
        names: vec!["x.test".to_owned()],
        issuer: "R11".to_owned(),
        not_after,
        refused: refused.map(str::to_owned),
    };
    let said = |certificate: CertificateReport| {
        let mut reports = healthy();
        edge_of(&mut reports, "b").certificates = vec![certificate];
        problems(&reports).1
    };
    assert!(said(certificate(day(21), None)).is_empty());
    let ends = "the certificate /etc/x.pem on b ends in 20 days";
    assert_eq!(said(certificate(day(20), None)), [ends]);
    assert_eq!(
        said(certificate(day(0), None)),
        ["the certificate /etc/x.pem on b ends today"]
    );
    let renewed = CertificateReport {
        source: "/renewed.pem".to_owned(),
        ..certificate(day(20), None)
    };
    assert!(said(renewed).is_empty(), "Pontoon renews it when it is due");
    let ended = Some(UnixMillis(0));
    assert_eq!(
        said(certificate(ended, None)),
        ["the certificate /etc/x.pem on b has ended"]
    );
    let refused = "the edge on b cannot use a certificate: no key";
    assert_eq!(said(certificate(None, Some("no key"))), [refused]);
    assert_eq!(said(certificate(day(90), Some("no key"))), [refused]);
}

#[test]
fn a_silent_agent_degrades_and_takes_nobody_down() {
    let mut reports = healthy();
    reports.get_mut(&name("b")).unwrap().age = Duration::from_secs(14);
    let (health, said) = problems(&reports);
    assert_eq!(health, Health::Degraded);
    assert_eq!(said, ["the agent on b has not answered for 14 s"]);
}

#[test]
fn a_dead_primary_is_down_and_a_dead_replica_is_not() {
    let mut reports = healthy();
    reports.get_mut(&name("a")).unwrap().report.database = Some(database(DatabaseRole::Down));
    assert_eq!(problems(&reports).0, Health::Down);
    let mut reports = healthy();
    reports.get_mut(&name("b")).unwrap().report.database = Some(database(DatabaseRole::Down));
    assert_eq!(problems(&reports).0, Health::Degraded);
}

#[test]
fn replication_that_stands_still_or_lags_is_named() {
    let mut reports = healthy();
    let replica = reports
        .get_mut(&name("b"))
        .unwrap()
        .report
        .database
        .as_mut()
        .unwrap();
    replica.lag_ms = Some(41_000);
    assert_eq!(problems(&reports).1, ["the replica b is 41 s behind"]);
    let replica = reports
        .get_mut(&name("b"))
        .unwrap()
        .report
        .database
        .as_mut()
        .unwrap();
    replica.error = Some("Error 1062".to_owned());
    assert!(problems(&reports).1[0].contains("Error 1062"));
}

#[test]
fn nobody_with_the_lease_is_down() {
    assert_eq!(
        verdict(&healthy(), &DrainBook::default(), None).health,
        Health::Down
    );
}

#[test]
fn an_application_is_out_when_most_edges_say_so_and_down_when_none_is_left() {
    let mut reports = healthy();
    for edge in ["a", "b"] {
        let upstream = &mut edge_of(&mut reports, edge).upstreams[1];
        (upstream.healthy, upstream.reason) = (false, Some("503".to_owned()));
    }
    let (health, said) = problems(&reports);
    assert_eq!((health, said.len()), (Health::Degraded, 1));
    assert!(said[0].contains("application on b is out: 503"));
    for edge in ["a", "b"] {
        edge_of(&mut reports, edge).upstreams[0].healthy = false;
    }
    assert_eq!(problems(&reports).0, Health::Down);
}

#[test]
fn an_edge_that_does_not_report_or_listen_is_named() {
    let mut reports = healthy();
    reports.get_mut(&name("b")).unwrap().report.tiers.clear();
    assert_eq!(problems(&reports).1, ["the edge on b does not report"]);
    let mut reports = healthy();
    edge_of(&mut reports, "b")
        .not_listening
        .push("198.51.100.112:80: Address already in use".to_owned());
    assert!(problems(&reports).1[0].contains("already in use"));
}

#[test]
fn a_page_that_cannot_be_shown_is_named() {
    let mut reports = healthy();
    edge_of(&mut reports, "b")
        .pages_refused
        .push("/etc/pontoon/503.html: it is empty".to_owned());
    assert!(problems(&reports).1[0].contains("b cannot show a page: /etc/pontoon/503.html: it is empty"));
}

#[test]
fn maintenance_is_shown_with_the_way_back_until_it_is_over() {
    let say = |until| {
        let maintenance = Maintenance {
            until,
            except: vec!["198.51.100.0/24".parse().unwrap()],
        };
        maintained(&healthy(), &DrainBook::default(), Some("a"), Some(maintenance))
    };
    let now = say(None).now;
    let status = say(Some(now.plus(Duration::from_secs(90))));
    assert_eq!(status.health, Health::Degraded);
    let problem = &status.problems[0];
    assert_eq!(
        problem.what,
        "visitors get the maintenance page, except those from 198.51.100.0/24"
    );
    assert_eq!(
        problem.done.as_deref(),
        Some("an operator wanted it so; it ends by itself in 90s")
    );
    assert_eq!(problem.next, ["pontoon edge maintenance off"]);
    assert_eq!(say(Some(now)).health, Health::Healthy);
}

#[test]
fn a_drained_server_is_shown_with_the_way_back() {
    let drains = DrainBook(
        [(
            name("b"),
            DrainMark {
                at: UnixMillis(1),
                drained: true,
                app_only: false,
            },
        )]
        .into(),
    );
    let status = verdict(&healthy(), &drains, Some("a"));
    assert_eq!(status.health, Health::Degraded);
    assert_eq!(status.problems[0].next, ["pontoon undrain b"]);
}

#[test]
fn what_keeps_a_server_from_its_configuration_is_said_with_its_code() {
    let mut reports = healthy();
    let refusal = pontoon_fleet::Refusal::new(pontoon_fleet::Code::D005, "the database did not start");
    reports.get_mut(&name("b")).unwrap().report.trouble = Some(refusal);
    let status = verdict(&reports, &DrainBook::default(), Some("a"));
    assert_eq!(status.problems[0].next[0], "pontoon explain D005");
}

#[test]
fn every_problem_has_a_next_step() {
    let mut reports = healthy();
    reports.remove(&name("b"));
    reports.get_mut(&name("a")).unwrap().report.database = Some(database(DatabaseRole::Down));
    let status = verdict(&reports, &DrainBook::default(), None);
    assert!(status.problems.len() >= 3);
    assert!(status.problems.iter().all(|problem| !problem.next.is_empty()));
    assert!(
        status
            .problems
            .windows(2)
            .all(|pair| pair[0].health >= pair[1].health),
        "worst first"
    );
}

#[test]
fn a_proxy_that_cannot_spread_reads_is_named() {
    let with = |obstacle: Option<&str>| {
        let mut reports = healthy();
        let spread = SpreadReport {
            obstacle: obstacle.map(str::to_owned),
            ..SpreadReport::default()
        };
        let detail = TierDetail::Sql(SqlReport {
            spread: Some(spread),
            ..SqlReport::default()
        });
        let tiers = &mut reports.get_mut(&name("b")).unwrap().report.tiers;
        tiers.push(TierReport {
            pid: 8,
            view_serial: 1,
            detail,
        });
        problems(&reports)
    };
    assert_eq!(with(None).0, Health::Healthy);
    let (health, said) = with(Some("sql-account.json is not there yet"));
    assert_eq!(health, Health::Degraded);
    assert_eq!(
        said,
        ["the SQL proxy on b spreads no reads: sql-account.json is not there yet"]
    );
}
