//! Who waits for a connection to which server, of one thread: first come, first served. Pure, but for waking.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tokio::sync::Notify;

/// The lines before all servers.
#[derive(Debug, Default)]
pub struct Lines(RefCell<HashMap<usize, VecDeque<Rc<Notify>>>>);

/// A place in a line; given up when dropped.
#[derive(Debug)]
pub struct InLine<'a> {
    lines: &'a Lines,
    server: usize,
    /// Told when everybody before it is gone.
    next: Rc<Notify>,
}

impl Lines {
    /// Whether nobody waits for `server`.
    pub fn is_empty(&self, server: usize) -> bool {
        self.0.borrow().get(&server).is_none_or(VecDeque::is_empty)
    }

    /// The last place of the line before `server`.
    pub fn join(&self, server: usize) -> InLine<'_> {
        let next = Rc::new(Notify::new());
        self.0
            .borrow_mut()
            .entry(server)
            .or_default()
            .push_back(Rc::clone(&next));
        InLine {
            lines: self,
            server,
            next,
        }
    }
}

impl InLine<'_> {
    /// Which server it is for.
    pub fn server(&self) -> usize {
        self.server
    }

    /// Whether nobody is before it.
    pub fn is_first(&self) -> bool {
        let lines = self.lines.0.borrow();
        let first = lines.get(&self.server).and_then(VecDeque::front);
        first.is_some_and(|first| Rc::ptr_eq(first, &self.next))
    }

    /// Waits until nobody is before it.
    pub async fn until_first(&self) {
        while !self.is_first() {
            self.next.notified().await;
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut lines = self.lines.0.borrow_mut();
        if let Some(line) = lines.get_mut(&self.server) {
            line.retain(|one| !Rc::ptr_eq(one, &self.next));
            match line.front() {
                Some(first) => first.notify_one(),
                None => drop(lines.remove(&self.server)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_came_first_is_served_first_whoever_gives_up() {
        let lines = Lines::default();
        assert!(lines.is_empty(0));
        let (first, second, third) = (lines.join(0), lines.join(0), lines.join(0));
        let elsewhere = lines.join(1);
        assert!(first.is_first() && elsewhere.is_first() && !second.is_first());
        drop(second);
        assert!(!third.is_first() && !lines.is_empty(0));
        let wait = async {
            third.until_first().await;
            drop(third);
        };
        tokio::pin!(wait);
        tokio::select! {
            biased;
            () = &mut wait => panic!("somebody is before it"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        wait.await;
        assert!(lines.is_empty(0) && !lines.is_empty(1));
    }
}
