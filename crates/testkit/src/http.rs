//! A small HTTP/1.1 client that shares no code with what it judges. Nothing is retried and nothing is followed.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request. `Host`, `Content-Length` and `Connection` are added when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST` …
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl Request {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Request {
        Request {
            method: "GET",
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A POST of a form.
    pub fn form(path: impl Into<String>, fields: &[(&str, &str)]) -> Request {
        let pairs = fields
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        let body = pairs.collect::<Vec<_>>().join("&").into_bytes();
        Request::post(path, "application/x-www-form-urlencoded", body)
    }

    /// A POST of a body of some type.
    pub fn post(path: impl Into<String>, content_type: &str, body: Vec<u8>) -> Request {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Request {
            method: "POST",
            path: path.into(),
            headers,
            body,
        }
    }

    fn encode(&self, host: &str, keep_alive: bool) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pontoon-visitor\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str(if keep_alive {
            "\r\n"
        } else {
            "Connection: close\r\n\r\n"
        });
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields as sent.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// A header field, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Why there was no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The connection was refused.
    Refused,
    /// The connection could not be made for another reason.
    Unreachable,
    /// The connection broke before the first byte of an answer.
    NoAnswer,
    /// The connection broke within the answer.
    CutShort,
    /// What came is not HTTP/1.1, or larger than 16 MiB.
    Malformed,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpError::Refused => "connection refused",
            HttpError::Unreachable => "no connection",
            HttpError::NoAnswer => "closed without an answer",
            HttpError::CutShort => "closed within the answer",
            HttpError::Malformed => "malformed answer",
        })
    }
}

impl std::error::Error for HttpError {}

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    reusable: bool,
}

impl Connection {
    /// Connects; the caller limits the time.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn open(address: SocketAddr) -> Result<Connection, HttpError> {
        let stream = TcpStream::connect(address).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => HttpError::Refused,
            _ => HttpError::Unreachable,
        })?;
        // A request is one write: there is nothing to gather.
        let _ = stream.set_nodelay(true);
        Ok(Connection {
            stream,
            reusable: true,
        })
    }

    /// Whether another request can be sent: the last answer allowed it and the server has not closed meanwhile.
    pub fn reusable(&self) -> bool {
        let mut byte = [0];
        // Readable without a request means closed, or something nobody asked for.
        self.reusable
            && matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads its answer; the caller limits the time and drops the connection when it is over.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn send(
        &mut self,
        request: &Request,
        host: &str,
        keep_alive: bool,
    ) -> Result<Response, HttpError> {
        self.send_and_notice(request, host, keep_alive, || ()).await
    }

    /// The same; `begun` is called when the first bytes of the answer are here.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn send_and_notice(
        &mut self,
        request: &Request,
        host: &str,
        keep_alive: bool,
        begun: impl FnOnce(),
    ) -> Result<Response, HttpError> {
        let mut begun = Some(begun);
        self.reusable = false;
        let bytes = request.encode(host, keep_alive);
        // A server may answer and close before it has read everything: the answer counts.
        let sent = self.stream.write_all(&bytes).await;
        let mut buffer = Vec::with_capacity(8 * 1024);
        let (head, body_start) = loop {
            if let Some(found) = parse_head(&buffer)? {
                if (100..200).contains(&found.0.status) && found.0.status != 101 {
                    buffer.drain(..found.1);
                    continue;
                }
                break found;
            }
            if self.read(&mut buffer).await.unwrap_or(0) == 0 {
                return Err(if buffer.is_empty() {
                    HttpError::NoAnswer
                } else {
                    HttpError::CutShort
                });
            }
            if let Some(begun) = begun.take() {
                begun();
            }
        };
        let mut body = buffer.split_off(body_start);
        let framing = Framing::of(request.method, &head)?;
        let until_close = matches!(framing, Framing::UntilClose);
        let body = loop {
            if let Some(whole) = framing.take(&body)? {
                break whole;
            }
            match self.read(&mut body).await {
                Ok(0) if until_close => break body,
                Ok(0) | Err(_) => return Err(HttpError::CutShort),
                Ok(_) => {}
            }
        };
        let closes = head
            .header("connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        self.reusable = keep_alive && sent.is_ok() && !closes && !until_close;
        Ok(Response { body, ..head })
    }

    async fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize, HttpError> {
        if buffer.len() > MOST_BYTES {
            return Err(HttpError::Malformed);
        }
        self.stream
            .read_buf(buffer)
            .await
            .map_err(|_| HttpError::CutShort)
    }
}

