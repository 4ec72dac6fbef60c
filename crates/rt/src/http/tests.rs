use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::shutdown::Shutdown;

async fn answer(request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/echo" => match read_json::<serde_json::Value, _>(request.into_body(), 1000).await {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(error) => refusal_response(&error.into()),
        },
        "/refuse" => refusal_response(&Refusal::new(Code::J001, "the token was refused").because("expired")),
        "/nothing" => Response::new(empty()),
        "/large" => Response::new(full(vec![b'1'; 5 << 20])),
        "/stream" => Response::new(reader_body(tokio::io::repeat(7).take(3_000_000))),
        "/broken" => Response::new(reader_body(Broken { sent: false })),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Response::new(empty())
        }
        _ => {
            let mut response = Response::new(full("no such \u{7} page"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

struct Broken {
    sent: bool,
}

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.sent {
            return std::task::Poll::Ready(Err(io::Error::other("the disk failed")));
        }
        self.sent = true;
        buffer.put_slice(b"a part");
        std::task::Poll::Ready(Ok(()))
    }
}

fn server() -> DuplexStream {
    let (near, far) = duplex(1 << 16);
    tokio::spawn(serve(far, Shutdown::new(), answer));
    near
}

#[tokio::test]
async fn json_goes_there_and_back() {
    let said = serde_json::json!({"a": [1, 2]});
    let heard: serde_json::Value = call(server(), &Call::post("b", "/echo"), Some(&said))
        .await
        .unwrap();
    assert_eq!(heard, said);
    let () = call(server(), &Call::get("b", "/nothing"), None::<&()>)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refusal_arrives_as_it_was_said() {
    let error = call::<_, (), ()>(server(), &Call::get("b", "/refuse"), None)
        .await
        .unwrap_err();
    let refusal = Refusal::from(error);
    assert_eq!(
        (refusal.code, refusal.evidence.as_slice()),
        (Code::J001, ["expired".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn too_much_too_late_and_not_json_are_errors() {
    let get = |path| Call::get("b", path);
    let large = call::<_, (), ()>(server(), &get("/large"), None)
        .await
        .unwrap_err();
    assert!(matches!(large, HttpError::TooLarge(_)), "{large}");
    let slow = get("/slow").timeout(Duration::from_millis(50));
    assert!(matches!(
        call::<_, (), ()>(server(), &slow, None).await,
        Err(HttpError::Timeout(_))
    ));
    let streamed = call::<_, (), ()>(server(), &get("/stream"), None)
        .await
        .unwrap_err();
    assert!(matches!(streamed, HttpError::Json(_)));
    let HttpError::Status { status, text } = call::<_, (), ()>(server(), &get("/x"), None).await.unwrap_err()
    else {
        panic!("not a status");
    };
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "no such   page"));
    let sent = "x".repeat(2000);
    let too_long = call::<_, _, ()>(server(), &Call::post("b", "/echo"), Some(&sent))
        .await
        .unwrap_err();
    assert_eq!(Refusal::from(too_long).code, Code::N005);
    assert!(matches!(
        call::<_, (), ()>(server(), &get("/a b"), None).await,
        Err(HttpError::Request(_))
    ));
}

#[tokio::test]
async fn a_body_streams_without_being_collected() {
    let response = request(server(), Call::get("b", "/stream").request(empty()).unwrap())
        .await
        .unwrap();
    let mut reader = body_reader(response.into_body());
    let mut total = 0;
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            n => total += n,
        }
    }
    assert_eq!(total, 3_000_000);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_not_an_end() {
    let whole = async {
        let response = request(server(), Call::get("b", "/broken").request(empty()).unwrap()).await?;
        let mut bytes = Vec::new();
        body_reader(response.into_body())
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| HttpError::Body(error.into()))
    };
    // Whether the head was still sent before the connection broke depends on the scheduler.
    assert!(matches!(
        whole.await,
        Err(HttpError::Body(_) | HttpError::Connection(_))
    ));
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_or_hangs_up_is_an_error() {
    for text in [
        "SSH-2.0-x\r\n\r\n",
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123",
    ] {
        let (near, mut far) = duplex(1000);
        tokio::spawn(async move {
            let _ = far.read(&mut [0; 1000]).await;
            let _ = far.write_all(text.as_bytes()).await;
        });
        let error = call::<_, (), ()>(near, &Call::get("b", "/"), None)
            .await
            .unwrap_err();
        assert_eq!(Refusal::from(error).code, Code::N002, "{text:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_ends_at_shutdown() {
    let (near, far) = duplex(1000);
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(serve(far, shutdown.clone(), answer));
    shutdown.trigger();
    tokio::time::timeout(Duration::from_secs(5), serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(near);
}
