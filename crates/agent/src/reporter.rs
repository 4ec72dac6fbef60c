//! Where a long command says how it is going.

use std::time::Duration;

use pontoon_fleet::ServerName;
use tokio::sync::mpsc;

use crate::api::Progress;

/// Progress lines that may wait for a slow terminal.
const QUEUE: usize = 1024;

/// How long the work waits for a terminal that was stopped, before it goes on without being heard.
const PATIENCE: Duration = Duration::from_secs(1);

/// The speaking end. A listener that goes away or stops listening does not stop the work.
#[derive(Clone)]
pub(crate) struct Reporter(mpsc::Sender<Progress>);

impl Reporter {
    /// A reporter and what it says.
    pub(crate) fn new() -> (Reporter, mpsc::Receiver<Progress>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Reporter(sender), receiver)
    }

    /// Says a line.
    pub(crate) async fn say(&self, progress: Progress) {
        let _ = self.0.send_timeout(progress, PATIENCE).await;
    }

    /// Says it if there is room; for byte counts, of which another comes soon.
    pub(crate) fn say_if_room(&self, progress: Progress) {
        let _ = self.0.try_send(progress);
    }

    /// Returns when nobody listens any more.
    pub(crate) async fn is_alone(&self) {
        self.0.closed().await;
    }

    /// A step begins.
    pub(crate) async fn step(&self, server: &ServerName, text: impl Into<String>) {
        self.say(Progress::Step {
            server: server.clone(),
            text: text.into(),
        })
        .await;
    }

    /// A step ended well.
    pub(crate) async fn done(&self, server: &ServerName, text: impl Into<String>) {
        self.say(Progress::Done {
            server: server.clone(),
            text: text.into(),
        })
        .await;
    }

    /// Something that the operator should know.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        self.say(Progress::Note { text: text.into() }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_terminal_that_was_stopped_does_not_stop_the_work() {
        let (reporter, _listener_that_never_reads) = Reporter::new();
        for number in 0..QUEUE + 3 {
            reporter.note(number.to_string()).await;
        }
    }
}
