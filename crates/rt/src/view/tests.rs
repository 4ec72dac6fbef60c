use std::sync::Arc;

use pontoon_fleet::{EdgeReport, Epoch, Revision, TierDetail, TierReport};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::*;
use crate::paths::Paths;
use crate::shutdown::Shutdown;

fn view(revision: u64) -> FleetView {
    FleetView {
        fleet: "notes".parse().unwrap(),
        revision: Revision(revision),
        epoch: Epoch(1),
        serial: 0,
        assets: None,
        takeover: None,
        routed: false,
        cache: None,
        servers: Vec::new(),
        app: None,
        https: None,
        sql: None,
        limits: Default::default(),
        front: Default::default(),
        dns: None,
        addresses: Vec::new(),
        answers: Default::default(),
        addresses_changed: pontoon_fleet::UnixMillis::default(),
    }
}

fn report(pid: u32, requests_total: u64) -> TierReport {
    let detail = TierDetail::Edge(EdgeReport {
        requests_total,
        ..EdgeReport::default()
    });
    TierReport {
        pid,
        view_serial: 1,
        detail,
    }
}

fn place() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    (dir, paths)
}

async fn until(views: &mut watch::Receiver<Option<Arc<FleetView>>>, revision: u64) -> Arc<FleetView> {
    let wait = views.wait_for(|view| view.as_ref().is_some_and(|view| view.revision.0 == revision));
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("no such view in time")
        .unwrap()
        .clone()
        .unwrap()
}

