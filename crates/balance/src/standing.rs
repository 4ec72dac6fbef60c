//! How a server stands, which were tried, and which was chosen: the words that all rules share.

/// How a server stands at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its checks are good, and nobody took it out.
    InService,
    /// Its checks fail, or a connection to it could not be made.
    Unhealthy,
    /// Its checks are good and its answers were not: left out for a while.
    Ejected,
    /// An operator took it out.
    Draining,
}

/// The servers that a request was already sent to, by index. Holds no memory until the first is added.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    /// Remembers that `index` was tried.
    pub fn add(&mut self, index: usize) {
        if !self.contains(index) {
            self.0.push(index);
        }
    }

    /// Whether `index` was tried.
    pub fn contains(&self, index: usize) -> bool {
        self.0.contains(&index)
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all of them: for a request that waited and may start over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The server that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its index.
    pub index: usize,
    /// Whether it was chosen in panic mode: no server is in service.
    pub panic: bool,
}
