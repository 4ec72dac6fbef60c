//! Heads and trailers from one version to the other. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, request};

use crate::http1::body::{Body, Length};
use crate::http1::head::{Fields, Known, known};
use crate::http1::reject::Reject;

/// Writes the HTTP/1.1 head of a request (RFC 9113 section 8.3.1); says whether its body goes in chunks. What is wrong
/// with it otherwise is found when it is read.
///
/// # Errors
/// What could not be told apart afterwards: two hosts.
pub fn request_head(parts: &request::Parts, has_body: bool, out: &mut Vec<u8>) -> Result<bool, Reject> {
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Reject::HostMismatch);
        }
        (authority, host) => authority.or(host),
    };
    let target = match parts.uri.path_and_query() {
        Some(target) if parts.method != http::Method::CONNECT => target.as_str().as_bytes(),
        _ => host.unwrap_or(b"/"),
    };
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = host {
        field(out, b"host", host);
    }
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in &parts.headers {
        match *name {
            header::HOST => {}
            header::CONTENT_LENGTH if !has_body => {}
            // Split for the sake of compression; one field in HTTP/1.1 (RFC 9113 section 8.2.3).
            header::COOKIE => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            }
            _ => field(out, name.as_ref(), value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        field(out, b"cookie", &cookies);
    }
    let chunked = has_body && !parts.headers.contains_key(header::CONTENT_LENGTH);
    if chunked {
        field(out, b"transfer-encoding", b"chunked");
    } else if !has_body && matches!(parts.method.as_str(), "POST" | "PUT" | "PATCH") {
        // RFC 9110 section 8.6: otherwise some applications answer 411.
        field(out, b"content-length", b"0");
    }
    out.extend_from_slice(b"\r\n");
    Ok(chunked)
}

/// A request from its HTTP/1.1 head, which was made here, and its body.
pub fn request(head: &[u8]) -> Option<(Request<()>, Body)> {
    let (line, fields) = Fields::parse(head).ok()?;
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let (mut host, mut body) = (&b"localhost"[..], Body::Finished);
    let mut headers = HeaderMap::new();
    for (known, name, value) in fields.iter() {
        match known {
            Known::Host => host = value,
            Known::ContentLength => {
                body = Body::Counted(std::str::from_utf8(value).ok()?.parse().ok()?);
                add(&mut headers, name, value)?;
            }
            Known::TransferEncoding => body = Length::Chunked.into(),
            Known::Connection | Known::HopByHop | Known::Upgrade => {}
            _ => add(&mut headers, name, value)?,
        }
    }
    if matches!(body, Body::Counted(0)) {
        body = Body::Finished;
    }
    let uri = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query(target)
        .build()
        .ok()?;
    let mut request = Request::builder().method(method).uri(uri).body(()).ok()?;
    *request.headers_mut() = headers;
    Some((request, body))
}

