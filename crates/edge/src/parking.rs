//! Kept connections of plain HTTP that have said nothing for a while. What is left of each is its descriptor and what
//! tells it from others: no task, no timer, no place in the runtime's own reactor. One epoll instance watches all of
//! them; who speaks again becomes a task again.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// The idle connections of one thread, each with a `T` that comes back with it.
pub struct Parking<T> {
    /// `None` when the kernel has none for us: nobody is parked then.
    poll: Option<OwnedFd>,
    lot: RefCell<Lot<T>>,
}

struct Lot<T> {
    places: Vec<Option<Parked<T>>>,
    free: Vec<u32>,
}

/// A connection that waits.
pub struct Parked<T> {
    /// The connection, which is non-blocking.
    pub stream: TcpStream,
    /// How long it may.
    pub until: Instant,
    /// What belongs to it.
    pub with: T,
}

impl<T> Parking<T> {
    /// Without connections yet.
    pub fn new() -> Parking<T> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC);
        if let Err(error) = &poll {
            tracing::warn!(%error, "idle connections stay as large as busy ones");
        }
        Parking {
            poll: poll.ok(),
            lot: RefCell::new(Lot {
                places: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    /// Whether connections can be parked at all.
    pub fn is_open(&self) -> bool {
        self.poll.is_some()
    }

    /// What becomes readable when somebody has spoken. To be called within a runtime.
    ///
    /// # Errors
    /// When the kernel has no more descriptors.
    #[expect(
        deprecated,
        reason = "the descriptor is owned, which is all that its successor asks for, with unsafe"
    )]
    pub fn watch(&self) -> io::Result<Option<AsyncFd<OwnedFd>>> {
        let poll = self.poll.as_ref().map(OwnedFd::try_clone).transpose()?;
        poll.map(|poll| AsyncFd::with_interest(poll, Interest::READABLE))
            .transpose()
    }

    /// Takes a connection in. One that has spoken meanwhile is told of at once. A connection that cannot be watched ends.
    pub fn put(&self, parked: Parked<T>) {
        let lot = &mut *self.lot.borrow_mut();
        let place = lot.free.pop().unwrap_or(lot.places.len() as u32);
        let mark = epoll::EventData::new_u64(u64::from(place));
        let watched = match &self.poll {
            Some(poll) => epoll::add(poll, &parked.stream, mark, epoll::EventFlags::IN),
            None => Err(rustix::io::Errno::BADF),
        };
        let parked = watched.is_ok().then_some(parked);
        if parked.is_none() {
            lot.free.push(place);
        }
        match lot.places.get_mut(place as usize) {
            Some(empty) => *empty = parked,
            None => lot.places.push(parked),
        }
    }

    /// Takes out those who have spoken, or have gone; nobody when there are no more.
    pub fn take(&self) -> Vec<Parked<T>> {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let Some(poll) = &self.poll else { return Vec::new() };
        let mut events = Vec::with_capacity(256);
        // An interrupted call is no different from one that came too early: nothing is lost by it.
        while let Err(rustix::io::Errno::INTR) = epoll::wait(poll, spare_capacity(&mut events), Some(&NOW)) {}
        let lot = &mut *self.lot.borrow_mut();
        let taken = events.iter().filter_map(|event: &epoll::Event| {
            let place = event.data.u64() as usize;
            let parked = lot.places.get_mut(place)?.take()?;
            lot.free.push(place as u32);
            // It goes to another instance; there is nothing to be done about one that does not leave this one.
            let _ = epoll::delete(poll, &parked.stream);
            Some(parked)
        });
        taken.collect()
    }

    /// Ends those who have waited for too long at `now`.
    pub fn end_overdue(&self, now: Instant) {
        self.end(|parked| parked.until <= now);
    }

    /// Ends all.
    pub fn end_all(&self) {
        self.end(|_| true);
    }

    fn end(&self, wanted: impl Fn(&Parked<T>) -> bool) {
        let mut ended = Vec::new();
        let lot = &mut *self.lot.borrow_mut();
        for (index, place) in lot.places.iter_mut().enumerate() {
            if place.as_ref().is_some_and(&wanted) {
                ended.extend(place.take());
                lot.free.push(index as u32);
            }
        }
        // A descriptor that is closed leaves the epoll instance by itself.
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    fn connections(count: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs = (0..count).map(|_| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let server = listener.accept().unwrap().0;
            server.set_nonblocking(true).unwrap();
            (client, server)
        });
        pairs.unzip()
    }

    /// A moment in which loopback has carried what was sent.
    async fn spoken(watch: &AsyncFd<OwnedFd>) {
        let ready = tokio::time::timeout(Duration::from_secs(60), watch.readable()).await;
        ready.unwrap().unwrap().clear_ready();
    }

    #[tokio::test]
    async fn who_speaks_or_goes_comes_back_and_nobody_else() {
        let parking = Parking::new();
        let watch = parking.watch().unwrap().unwrap();
        let (mut clients, servers) = connections(3);
        let until = Instant::now() + Duration::from_secs(3600);
        for (with, stream) in servers.into_iter().enumerate() {
            parking.put(Parked { stream, until, with });
        }
        assert!(parking.take().is_empty());
        clients[1].write_all(b"x").unwrap();
        spoken(&watch).await;
        let mut back = parking.take();
        assert_eq!(back.iter().map(|parked| parked.with).collect::<Vec<_>>(), [1]);
        assert!(parking.take().is_empty(), "each comes back once");
        // Its place is free again, and what was sent before it was parked is not missed.
        parking.put(back.remove(0));
        spoken(&watch).await;
        assert_eq!(parking.take()[0].with, 1);
        drop(clients.remove(2));
        spoken(&watch).await;
        assert_eq!(parking.take()[0].with, 2);
        assert_eq!(parking.lot.borrow().places.len(), 3);
    }

    #[tokio::test]
    async fn who_waits_for_too_long_is_ended() {
        let (parking, counted) = (Parking::new(), std::rc::Rc::new(()));
        let (_clients, servers) = connections(4);
        let now = Instant::now();
        for (seconds, stream) in servers.into_iter().enumerate() {
            let until = now + Duration::from_secs(10 * seconds as u64);
            let with = std::rc::Rc::clone(&counted);
            parking.put(Parked { stream, until, with });
        }
        parking.end_overdue(now + Duration::from_secs(15));
        assert_eq!(std::rc::Rc::strong_count(&counted), 3);
        parking.end_all();
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }
}
