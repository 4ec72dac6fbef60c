use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 111);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 12);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

fn running() -> (Running, oneshot::Receiver<Result<Outcome, String>>) {
    let (reply, outcome) = oneshot::channel();
    let learner = |ip| Learner { ip, learned_ms: None };
    let request = Request {
        home: server("a"),
        hold: ms(1_000),
        reply,
    };
    let blank = Outcome {
        home: server("a"),
        at: server("b"),
        addresses: vec![VIP.into()],
        let_go_ms: None,
        gateway: Some(learner(GATEWAY)),
        neighbours: vec![learner(PEER)],
        home_again_ms: None,
    };
    (Running::new(request, blank, ms(10_000)), outcome)
}

#[test]
fn who_learned_is_asked_no_more_and_all_that_happened_is_told() {
    let (mut running, mut outcome) = running();
    assert_eq!(running.whom_to_ask(ms(10_000)), Some((VIP, vec![GATEWAY, PEER])));
    assert_eq!(running.whom_to_ask(ms(10_005)), None);
    assert!(
        !running.stands(ms(10_005), true, Some(&server("a"))),
        "both have it"
    );
    running.answered(GATEWAY, VIP, ms(10_002), ms(10_007));
    // An answer to a question of before the take, to another address, and of somebody else prove nothing.
    running.answered(PEER, VIP, ms(9_990), ms(10_007));
    running.answered(PEER, PEER, ms(10_002), ms(10_007));
    running.answered(VIP, VIP, ms(10_002), ms(10_007));
    assert_eq!(running.whom_to_ask(ms(10_010)), Some((VIP, vec![PEER])));
    assert!(!running.stands(ms(10_012), true, None));
    running.answered(PEER, VIP, ms(10_010), ms(10_015));
    running.answered(PEER, VIP, ms(10_010), ms(10_900));
    assert!(!running.stands(ms(11_001), true, None), "not home yet");
    assert!(!running.stands(ms(11_020), false, None), "nobody's word yet");
    assert!(running.stands(ms(11_030), false, Some(&server("a"))));
    running.finish();
    let outcome = outcome.try_recv().unwrap().unwrap();
    assert_eq!((outcome.let_go_ms, outcome.home_again_ms), (Some(12), Some(30)));
    assert_eq!(outcome.gateway.as_ref().unwrap().learned_ms, Some(7));
    assert_eq!(outcome.neighbours[0].learned_ms, Some(15));
    assert!(outcome.is_good());
}

#[test]
fn a_rehearsal_that_is_cut_short_or_does_not_end_is_told_as_it_is() {
    let (mut short, mut outcome) = running();
    assert!(short.stands(ms(10_200), false, Some(&server("c"))));
    short.finish();
    assert!(!outcome.try_recv().unwrap().unwrap().is_good());
    let (mut long, _outcome) = running();
    assert!(!long.stands(ms(15_000), true, None));
    assert!(long.stands(ms(21_000), true, None));
}

#[test]
fn a_line_is_a_name_and_a_time_and_nothing_else() {
    assert_eq!(parse("a 500\n"), Some((server("a"), ms(500))));
    for wrong in [
        "",
        "\n",
        "a\n",
        "a 500",
        "a 0\n",
        "a 30001\n",
        "a -1\n",
        "a 5 5\n",
        "../a 5\n",
        "A B\n",
    ] {
        assert_eq!(parse(wrong), None, "{wrong:?}");
    }
}

#[tokio::test]
async fn an_address_process_that_refuses_is_not_there_or_talks_nonsense_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("address.sock");
    let home = server("a");
    let asked = || ask(&path, &home, ms(1));
    assert!(matches!(asked().await, Err(RehearsalError::Unreachable { .. })));

    let stop = Shutdown::new();
    let refuse = |request: Request| drop(request.reply.send(Err("not now".to_owned())));
    let door = serve(path.clone(), refuse, stop.clone());
    let told = async {
        loop {
            match asked().await {
                Err(RehearsalError::Unreachable { .. }) => tokio::time::sleep(RETRY).await,
                other => break other,
            }
        }
    };
    tokio::select! {
        () = door => panic!("the door closed"),
        told = told => assert!(matches!(told, Err(RehearsalError::Refused(why)) if why == "not now")),
    }
    std::fs::remove_file(&path).unwrap();
    let liar = UnixListener::bind(&path).unwrap();
    let lie = async {
        let (mut stream, _) = liar.accept().await.unwrap();
        stream.write_all(b"{\"home\":7}\n").await.unwrap();
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = lie => {}
        told = asked() => assert!(matches!(told, Err(RehearsalError::Malformed))),
    }
}
