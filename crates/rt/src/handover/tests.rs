use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// Both ends of a handover's socket pair.
fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn listener() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn what_waits_in_a_sockets_queue_goes_over_with_it() {
    let (listener, address) = listener();
    let mut clients: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (ours, theirs) = pair();
    let successor = std::thread::spawn(move || {
        let inherited = receive_all(theirs).unwrap();
        let names: Vec<&str> = inherited.sockets.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["http"]);
        let socket = inherited.sockets[0].socket.try_clone().unwrap();
        inherited.ready().unwrap();
        let listener = TcpListener::from(socket);
        for _ in 0..20 {
            listener.accept().unwrap().0.write_all(b"x").unwrap();
        }
    });
    let sockets = [Named {
        name: "http".to_owned(),
        socket: OwnedFd::from(listener),
    }];
    give(&ours, &sockets, PROMPT).unwrap();
    drop(sockets);
    send(&ours, &Message::Yours, &[]).unwrap();
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    successor.join().unwrap();
}

#[test]
fn more_sockets_than_one_message_takes_all_arrive() {
    let sockets: Vec<Named<OwnedFd>> = (0..BATCH * 2 + 3)
        .map(|number| Named {
            name: number.to_string(),
            socket: OwnedFd::from(listener().0),
        })
        .collect();
    let (ours, theirs) = pair();
    let successor = std::thread::spawn(move || {
        let inherited = receive_all(theirs).unwrap();
        let count = inherited.sockets.len();
        inherited.refuse("as a test");
        count
    });
    let refused = give(&ours, &sockets, PROMPT).unwrap_err();
    assert_eq!(successor.join().unwrap(), sockets.len());
    assert!(matches!(refused, HandoverError::Refused(reason) if reason == "as a test"));
}

#[test]
fn a_successor_that_is_silent_dead_or_mad_takes_nothing_over() {
    let short = Duration::from_millis(50);
    let (ours, _theirs) = pair();
    assert!(matches!(give(&ours, &[], short), Err(HandoverError::Late(_))));
    let (ours, theirs) = pair();
    drop(theirs);
    assert!(matches!(give(&ours, &[], short), Err(HandoverError::Ended)));
    let (ours, theirs) = pair();
    send(&theirs, &Message::Yours, &[]).unwrap();
    assert!(matches!(give(&ours, &[], short), Err(HandoverError::Nonsense)));
    let (ours, theirs) = pair();
    rustix::io::write(&theirs, b"rubbish").unwrap();
    assert!(matches!(give(&ours, &[], short), Err(HandoverError::System(_))));
}

#[test]
fn a_predecessor_that_goes_away_leaves_nobody_in_its_place() {
    let (ours, theirs) = pair();
    drop(ours);
    assert!(matches!(receive_all(theirs), Err(HandoverError::Abandoned)));
    let (ours, theirs) = pair();
    send(&ours, &Message::All, &[]).unwrap();
    let inherited = receive_all(theirs).unwrap();
    drop(ours);
    assert!(matches!(inherited.ready(), Err(HandoverError::Abandoned)));
}

#[test]
fn a_program_that_is_not_there_or_ends_at_once_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    Running::me().save(&pid_file).unwrap();
    let error = hand_over(&Spec::new("/nonexistent/program"), &[], &pid_file, PROMPT).unwrap_err();
    assert!(matches!(error, HandoverError::Program { .. }));
    let error = hand_over(&Spec::new("/bin/false"), &[], &pid_file, PROMPT).unwrap_err();
    assert!(matches!(error, HandoverError::Ended), "{error}");
    assert_eq!(crate::process::adopt(&pid_file).unwrap(), Some(Running::me()));
}

#[test]
fn systemd_is_told_by_path_and_by_abstract_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let abstract_name = format!("pontoon-test-{}", std::process::id());
    let by_name = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    for (socket, told) in [
        (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
        (
            UnixDatagram::bind_addr(&by_name).unwrap(),
            format!("@{abstract_name}").into(),
        ),
    ] {
        tell_systemd(&told, "MAINPID=7\n").unwrap();
        let mut text = [0; 64];
        let count = socket.recv(&mut text).unwrap();
        assert_eq!(&text[..count], b"MAINPID=7\n");
    }
}
