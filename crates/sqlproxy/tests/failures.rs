//! Databases, clients and agents that fail. See FAILURES.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pontoon_fleet::ListenAddress;
use pontoon_sqlproxy::Limits;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn a_database_that_never_greets_is_refused_with_an_error_that_says_so() {
    let one = One::start(database(silent).await, limits()).await;
    let began = Instant::now();
    let mut client = one.dial().await;
    let error = expect_refused(&mut client).await;
    at_least(began, Duration::from_secs(1));
    assert_eq!((error.code, error.state), (1105, None));
    assert!(
        error.text().contains("does not greet") && error.text().contains("waited 1."),
        "{error}"
    );
    expect_closed(&mut client).await;
    let numbers = metrics(&one).await;
    assert!(
        numbers.contains("pontoon_sql_connections_total{result=\"refused\"} 1"),
        "{numbers}"
    );
    let mut agent = one.agent;
    let report = agent
        .report("a refusal", |report| report.refused_total == 1)
        .await;
    assert!(report.longest_hold_ms >= 1000 && report.held == 0, "{report:?}");
}

#[tokio::test]
async fn a_database_that_thaws_serves_those_who_were_held() {
    // The first three connections are never greeted; an attempt's limit is 200 ms, then 400, then 800.
    let backend = database(|count, stream| async move {
        if count < 3 {
            silent(count, stream).await
        } else {
            echo(count, stream).await
        }
    });
    let one = One::start_with(backend.await, limits(), |view| view.hold = SOON).await;
    let mut client = one.dial().await;
    assert_eq!(expect_ready(&mut client).await.thread_id, 3);
    expect_echo(&mut client, b"select 1").await;
}

