//! A server over HTTP/1.1 whose limit is known: it computes when its model would have answered, sleeps until then, and
//! answers. So it takes next to no processor, and what it bears does not depend on the machine.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pontoon_capacity::models::{Model, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One that serves on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Ratebox {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ratebox {
    /// Serves as `model` would, on a loopback port that the kernel chooses. Its time begins with its first request.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub fn start(model: Model, seed: u64) -> std::io::Result<Ratebox> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("ratebox".to_owned())
            .spawn(move || {
                let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                    return;
                };
                let local = tokio::task::LocalSet::new();
                let queue = Rc::new(Queue {
                    server: RefCell::new(Server::new(model, seed)),
                    begun: RefCell::new(None),
                });
                local.block_on(&runtime, async {
                    tokio::select! {
                        _ = stopped => {}
                        () = serve(listener, queue) => {}
                    }
                });
            })?;
        Ok(Ratebox {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Ratebox {
    fn drop(&mut self) {
        // Gone already when the thread has ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

struct Queue {
    server: RefCell<Server>,
    begun: RefCell<Option<Instant>>,
}

impl Queue {
    /// When a request that came now is to be answered.
    fn answer_at(&self) -> Instant {
        let now = Instant::now();
        let begun = *self.begun.borrow_mut().get_or_insert(now);
        let end = self.server.borrow_mut().serve((now - begun).as_secs_f64());
        begun + Duration::from_secs_f64(end)
    }
}

async fn serve(listener: std::net::TcpListener, queue: Rc<Queue>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let queue = Rc::clone(&queue);
                // It ends when the client does.
                tokio::task::spawn_local(async move { drop(connection(stream, &queue).await) });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(mut stream: TcpStream, queue: &Queue) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; 8 * 1024];
    let mut held = 0;
    loop {
        match stream.read(&mut bytes[held..]).await? {
            0 => return Ok(()),
            length => held += length,
        }
        // Requests without a body, as the generator sends them; several may be in one piece.
        while let Some(end) = bytes[..held].windows(4).position(|four| four == b"\r\n\r\n") {
            bytes.copy_within(end + 4..held, 0);
            held -= end + 4;
            tokio::time::sleep_until(queue.answer_at().into()).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await?;
        }
        if held == bytes.len() {
            return Ok(());
        }
    }
}
