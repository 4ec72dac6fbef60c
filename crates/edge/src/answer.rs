//! What the edge says itself when there is nothing to pass on.

use std::fmt::Write;
use std::time::SystemTime;

use crate::http1::reject::Reject;

/// The head and body of an answer of the edge itself.
pub fn write(out: &mut Vec<u8>, status: u16, detail: &str, extra: &str, head_only: bool, keep_alive: bool) {
    let reason = reason(status);
    let body = if detail.is_empty() {
        format!("{status} {reason}\n")
    } else {
        format!("{status} {reason}: {detail}\n")
    };
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let mut text = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "HTTP/1.1 {status} {reason}\r\nDate: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n{extra}{connection}\r\n",
        httpdate::fmt_http_date(SystemTime::now()),
        body.len(),
    );
    if !head_only {
        text.push_str(&body);
    }
    out.extend_from_slice(text.as_bytes());
}

/// An answer of the edge itself that is nothing but `body`. The connection ends with it.
pub fn whole(out: &mut Vec<u8>, body: &str, head_only: bool) {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    out.extend_from_slice(head.as_bytes());
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The words that stand beside a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// Fields that belong to a refusal.
pub fn refusal_fields(reject: Reject) -> &'static str {
    match reject {
        Reject::ConnectRefused | Reject::TraceRefused => {
            "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
        }
        _ => "",
    }
}