/// Percent-encodes everything but letters, digits and `-._~` (RFC 3986 section 2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// How the body ends (RFC 9112 section 6.3).
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    fn of(method: &str, head: &Response) -> Result<Framing, HttpError> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        if let Some(coding) = head.header("transfer-encoding") {
            return if coding.eq_ignore_ascii_case("chunked") {
                Ok(Framing::Chunked)
            } else {
                Err(HttpError::Malformed)
            };
        }
        match head.header("content-length") {
            Some(length) => match length.trim().parse() {
                Ok(length) if length <= MOST_BYTES => Ok(Framing::Length(length)),
                _ => Err(HttpError::Malformed),
            },
            None => Ok(Framing::UntilClose),
        }
    }

    /// The whole body once all of it is in `bytes`.
    fn take(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
        match self {
            Framing::Length(length) => Ok(bytes.get(..*length).map(<[u8]>::to_vec)),
            Framing::Chunked => dechunk(bytes),
            Framing::UntilClose => Ok(None),
        }
    }
}

fn dechunk(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete((start, 0))) => {
                // Trailers end with an empty line; at once when there are none.
                let rest = &bytes[start..];
                let done = rest.starts_with(b"\r\n") || rest.windows(4).any(|window| window == b"\r\n\r\n");
                return Ok(done.then_some(body));
            }
            Ok(httparse::Status::Complete((start, size))) => {
                let size = usize::try_from(size)
                    .ok()
                    .filter(|size| *size <= MOST_BYTES)
                    .ok_or(HttpError::Malformed)?;
                let Some(chunk) = bytes.get(start..start + size) else {
                    return Ok(None);
                };
                body.extend_from_slice(chunk);
                match bytes.get(start + size..start + size + 2) {
                    Some(b"\r\n") => bytes = &bytes[start + size + 2..],
                    Some(_) => return Err(HttpError::Malformed),
                    None => return Ok(None),
                }
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(HttpError::Malformed),
        }
    }
}

/// The head and where the body begins, once the head is there.
fn parse_head(bytes: &[u8]) -> Result<Option<(Response, usize)>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let field = |field: &httparse::Header<'_>| {
                (
                    field.name.to_owned(),
                    String::from_utf8_lossy(field.value).into_owned(),
                )
            };
            let headers = parsed.headers.iter().map(field).collect();
            let status = parsed.code.ok_or(HttpError::Malformed)?;
            Ok(Some((
                Response {
                    status,
                    headers,
                    body: Vec::new(),
                },
                length,
            )))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(HttpError::Malformed),
    }
}

const MOST_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Sends `GET /` to a server that answers with `answer` and closes.
    async fn ask(answer: &'static [u8]) -> Result<(Response, bool), HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            for piece in answer.chunks(7) {
                let _ = stream.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::open(address).await?;
        let response = connection.send(&Request::get("/"), "x", true).await?;
        Ok((response, connection.reusable))
    }

    #[tokio::test]
    async fn every_framing_gives_the_whole_body() {
        for (answer, reusable) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], true),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
                false,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
                true,
            ),
            (b"HTTP/1.0 200 OK\r\n\r\nhello", false),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                true,
            ),
        ] {
            let (response, again) = ask(answer).await.unwrap();
            assert_eq!(
                (response.status, response.text().as_ref(), again),
                (200, "hello", reusable)
            );
        }
        assert_eq!(ask(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap().0.body, b"");
    }

    #[tokio::test]
    async fn broken_answers_are_told_apart() {
        for (answer, error) in [
            (&b""[..], HttpError::NoAnswer),
            (b"HTTP/1.1 200 OK\r\nContent-Le", HttpError::CutShort),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
                HttpError::CutShort,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                HttpError::CutShort,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
                HttpError::Malformed,
            ),
            (b"SSH-2.0-x\r\n\r\n", HttpError::Malformed),
        ] {
            assert_eq!(
                ask(answer).await.unwrap_err(),
                error,
                "{}",
                String::from_utf8_lossy(answer)
            );
        }
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert_eq!(Connection::open(closed).await.unwrap_err(), HttpError::Refused);
    }

    #[test]
    fn forms_are_encoded() {
        let request = Request::form("/x", &[("a b", "ü&="), ("c", "1")]);
        assert_eq!(request.body, b"a%20b=%C3%BC%26%3D&c=1");
        let bytes = request.encode("h", false);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.starts_with("POST /x HTTP/1.1\r\nHost: h\r\n") && text.contains("Content-Length: 22\r\n"),
            "{text}"
        );
    }
}