async fn on_disk(paths: &Paths, revision: u64) -> FleetView {
    for _ in 0..250 {
        if let Ok(Some(view)) = client::read_file(&paths.view_file())
            && view.revision.0 == revision
        {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("revision {revision} never came to disk");
}

#[tokio::test]
async fn a_view_reaches_the_tier_and_a_report_comes_back() {
    let (_dir, paths) = place();
    let shutdown = Shutdown::new();
    let (publisher, mut reports) = ViewPublisher::bind(&paths, shutdown.clone()).unwrap();
    let tier = ViewClient::start(&paths, Tier::Edge, shutdown.clone());
    let mut views = tier.subscribe();
    assert!(tier.current().is_none());
    assert_eq!(publisher.publish(view(1)).unwrap(), 1);
    assert_eq!(
        publisher.publish(view(1)).unwrap(),
        1,
        "the same again is not news"
    );
    assert_eq!(until(&mut views, 1).await.serial, 1);
    assert_eq!(publisher.publish(view(2)).unwrap(), 2);
    until(&mut views, 2).await;
    tier.report(report(std::process::id(), 7));
    assert_eq!(reports.recv().await.unwrap(), report(std::process::id(), 7));
    assert_eq!(on_disk(&paths, 2).await.serial, 2);
}

#[tokio::test]
async fn a_tier_starts_from_the_file_and_survives_the_agent() {
    let (_dir, paths) = place();
    let first_run = Shutdown::new();
    let (publisher, reports) = ViewPublisher::bind(&paths, first_run.clone()).unwrap();
    publisher.publish(view(5)).unwrap();
    on_disk(&paths, 5).await;
    first_run.trigger();
    drop((publisher, reports));

    let tier = ViewClient::start(&paths, Tier::Sql, Shutdown::new());
    let mut views = tier.subscribe();
    assert_eq!(tier.current().unwrap().revision, Revision(5));
    // The next agent goes on with the serials.
    let (publisher, _reports) = bind_again(&paths).await;
    assert_eq!(publisher.publish(view(6)).unwrap(), 2);
    until(&mut views, 6).await;
}

async fn bind_again(paths: &Paths) -> (ViewPublisher, tokio::sync::mpsc::Receiver<TierReport>) {
    for _ in 0..100 {
        if let Ok(bound) = ViewPublisher::bind(paths, Shutdown::new()) {
            return bound;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the socket stayed taken");
}

#[tokio::test]
async fn an_older_view_of_the_same_run_is_not_taken_and_one_of_the_next_run_is() {
    let (_dir, paths) = place();
    let agent = UnixListener::bind(paths.view_socket()).unwrap();
    let tier = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
    let mut views = tier.subscribe();
    let send = |run: &str, serial: u64, revision: u64| {
        let view = FleetView {
            serial,
            ..view(revision)
        };
        serde_json::to_vec(&Published {
            agent_run: run.to_owned(),
            view,
        })
        .unwrap()
    };
    let (mut first, _) = agent.accept().await.unwrap();
    for line in [send("one", 9, 9), send("one", 8, 8), send("one", 10, 10)] {
        write_line(&mut first, &line).await.unwrap();
    }
    until(&mut views, 10).await;
    drop(first);
    // The same run on a new connection: still nothing older.
    let (mut second, _) = agent.accept().await.unwrap();
    write_line(&mut second, &send("one", 4, 4)).await.unwrap();
    write_line(&mut second, &send("one", 11, 11)).await.unwrap();
    assert_eq!(until(&mut views, 11).await.serial, 11);
    drop(second);
    // A new agent that lost its serials.
    let (mut third, _) = agent.accept().await.unwrap();
    write_line(&mut third, &send("two", 1, 12)).await.unwrap();
    assert_eq!(until(&mut views, 12).await.serial, 1);
}

#[tokio::test]
async fn garbage_from_a_tier_closes_its_connection_only() {
    let (_dir, paths) = place();
    let (publisher, mut reports) = ViewPublisher::bind(&paths, Shutdown::new()).unwrap();
    publisher.publish(view(1)).unwrap();
    let good = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
    until(&mut good.subscribe(), 1).await;

    let hello = br#"{"tier":"edge","pid":77}"#.to_vec();
    let foreign = serde_json::to_vec(&report(78, 1)).unwrap();
    let endless = vec![b'x'; MAX_REPORT_BYTES + 10];
    for lines in [
        vec![b"\xff\xfe{".to_vec()],
        vec![hello.clone(), b"[]".to_vec()],
        vec![hello.clone(), foreign],
        vec![hello, endless],
    ] {
        let mut bad = UnixStream::connect(paths.view_socket()).await.unwrap();
        for line in lines {
            // The far side may have closed before the last byte is written.
            let _ = write_line(&mut bad, &line).await;
        }
        let mut rest = BufReader::new(bad);
        let mut text = Vec::new();
        let end = async { while rest.read_until(b'\n', &mut text).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(Duration::from_secs(5), end)
            .await
            .expect("the connection stayed open");
    }
    publisher.publish(view(2)).unwrap();
    until(&mut good.subscribe(), 2).await;
    good.report(report(std::process::id(), 3));
    assert_eq!(reports.recv().await.unwrap().pid, std::process::id());
    assert!(
        reports.try_recv().is_err(),
        "nothing of the bad ones came through"
    );
}

#[tokio::test]
async fn a_tier_that_does_not_read_holds_nobody_up_and_then_gets_the_latest() {
    let (_dir, paths) = place();
    let (publisher, _reports) = ViewPublisher::bind(&paths, Shutdown::new()).unwrap();
    let mut slow = UnixStream::connect(paths.view_socket()).await.unwrap();
    write_line(&mut slow, br#"{"tier":"sql","pid":1}"#).await.unwrap();
    let quick = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
    let mut views = quick.subscribe();
    // Each is larger than a socket buffer.
    for revision in 1..=50 {
        let mut large = view(revision);
        let listen = (1..=20_000u16)
            .map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        large.servers.push(pontoon_fleet::ServerView {
            name: "a".parse().unwrap(),
            private: [198, 51, 100, 1].into(),
            public: Vec::new(),
            roles: Default::default(),
            zone: None,
            standby: false,
            state: pontoon_fleet::ServerState::Up,
            ports: pontoon_fleet::Ports::from_base(7400),
            edge_listen: listen,
            weight: 1,
            drained_at: None,
        });
        publisher.publish(large).unwrap();
        tokio::task::yield_now().await;
    }
    until(&mut views, 50).await;
    let mut slow = BufReader::new(slow);
    let (mut line, mut seen) = (Vec::new(), 0);
    let read = async {
        loop {
            read_line(&mut slow, &mut line, MAX_VIEW_BYTES)
                .await
                .unwrap()
                .unwrap();
            seen += 1;
            let published: Published = serde_json::from_slice(&line).unwrap();
            if published.view.revision.0 == 50 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    assert!(seen < 50, "those between were skipped, not queued");
}

#[tokio::test]
async fn a_view_over_the_limit_is_refused_and_the_last_one_stays() {
    let (_dir, paths) = place();
    let (publisher, _reports) = ViewPublisher::bind(&paths, Shutdown::new()).unwrap();
    publisher.publish(view(1)).unwrap();
    let mut huge = view(2);
    huge.app = Some(pontoon_fleet::AppView {
        upstream: "127.0.0.1:8080".parse().unwrap(),
        protocol: Default::default(),
        balance: Default::default(),
        health: pontoon_fleet::HealthCheck {
            path: Some("/".repeat(MAX_VIEW_BYTES)),
            expect: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            fall: 2,
            rise: 2,
        },
        retries: pontoon_fleet::RetryPolicy {
            methods: Vec::new(),
            max: 1,
            budget: 0,
        },
        drain: Duration::from_secs(1),
        dispatch: Default::default(),
    });
    assert!(matches!(publisher.publish(huge), Err(ViewError::TooLarge(_))));
    let tier = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
    until(&mut tier.subscribe(), 1).await;
    assert_eq!(publisher.next_serial(), 2);
}

#[tokio::test]
async fn a_broken_view_file_is_no_view_and_no_panic() {
    let (_dir, paths) = place();
    for text in ["", "{", "null", "{\"fleet\":\"notes\"}"] {
        std::fs::write(paths.view_file(), text).unwrap();
        let tier = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
        assert!(tier.current().is_none());
    }
    let (publisher, _reports) = ViewPublisher::bind(&paths, Shutdown::new()).unwrap();
    assert_eq!(publisher.publish(view(1)).unwrap(), 1);
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_does_not_stop_the_socket() {
    let (_dir, paths) = place();
    // A directory with something in it stands where the file should be: every write fails.
    std::fs::create_dir(paths.view_file()).unwrap();
    std::fs::write(paths.view_file().join("x"), b"").unwrap();
    let (publisher, _reports) = ViewPublisher::bind(&paths, Shutdown::new()).unwrap();
    let tier = ViewClient::start(&paths, Tier::Edge, Shutdown::new());
    for revision in 1..4 {
        publisher.publish(view(revision)).unwrap();
        until(&mut tier.subscribe(), revision).await;
    }
}
