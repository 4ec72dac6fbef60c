//! Answers of the edge itself, for which no server is asked.

use std::rc::Rc;

use pontoon_fleet::Maintenance;
use pontoon_rt::clock::{Clock, SystemClock};

use crate::clients::Denied;
use crate::connection::{Client, send};
use crate::forward::{After, Served};
use crate::http1::body::Length;
use crate::http1::reject::Reject;
use crate::http1::request::{Request, Version};
use crate::pages::Own;
use crate::pipe::Pipe;
use crate::worker::Worker;

/// Answers a request whose body is refused.
pub async fn refused(worker: &Rc<Worker>, client: &mut Client, request: &Request, reject: Reject) -> Served {
    worker.stats.rejected(reject as usize);
    let mut text = std::mem::take(&mut client.scratch);
    text.clear();
    worker.pages().refuse(&mut text, reject, request.is_head);
    answer_alone(worker, client, text, reject.status(), After::Linger).await
}

/// Answers a request of a client that has met a limit. Its connection may go on if the next request begins where this
/// one ends.
pub async fn denied(worker: &Rc<Worker>, client: &mut Client, request: &Request, denied: &Denied) -> Served {
    worker.stats.rejected(denied.reject as usize);
    let keep_alive = request.keep_alive
        && request.version == Version::Http11
        && request.length == Length::None
        && !worker.draining.get();
    let extra = format!("Retry-After: {}\r\n", denied.retry_after);
    let mut text = std::mem::take(&mut client.scratch);
    text.clear();
    let own = Own {
        status: denied.reject.status(),
        detail: denied.reject.word(),
        extra: &extra,
        head_only: request.is_head,
        keep_alive,
        ..Own::default()
    };
    worker.pages().write(&mut text, &own);
    let status = own.status;
    let after = if keep_alive {
        After::KeepAlive
    } else {
        After::Linger
    };
    answer_alone(worker, client, text, status, after).await
}

/// Answers a visitor who wants what is kept or nothing (`only-if-cached`), when nothing is.
pub async fn not_kept(worker: &Worker, client: &mut Client, request: &Request, up: &Pipe) -> Served {
    let keep_alive =
        request.keep_alive && request.version == Version::Http11 && up.is_past() && !worker.draining.get();
    let own = Own {
        status: 504,
        detail: "nothing is kept that answers this",
        request_id: request.id(up.staged()),
        head_only: request.is_head,
        keep_alive,
        ..Own::default()
    };
    let mut text = std::mem::take(&mut client.scratch);
    text.clear();
    worker.pages().write(&mut text, &own);
    let after = if keep_alive {
        After::KeepAlive
    } else {
        After::Linger
    };
    answer_alone(worker, client, text, 504, after).await
}

/// Answers a visitor while there is maintenance.
pub async fn maintained(
    worker: &Rc<Worker>,
    client: &mut Client,
    request: &Request,
    up: &Pipe,
    maintenance: &Maintenance,
) -> Served {
    let keep_alive =
        request.keep_alive && request.version == Version::Http11 && up.is_past() && !worker.draining.get();
    let own = Own {
        request_id: request.id(up.staged()),
        head_only: request.is_head,
        keep_alive,
        ..Own::default()
    };
    let mut text = std::mem::take(&mut client.scratch);
    text.clear();
    worker
        .pages()
        .maintain(&mut text, maintenance, SystemClock.unix(), &own);
    let after = if keep_alive {
        After::KeepAlive
    } else {
        After::Linger
    };
    answer_alone(worker, client, text, 503, after).await
}

/// Sends `text`, an answer of the edge itself for which no server was asked.
async fn answer_alone(
    worker: &Worker,
    client: &mut Client,
    text: Vec<u8>,
    status: u16,
    after: After,
) -> Served {
    let sent = send(client, &text, worker.upstreams().tuning.write_timeout).await;
    let bytes = text.len() as u64;
    client.scratch = text;
    Served {
        status,
        bytes,
        upstream: None,
        retries: 0,
        after: if sent.is_ok() { after } else { After::Close },
    }
}