/// Writes the HTTP/1.1 head of an application's answer; says whether its body goes in chunks.
pub fn response_head(response: &Response<()>, has_body: bool, out: &mut Vec<u8>) -> bool {
    let status = response.status();
    out.extend_from_slice(format!("HTTP/1.1 {} \r\n", status.as_u16()).as_bytes());
    let mut length = false;
    for (name, value) in response.headers() {
        match known(name.as_ref()) {
            Known::Connection | Known::HopByHop | Known::TransferEncoding | Known::Upgrade => continue,
            Known::ContentLength => length = true,
            _ => {}
        }
        field(out, name.as_ref(), value.as_bytes());
    }
    let chunked = has_body && !length;
    let final_and_empty = !status.is_informational() && !has_body;
    if chunked {
        field(out, b"transfer-encoding", b"chunked");
    } else if final_and_empty
        && !length
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        field(out, b"content-length", b"0");
    }
    if !status.is_informational() {
        // It carries one request: another stream is as cheap.
        field(out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    chunked
}

/// An answer from its HTTP/1.1 head, which was made here, and its body.
pub fn response(head: &[u8], to_head: bool) -> Option<(Response<()>, Body)> {
    let (line, fields) = Fields::parse(head).ok()?;
    let status = StatusCode::from_bytes(line.get(9..12)?).ok()?;
    let mut body = Body::UntilClose;
    let mut response = Response::new(());
    for (known, name, value) in fields.iter() {
        match known {
            Known::TransferEncoding => body = Length::Chunked.into(),
            Known::Connection | Known::HopByHop | Known::Upgrade => {}
            is => {
                if is == Known::ContentLength {
                    body = Body::Counted(std::str::from_utf8(value).ok()?.parse().ok()?);
                }
                add(response.headers_mut(), name, value)?;
            }
        }
    }
    let bodiless = to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || matches!(body, Body::Counted(0)) {
        body = Body::Finished;
    }
    *response.status_mut() = status;
    Some((response, body))
}

/// The trailers in the framing that ended a chunked body: what came after its last content.
pub fn trailers(framing: &[u8]) -> Option<HeaderMap> {
    let framing = framing.strip_prefix(b"\r\n").unwrap_or(framing);
    // The size of the last chunk is a line of its own, as the first line of a head is.
    let (_, fields) = Fields::parse(framing).ok()?;
    let mut trailers = HeaderMap::new();
    for (_, name, value) in fields.iter() {
        add(&mut trailers, name, value)?;
    }
    Some(trailers)
}

/// The end of a chunked body, with these trailers.
pub fn last_chunk(trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut out = b"0\r\n".to_vec();
    for (name, value) in trailers.into_iter().flatten() {
        field(&mut out, name.as_ref(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn add(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Option<()> {
    let name = HeaderName::from_bytes(name).ok()?;
    headers.append(name, HeaderValue::from_bytes(value).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(builder: request::Builder, has_body: bool) -> Result<(String, bool), Reject> {
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        let chunked = request_head(&parts, has_body, &mut out)?;
        Ok((String::from_utf8(out).unwrap(), chunked))
    }

    #[test]
    fn a_request_becomes_one_that_can_be_read() {
        let get = Request::get("https://a.test/x?y=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        assert_eq!(
            head(get, false).unwrap(),
            (
                "GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\ncookie: a=1; b=2\r\n\r\n".to_owned(),
                false
            )
        );
        let post = || Request::post("https://a.test/");
        assert!(
            head(post(), true)
                .unwrap()
                .0
                .ends_with("transfer-encoding: chunked\r\n\r\n")
        );
        assert!(
            head(post(), false)
                .unwrap()
                .0
                .ends_with("content-length: 0\r\n\r\n")
        );
        let counted = head(post().header("content-length", "5"), true).unwrap();
        assert_eq!((counted.1, counted.0.matches("length").count()), (false, 1));
        let two = post().header("host", "b.test");
        assert_eq!(head(two, false), Err(Reject::HostMismatch));
        let same = post().header("host", "A.test");
        assert_eq!(head(same, false).unwrap().0.matches("host").count(), 1);
    }

    #[test]
    fn an_answer_loses_what_was_for_one_connection() {
        let text = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nX-A: b\r\nSet-Cookie: 1\r\nSet-Cookie: 2\r\n\r\n";
        let (answer, body) = response(text, false).unwrap();
        let names: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-a", "set-cookie"]);
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
        assert!(matches!(body, Body::Chunked(_)));
        let (_, body) = response(b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n", false).unwrap();
        assert!(body.is_finished());
        let (_, body) = response(b"HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n", true).unwrap();
        assert!(body.is_finished());
    }

    #[test]
    fn trailers_go_both_ways() {
        let mut map = HeaderMap::new();
        map.insert("grpc-status", HeaderValue::from_static("0"));
        map.insert("grpc-message", HeaderValue::from_static("fine"));
        let end = last_chunk(Some(&map));
        assert_eq!(end, b"0\r\ngrpc-status: 0\r\ngrpc-message: fine\r\n\r\n");
        assert_eq!(trailers(&end), Some(map.clone()));
        assert_eq!(trailers(&[b"\r\n", &end[..]].concat()), Some(map));
        assert_eq!(trailers(&last_chunk(None)), Some(HeaderMap::new()));
    }

    #[test]
    fn what_goes_up_is_a_request_again() {
        let text = b"POST /p HTTP/1.1\r\nHost: a.test\r\nConnection: TE\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (asked, body) = request(text).unwrap();
        assert_eq!(asked.uri(), "http://a.test/p");
        assert!(matches!(body, Body::Chunked(_)) && asked.headers()["te"] == "trailers");
        assert_eq!(asked.headers().len(), 1);
        let mut out = Vec::new();
        let only_trailers = Response::builder().header("grpc-status", "12").body(()).unwrap();
        assert!(!response_head(&only_trailers, false, &mut out));
        let text = "HTTP/1.1 200 \r\ngrpc-status: 12\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
