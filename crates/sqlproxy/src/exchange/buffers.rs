//! Buffers of a thread: idle sessions have none.

use std::cell::RefCell;

/// The most that one read takes.
pub const SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers that grew larger are not kept.
const KEEP_BYTES: usize = 128 * 1024;
/// How many buffers a thread keeps.
const KEEP: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with the thread's scratch buffer, for a read whose bytes are used up or copied at once.
pub fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| f(scratch))
}

/// An empty buffer.
pub fn take() -> Vec<u8> {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back.
pub fn give(mut buffer: Vec<u8>) {
    buffer.clear();
    let capacity = buffer.capacity();
    KEPT.with_borrow_mut(|kept| {
        if capacity > 0 && capacity <= KEEP_BYTES && kept.len() < KEEP {
            kept.push(buffer);
        }
    });
}
