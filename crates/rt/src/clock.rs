//! Time as an argument: pure code takes values, shells take a [`Clock`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pontoon_fleet::UnixMillis;

/// Two clocks in one: a steady one for spans and deadlines, and the wall's for people.
pub trait Clock: Send + Sync + 'static {
    /// Time since the machine started, including the time that it slept or was suspended: a virtual machine that was
    /// frozen must find its deadlines passed when it thaws (`CLOCK_BOOTTIME`, clock_gettime(2)).
    fn now(&self) -> Duration;

    /// The wall clock. May jump; no safety rule compares it between servers.
    fn unix(&self) -> UnixMillis;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }

    fn unix(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Which start of this machine it is (random(4)): moments of [`Clock::now`] mean something within one only. Empty when
/// the kernel does not say; then no moment of another process means anything.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    })
}

/// A clock that stands still until a test moves it. Both faces move together.
#[derive(Debug)]
pub struct TestClock {
    since_start_ms: AtomicU64,
    unix_start: UnixMillis,
}

impl Default for TestClock {
    /// Starts at 2026-11-22 00:00 UTC.
    fn default() -> TestClock {
        TestClock::at(UnixMillis(1_795_305_600_000))
    }
}

impl TestClock {
    /// A clock whose wall shows `unix`.
    pub fn at(unix: UnixMillis) -> TestClock {
        TestClock {
            since_start_ms: AtomicU64::new(0),
            unix_start: unix,
        }
    }

    /// Moves on by `span` (whole milliseconds).
    pub fn advance(&self, span: Duration) {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.since_start_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.since_start_ms.load(Ordering::SeqCst))
    }

    fn unix(&self) -> UnixMillis {
        self.unix_start.plus(self.now())
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn unix(&self) -> UnixMillis {
        (**self).unix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_forward() {
        let clock = SystemClock;
        let (now, unix) = (clock.now(), clock.unix());
        assert!(now > Duration::ZERO && unix.0 > 1_700_000_000_000);
        assert!(clock.now() >= now);
        let test = TestClock::default();
        let before = test.unix();
        test.advance(Duration::from_secs(3));
        assert_eq!(test.unix().since(before), Duration::from_secs(3));
        assert_eq!(test.now(), Duration::from_secs(3));
    }
}
