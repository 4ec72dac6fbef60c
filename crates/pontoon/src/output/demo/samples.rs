//! Made-up reports for tests.

use std::collections::BTreeMap;

use pontoon_testkit::{PhaseSummary, Reread};

use crate::demo::report::{PhaseReport, Place, Report, Total};

/// A phase in which nothing failed.
pub fn phase(name: &str, sent: u64) -> PhaseSummary {
    PhaseSummary {
        name: name.to_owned(),
        seconds: 12.25,
        sent,
        writes: sent / 5,
        acknowledged: sent / 5,
        pending: 0,
        failed: 0,
        failures: BTreeMap::new(),
        p50_ms: 61.5,
        p99_ms: 240.0,
        longest_ms: 312.0,
    }
}

/// A place in which all of `acknowledged` writes are but those.
pub fn place(place: &str, acknowledged: usize, missing: &[&str]) -> Place {
    let reread = Reread {
        acknowledged,
        found: acknowledged - missing.len(),
        missing: missing.iter().map(|id| (*id).to_owned()).collect(),
        altered: Vec::new(),
    };
    Place {
        place: place.to_owned(),
        reread: Some(reread),
        unreadable: None,
    }
}

/// A run in which all went well.
pub fn good() -> Report {
    let phases = [
        (
            "one-server",
            "rung 1: one server",
            171,
            &["the application is unchanged"][..],
        ),
        (
            "join",
            "a second server joins, copied live",
            1043,
            &["pontoon join took 9.8 s", "57.2 MiB were copied"],
        ),
        ("drain", "a server is drained and comes back", 98, &[]),
    ];
    let phases = phases.map(|(name, title, sent, facts)| PhaseReport {
        title: title.to_owned(),
        facts: facts.iter().map(|fact| (*fact).to_owned()).collect(),
        visitors: phase(name, sent),
    });
    Report {
        report: "demo",
        ok: true,
        reasons: Vec::new(),
        app: "WordPress".to_owned(),
        seed: 1,
        short: false,
        cores: 4,
        rate: 14.0,
        seconds: 83.4,
        phases: phases.to_vec(),
        total: Total {
            sent: 1312,
            failed: 0,
            acknowledged: 262,
            longest_ms: 312.0,
            latest_send_ms: 3.4,
        },
        acknowledged: BTreeMap::from([("comment".to_owned(), 201), ("post".to_owned(), 61)]),
        reread: [
            "through the edge of a",
            "through the edge of b",
            "in the database of a",
            "in the database of b",
        ]
        .map(|name| place(name, 262, &[]))
        .to_vec(),
        caveats: vec!["The application was killed at a moment without a write under way.".to_owned()],
        logs: None,
    }
}

/// A run in which requests failed and a write is missing.
pub fn bad() -> Report {
    let mut report = good();
    report.ok = false;
    report.reasons = vec![
        "2 of 1312 requests failed: 2× status 502".to_owned(),
        "in the database of b 261 of 262 acknowledged writes were found; missing: comment 17".to_owned(),
    ];
    report.total.failed = 2;
    if let Some(phase) = report.phases.get_mut(1) {
        phase.visitors.failed = 2;
        phase.visitors.failures.insert("status 502".to_owned(), 2);
        phase.visitors.longest_ms = 20_004.0;
    }
    report.total.longest_ms = 20_004.0;
    report.reread = vec![
        place("in the database of b", 262, &["comment 17"]),
        Place {
            place: "through the edge of b".to_owned(),
            reread: None,
            unreadable: Some("refused".to_owned()),
        },
    ];
    report.logs = Some("/var/tmp/pontoon-demo-logs-0-1-0".into());
    report
}