#[tokio::test]
async fn something_that_is_no_database_is_refused() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"\x05\0\0\0hello",
        b"\0\0\0\0",
    ] {
        let backend = database(move |_, mut stream: TcpStream| async move {
            let _ = stream.write_all(answer).await;
            sleep(Duration::from_secs(20)).await;
        });
        let one = One::start_with(backend.await, limits(), |view| view.hold = Duration::ZERO).await;
        let error = expect_refused(&mut one.dial().await).await;
        assert!(error.text().contains("not a database"), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_dies_within_its_greeting_is_tried_again() {
    let backend = database(|count, mut stream: TcpStream| async move {
        let bytes = greeting(0);
        match count {
            0 => drop(stream),
            1..5 => drop(stream.write_all(&bytes[..count * 7]).await),
            _ => echo(count, stream).await,
        }
    });
    let one = One::start_with(backend.await, limits(), |view| view.hold = SOON).await;
    assert_eq!(expect_ready(&mut one.dial().await).await.thread_id, 5);
}

#[tokio::test]
async fn a_greeting_in_single_bytes_is_still_a_greeting() {
    let backend = database(|count, mut stream: TcpStream| async move {
        stream.set_nodelay(true).unwrap();
        for byte in greeting(7) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        silent(count, stream).await;
    });
    let one = One::start_with(backend.await, limits(), |view| view.hold = SOON).await;
    assert_eq!(expect_ready(&mut one.dial().await).await.thread_id, 7);
}

#[tokio::test]
async fn the_databases_own_refusal_is_passed_on_and_its_shutdown_is_waited_for() {
    let backend = database(|count, mut stream: TcpStream| async move {
        match count {
            0 => drop(
                stream
                    .write_all(&packet(b"\xff\x10\x04Too many connections"))
                    .await,
            ),
            1 => drop(
                stream
                    .write_all(&packet(b"\xff\x1d\x04#08S01Server shutdown in progress"))
                    .await,
            ),
            _ => echo(count, stream).await,
        }
    });
    let one = One::start_with(backend.await, limits(), |view| view.hold = SOON).await;
    let mut client = one.dial().await;
    let error = expect_refused(&mut client).await;
    assert_eq!(
        (error.code, error.text().as_str()),
        (1040, "Too many connections")
    );
    expect_closed(&mut client).await;
    assert_eq!(expect_ready(&mut one.dial().await).await.thread_id, 2);
}

#[tokio::test]
async fn a_database_that_dies_within_a_result_gives_the_client_all_that_it_said() {
    let rows = vec![7u8; 1 << 20];
    let sent = rows.clone();
    let backend = database(move |_, mut stream: TcpStream| {
        let sent = sent.clone();
        async move {
            stream.write_all(&greeting(0)).await.unwrap();
            let mut query = [0; 6];
            stream.read_exact(&mut query).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            // Ends with the client's second query unread. Closing at once would make the kernel throw away what it
            // has not sent yet, and that would be the database's loss, not the proxy's.
            let _ = stream.shutdown().await;
            sleep(Duration::from_millis(500)).await;
        }
    });
    let one = One::start(backend.await, limits()).await;
    let mut client = one.dial().await;
    expect_ready(&mut client).await;
    client.write_all(b"query1query2").await.unwrap();
    let mut got = vec![0; rows.len()];
    timeout(SOON, client.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == rows);
    expect_closed(&mut client).await;
}

#[tokio::test]
async fn a_database_that_breaks_off_gives_a_client_that_still_speaks_all_that_it_said() {
    const LAST_WORDS: usize = 96 * 1024;
    let backend = database(|_, mut stream: TcpStream| async move {
        stream.write_all(&greeting(0)).await.unwrap();
        let mut query = [0; 6];
        stream.read_exact(&mut query).await.unwrap();
        stream.write_all(&[7; LAST_WORDS]).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        // Closed with the second query unread: a reset.
    });
    let one = One::start(backend.await, limits()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(one.address).await.unwrap();
    expect_ready(&mut client).await;
    client.write_all(b"query1query2").await.unwrap();
    for _ in 0..6 {
        sleep(Duration::from_millis(100)).await;
        let _ = client.write_all(b"more").await;
    }
    let mut got = Vec::new();
    let _ = timeout(SOON, client.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), LAST_WORDS);
}

#[tokio::test]
async fn a_slow_reader_slows_its_own_database_connection_only() {
    const CHUNK: usize = 65536;
    let most = most_in_kernel_buffers() + (1 << 20);
    let total = (2 * most).next_multiple_of(CHUNK as u64);
    let chunk: Arc<[u8]> = (0..CHUNK).map(|i| (i % 253) as u8).collect();
    let written = Arc::new(AtomicU64::new(0));
    let (progress, sent) = (Arc::clone(&written), Arc::clone(&chunk));
    let backend = database(move |count, mut stream: TcpStream| {
        let (progress, chunk) = (Arc::clone(&progress), Arc::clone(&sent));
        async move {
            if count > 0 {
                return echo(count, stream).await;
            }
            stream.write_all(&greeting(0)).await.unwrap();
            while progress.load(SeqCst) < total {
                stream.write_all(&chunk).await.unwrap();
                progress.fetch_add(chunk.len() as u64, SeqCst);
            }
            let _ = stream.shutdown().await;
        }
    });
    let one = One::start(backend.await, limits()).await;
    let mut slow = one.dial().await;
    expect_ready(&mut slow).await;
    let mut before = u64::MAX;
    while before != written.load(SeqCst) {
        before = written.load(SeqCst);
        sleep(Duration::from_millis(200)).await;
    }
    assert!(
        before < most,
        "{before} bytes were taken from the database with nobody reading, and the kernel's share is {most}"
    );
    let mut other = one.dial().await;
    expect_ready(&mut other).await;
    expect_echo(&mut other, b"still quick").await;
    let mut bytes = vec![0; CHUNK];
    for _ in 0..total / CHUNK as u64 {
        timeout(SOON, slow.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert!(bytes[..] == chunk[..]);
    }
    expect_closed(&mut slow).await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_half_gets_its_answer() {
    let backend = database(|_, mut stream: TcpStream| async move {
        stream.write_all(&greeting(0)).await.unwrap();
        let mut query = Vec::new();
        stream.read_to_end(&mut query).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        stream.write_all(&query).await.unwrap();
    });
    let one = One::start(backend.await, limits()).await;
    let mut client = one.dial().await;
    expect_ready(&mut client).await;
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, b"late");
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_database_connection_with_it() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count_ended = Arc::clone(&ended);
    let backend = database(move |count, stream: TcpStream| {
        let ended = Arc::clone(&count_ended);
        async move {
            echo(count, stream).await;
            ended.fetch_add(1, SeqCst);
        }
    });
    let one = One::start(backend.await, limits()).await;
    let mut polite = one.dial().await;
    expect_ready(&mut polite).await;
    let mut rude = one.dial().await;
    expect_ready(&mut rude).await;
    rude.set_zero_linger().unwrap();
    drop((polite, rude));
    pontoon_testkit::wait_until("both ended", SOON, || async {
        (ended.load(SeqCst) == 2).then_some(())
    })
    .await
    .unwrap();
    let mut agent = one.agent;
    agent
        .report("no clients", |report| {
            report.clients == 0 && report.connections_total == 2
        })
        .await;
}

#[tokio::test]
async fn a_client_that_gives_up_while_held_is_noticed_also_when_it_spoke_first() {
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    let backend = database(move |_, stream: TcpStream| {
        count.fetch_add(1, SeqCst);
        silent(0, stream)
    });
    let mut one = One::start_with(backend.await, limits(), |view| {
        view.hold = Duration::from_secs(60);
        view.primary = None;
    })
    .await;
    let quiet = one.dial().await;
    let mut early = one.dial().await;
    early.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    one.agent.report("two held", |report| report.held == 2).await;
    drop((quiet, early));
    one.agent
        .report("none held", |report| report.held == 0 && report.clients == 0)
        .await;
    one.publish(|view| view.primary = Some("a"));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(dials.load(SeqCst), 0, "nobody is left to dial for");
}

#[tokio::test]
async fn without_a_primary_new_connections_wait_and_old_ones_go_on() {
    let mut one = One::start_with(database(echo).await, limits(), |view| view.hold = SOON).await;
    let mut old = one.dial().await;
    expect_ready(&mut old).await;
    one.publish(|view| view.primary = None);
    sleep(Duration::from_millis(200)).await;
    let mut new = one.dial().await;
    one.agent.report("one held", |report| report.held == 1).await;
    expect_echo(&mut old, b"still here").await;
    one.publish(|view| view.primary = Some("a"));
    expect_ready(&mut new).await;
    expect_echo(&mut old, b"and still").await;
}

#[tokio::test]
async fn nobody_is_primary_in_time_and_the_error_says_that() {
    let mut one = One::start_with(database(echo).await, limits(), |view| view.primary = None).await;
    let began = Instant::now();
    let error = expect_refused(&mut one.dial().await).await;
    at_least(began, Duration::from_secs(1));
    assert!(error.text().contains("no database server is primary"), "{error}");
    one.agent
        .report("a refusal", |report| report.refused_total == 1)
        .await;
}

#[tokio::test]
async fn a_primary_that_greets_nobody_is_left_as_soon_as_there_is_another() {
    // As of a server that lost its power: whoever dials it waits for as long as an attempt may take.
    const LOST: usize = 8;
    let dialled = Arc::new(AtomicUsize::new(0));
    let count_of = Arc::clone(&dialled);
    let backend = database(move |count, stream| {
        count_of.fetch_add(1, SeqCst);
        async move {
            match count {
                0..LOST => silent(count, stream).await,
                _ => echo(count, stream).await,
            }
        }
    });
    let patient = Limits {
        first_attempt: SOON * 10,
        ..limits()
    };
    let mut one = One::start_with(backend.await, patient, |view| view.hold = SOON * 10).await;
    let mut clients = Vec::new();
    for number in 0..LOST {
        clients.push(one.dial().await);
        while dialled.load(SeqCst) <= number {
            sleep(Duration::from_millis(5)).await;
        }
    }
    one.agent
        .report("all are held", |report| report.held == LOST as u64)
        .await;
    one.publish(|view| view.epoch = 2);
    for client in &mut clients {
        expect_ready(client).await;
        expect_echo(client, b"select 1").await;
    }
}

#[tokio::test]
async fn a_new_epoch_closes_and_a_new_revision_does_not() {
    let mut one = One::start(database(echo).await, limits()).await;
    let mut client = one.dial().await;
    expect_ready(&mut client).await;
    one.publish(|view| view.revision = 2);
    sleep(Duration::from_millis(200)).await;
    expect_echo(&mut client, b"unchanged").await;
    // The same server was demoted and promoted again, unseen.
    one.publish(|view| view.epoch = 3);
    expect_closed(&mut client).await;
    let mut next = one.dial().await;
    expect_ready(&mut next).await;
    // Another server is primary.
    one.publish(|view| (view.primary, view.epoch) = (Some("b"), 4));
    expect_closed(&mut next).await;
    // A view of an epoch that was left behind is not obeyed.
    one.publish(|view| (view.primary, view.epoch) = (Some("a"), 3));
    let error = expect_refused(&mut one.dial().await).await;
    assert!(error.text().contains("epoch 3 after epoch 4"), "{error}");
}

#[tokio::test]
async fn a_dead_agent_changes_nothing_and_a_restarted_proxy_serves_from_the_file() {
    let One {
        proxy,
        agent,
        address,
        paths,
        dir: _dir,
        ..
    } = One::start(database(echo).await, limits()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    expect_ready(&mut client).await;
    pontoon_testkit::wait_until("the view file", SOON, || async {
        exists(&paths.view_file()).then_some(())
    })
    .await
    .unwrap();
    agent.kill();
    sleep(Duration::from_millis(100)).await;
    expect_echo(&mut client, b"no agent").await;
    expect_ready(&mut TcpStream::connect(address).await.unwrap()).await;
    drop(client);
    proxy.stop().await;
    let _next = Proxy::start("a", &paths, limits());
    wait_listening(address).await;
    expect_ready(&mut TcpStream::connect(address).await.unwrap()).await;
    // And a new agent is found.
    let mut agent = Agent::start(&paths).await;
    agent
        .report("the next process", |report| report.connections_total == 1)
        .await;
}

#[tokio::test]
async fn a_draining_proxy_takes_nothing_new_and_gives_open_connections_their_time() {
    let socket_dir = tempfile::tempdir().unwrap();
    let socket = socket_dir.path().join("mysqld.sock");
    let listen = ListenAddress::Unix(socket.clone());
    let one = One::start_with(database(echo).await, limits(), |view| view.listen.push(listen)).await;
    pontoon_testkit::wait_until("the socket", SOON, || async { exists(&socket).then_some(()) })
        .await
        .unwrap();
    let mut client = one.dial().await;
    expect_ready(&mut client).await;
    let began = Instant::now();
    one.proxy.shutdown.trigger();
    pontoon_testkit::wait_until("no socket", SOON, || async { (!exists(&socket)).then_some(()) })
        .await
        .unwrap();
    assert!(UnixStream::connect(&socket).await.is_err());
    sleep(Duration::from_millis(300)).await;
    assert!(TcpStream::connect(one.address).await.is_err());
    expect_echo(&mut client, b"not done yet").await;
    expect_closed(&mut client).await;
    at_least(began, Duration::from_secs(1));
    one.proxy.stop().await;
}

#[tokio::test]
async fn a_proxy_without_connections_stops_at_once_and_a_view_change_counts_while_it_drains() {
    let idle = One::start(
        database(echo).await,
        Limits {
            grace: Duration::from_secs(60),
            ..limits()
        },
    )
    .await;
    let began = Instant::now();
    idle.proxy.stop().await;
    assert!(began.elapsed() < Duration::from_secs(30));

    let mut busy = One::start(
        database(echo).await,
        Limits {
            grace: Duration::from_secs(60),
            ..limits()
        },
    )
    .await;
    let mut client = busy.dial().await;
    expect_ready(&mut client).await;
    busy.proxy.shutdown.trigger();
    sleep(Duration::from_millis(200)).await;
    expect_echo(&mut client, b"draining").await;
    busy.publish(|view| (view.primary, view.epoch) = (Some("b"), 2));
    expect_closed(&mut client).await;
    busy.proxy.stop().await;
}

#[tokio::test]
async fn one_client_too_many_gets_1040_and_a_place_comes_back() {
    let one = One::start(
        database(echo).await,
        Limits {
            max_clients: 2,
            ..limits()
        },
    )
    .await;
    let mut first = one.dial().await;
    let mut second = one.dial().await;
    expect_ready(&mut first).await;
    expect_ready(&mut second).await;
    let mut third = one.dial().await;
    assert_eq!(expect_refused(&mut third).await.code, 1040);
    expect_closed(&mut third).await;
    drop(first);
    let again = pontoon_testkit::wait_until("a place", SOON, || async {
        let mut client = one.dial().await;
        matches!(
            first_packet(&mut client).await,
            pontoon_mysql_wire::ServerGreeting::Ready(_)
        )
        .then_some(())
    });
    again.await.unwrap();
    expect_echo(&mut second, b"unharmed").await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_reported_and_served_as_soon_as_it_is_free() {
    // The database still stands where the proxy is to listen.
    let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = before.local_addr().unwrap();
    let mut one = One::start_with(database(echo).await, limits(), |view| {
        view.listen.push(ListenAddress::Tcp(address));
    })
    .await;
    let report = one
        .agent
        .report("an address", |report| !report.not_listening.is_empty())
        .await;
    assert!(
        report.not_listening[0].starts_with(&address.to_string()),
        "{report:?}"
    );
    drop(before);
    wait_listening(address).await;
    expect_ready(&mut TcpStream::connect(address).await.unwrap()).await;
    one.agent
        .report("all addresses", |report| report.not_listening.is_empty())
        .await;
}

#[tokio::test]
async fn a_database_address_that_is_the_proxys_own_is_no_loop() {
    let mut one = One::start_with(database(echo).await, limits(), |view| view.hold = Duration::ZERO).await;
    let own = one.address;
    one.publish(|view| view.backend_tcp = own);
    sleep(Duration::from_millis(200)).await;
    let error = expect_refused(&mut one.dial().await).await;
    assert!(error.text().contains("the proxy's own"), "{error}");
    one.agent
        .report("one connection", |report| report.connections_total == 1)
        .await;
}

#[tokio::test]
async fn five_hundred_held_clients_are_all_served_when_the_database_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    drop(listener);
    let mut one = One::start_with(backend, limits(), |view| view.hold = SOON).await;
    let mut clients = Vec::new();
    for _ in 0..500 {
        clients.push(one.dial().await);
    }
    one.agent.report("all held", |report| report.held == 500).await;
    serve_on(TcpListener::bind(backend).await.unwrap(), echo);
    for client in &mut clients {
        expect_ready(client).await;
    }
    let report = one.agent.report("none held", |report| report.held == 0).await;
    assert_eq!((report.refused_total, report.clients), (0, 500));
}
