//! The generator against servers whose behaviour is known, over real connections.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pontoon_capacity::Verdict;
use pontoon_capacity::models::{Law, Model, Trouble};
use pontoon_measure::ratebox::Ratebox;
use pontoon_measure::{Place, Plan, Report, Target, Wanted, run};

const QUICK: Model = Model {
    workers: 4,
    service: 0.001,
    law: Law::Fixed,
    trouble: Trouble::None,
};

/// As often as the generator itself was late, which a busy machine makes it be.
fn measure(url: &str, objective: &str, wanted: Wanted) -> Result<Report, pontoon_fleet::Refusal> {
    let mut last = once(url, objective, wanted);
    for _ in 0..5 {
        match last {
            Ok(report) if report.verdict == Verdict::Invalid => last = once(url, objective, wanted),
            _ => break,
        }
    }
    last
}

fn once(url: &str, objective: &str, wanted: Wanted) -> Result<Report, pontoon_fleet::Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let plan = Plan {
            target: Target::find(Place::parse(url).unwrap(), Vec::new(), false, None)
                .await
                .unwrap(),
            objective: objective.parse().unwrap(),
            wanted,
            patience: Duration::from_secs(10),
            seed: 1,
        };
        run(&plan, &mut |_| {}).await
    })
}

fn at(rate: f64, seconds: u64) -> Wanted {
    Wanted::Rate {
        rate,
        time: Duration::from_secs(seconds),
    }
}

fn url(ratebox: &Ratebox) -> String {
    format!("http://{}/", ratebox.address())
}

#[test]
fn a_server_that_stands_still_for_two_seconds_of_ten_shows() {
    // Of ten seconds two are frozen: who comes in the first hundredth of all time waits for almost all of it. A
    // generator that waits for answers would have sent one request meanwhile, and said that p99 is a millisecond.
    let frozen = Model {
        trouble: Trouble::Frozen(4.0, 6.0),
        ..QUICK
    };
    let ratebox = Ratebox::start(frozen, 1).unwrap();
    let report = measure(&url(&ratebox), "p99<9s", at(200.0, 10)).unwrap();
    let latency = report.latency;
    // At least: a busy machine adds to it.
    assert!(latency.p99_ms > 1_700.0, "{latency:?}");
    assert!(latency.p90_ms > 700.0, "{latency:?}");
    assert!(latency.p50_ms < latency.p90_ms, "{latency:?}");
    assert_eq!(report.totals.answered, report.totals.sent);
    assert!(
        (1_700..2_300).contains(&report.totals.sent),
        "{}",
        report.totals.sent
    );
}

#[test]
fn what_is_not_kept_is_said_with_its_share() {
    let slow = Model {
        service: 0.2,
        workers: 100,
        ..QUICK
    };
    let ratebox = Ratebox::start(slow, 1).unwrap();
    let report = measure(&url(&ratebox), "p50<150ms,p99<9s", at(50.0, 2)).unwrap();
    assert_eq!(report.verdict, Verdict::Threshold, "{:?}", report.reasons);
    assert!(
        report.reasons[0].starts_with("p50<150ms: 100.00 % were bad, 50.00 % are allowed"),
        "{:?}",
        report.reasons
    );
    let kept = measure(&url(&ratebox), "p99<9s,errors<1%", at(50.0, 2)).unwrap();
    assert_eq!(kept.verdict, Verdict::Pass, "{:?}", kept.reasons);
    assert!(kept.latency.p50_ms >= 200.0, "{:?}", kept.latency);
}

#[test]
fn a_limit_that_is_not_reached_is_no_number() {
    let ratebox = Ratebox::start(QUICK, 1).unwrap();
    let wanted = Wanted::Find {
        first: 20.0,
        most: 40.0,
        time: Duration::from_secs(120),
        half_width: 0.03,
        recovery: false,
    };
    let report = measure(&url(&ratebox), "p99<2s", wanted).unwrap();
    assert_eq!(report.verdict, Verdict::NotReached, "{:?}", report.reasons);
    assert!(report.reasons[0].contains("40/s"), "{:?}", report.reasons);
}

/// The whole search over real connections: PONTOON_LONG=1, two minutes.
#[test]
fn a_limit_is_found_over_real_connections() {
    if std::env::var_os("PONTOON_LONG").is_none() {
        println!("SKIPPED: the search over real connections takes two minutes: set PONTOON_LONG=1");
        return;
    }
    let model = Model {
        workers: 1,
        service: 0.004,
        ..QUICK
    };
    let ratebox = Ratebox::start(model, 1).unwrap();
    let wanted = Wanted::Find {
        first: 20.0,
        most: 10_000.0,
        time: Duration::from_secs(150),
        half_width: 0.03,
        recovery: true,
    };
    let report = measure(&url(&ratebox), "p99<300ms", wanted).unwrap();
    println!("{:?} {:?} {:?}", report.found, report.recovery, report.generator);
    let Some(pontoon_capacity::search::Found::Limit { interval, .. }) = report.found else {
        panic!("{:?}: {:?}", report.verdict, report.reasons)
    };
    assert!((interval.rate / 242.0 - 1.0).abs() < 0.1, "{interval:?}");
    assert!(report.recovery.unwrap().recovers_at.is_some());
}

#[test]
fn what_does_not_answer_is_refused_before_any_load() {
    let port = pontoon_testkit::free_port().unwrap();
    let refused = measure(&format!("http://127.0.0.1:{port}/"), "p99<1s", at(50.0, 2)).unwrap_err();
    assert_eq!(refused.code, pontoon_fleet::Code::M003, "{refused}");
    assert!(
        refused
            .evidence
            .iter()
            .any(|line| line.contains(&port.to_string())),
        "{refused:?}"
    );
}

/// Answers every connection with `answer`, on a thread that ends with the test.
fn answers(answer: &'static str) -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicU64, Ordering};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = std::sync::Arc::new(AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, count)
}

#[test]
fn a_redirection_is_not_followed_and_an_error_is_not_measured() {
    use std::sync::atomic::Ordering;
    let (other, asked) = answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let moved: &'static str = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{other}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .leak();
    let (here, _) = answers(moved);
    let refused = measure(&format!("http://{here}/"), "p99<1s", at(50.0, 2)).unwrap_err();
    assert_eq!(refused.code, pontoon_fleet::Code::M003);
    assert!(refused.evidence[0].contains("302"), "{refused:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 0, "the other host was asked");

    let (broken, _) = answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let refused = measure(&format!("http://{broken}/"), "p99<1s", at(50.0, 2)).unwrap_err();
    assert!(refused.evidence[0].contains("503"), "{refused:?}");
}

#[test]
fn a_server_that_dies_gets_no_more_requests() {
    let ratebox = Ratebox::start(QUICK, 1).unwrap();
    let url = url(&ratebox);
    let ends = std::thread::spawn(move || {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let _ = receive.recv_timeout(Duration::from_secs(2));
        drop((send, ratebox));
    });
    let report = measure(&url, "p99<2s", at(100.0, 60)).unwrap();
    ends.join().unwrap();
    assert_eq!(report.verdict, Verdict::Safety, "{:?}", report.reasons);
    assert!(report.seconds < 45.0, "{}", report.seconds);
    assert!(
        report.totals.failed.contains_key("connection refused"),
        "{:?}",
        report.totals.failed
    );
}
