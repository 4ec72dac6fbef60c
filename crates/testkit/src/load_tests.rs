//! The load against a small server of its own.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::app::{Found, Later};
use crate::http::Request;

/// Every second visit is a write.
struct Board;

impl Visited for Board {
    fn host(&self) -> String {
        "board.example".to_owned()
    }

    fn next(&self, dice: &mut Dice, _known: &[WriteId]) -> Visit {
        let text = (dice.below(2) == 0).then(|| dice.text());
        let request = match &text {
            Some(text) => Request::post("/", "text/plain", text.clone().into()),
            None => Request::get("/"),
        };
        Visit {
            what: "visit",
            request,
            text,
        }
    }

    fn judge(&self, _visit: &Visit, _response: &Response) -> Verdict {
        Verdict::Good
    }

    fn read_back(&self, _address: SocketAddr) -> Later<'_, Result<Found, LabError>> {
        Box::pin(async { Ok(Found::new()) })
    }

    fn read_database<'a>(&'a self, _socket: &'a std::path::Path) -> Later<'a, Result<Found, LabError>> {
        Box::pin(async { Ok(Found::new()) })
    }
}

/// Answers after 2 ms; counts what came.
async fn serve(listener: tokio::net::TcpListener, came: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let came = came.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            came.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(2)).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_while_visitors_are_held_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(listener, came.clone()));
    let options = LoadOptions {
        targets: vec![target],
        rate: 200.0,
        fresh_share: 1.0,
        ..LoadOptions::default()
    };
    let load = Load::start(Arc::new(Board), options, "all").unwrap();
    sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        let held_up = load.hold_up();
        // What had begun ends meanwhile.
        sleep(Duration::from_millis(30)).await;
        assert_eq!((load.in_flight(), load.answering()), ((0, 0), 0));
        let before = came.load(Ordering::SeqCst);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(came.load(Ordering::SeqCst), before, "requests began");
        drop(held_up);
        sleep(Duration::from_millis(50)).await;
        assert!(
            came.load(Ordering::SeqCst) > before,
            "visitors did not come again"
        );
    }
    let report = load.stop().await.unwrap();
    assert_eq!(report.failed(), 0, "{:?}", report.phases);
    assert!(
        report.latest_send >= Duration::from_millis(50),
        "the hold-up is not told"
    );
}
