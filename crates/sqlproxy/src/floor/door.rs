//! What the edge of this server is told, and tells: see [`pontoon_rt::floor`].

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{SystemTime, UNIX_EPOCH};

use pontoon_rt::floor::{self, Saying, Told};
use pontoon_rt::paths::Paths;
use pontoon_rt::shutdown::Shutdown;

use super::Floors;

/// A longer floor is not handed out: who needs it asks the primary.
const MAX_FLOOR: usize = 400;

/// Answers the edge until `shutdown`. Must be called within a runtime.
pub fn serve(floors: &Arc<Floors>, paths: &Paths, shutdown: Shutdown) {
    let floors = Arc::clone(floors);
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Generations of another run mean nothing in this one.
    let run = format!("{}-{:x}", std::process::id(), moment.as_nanos());
    let answers = AtomicU64::new(0);
    floor::serve(
        &paths.floor_socket(),
        move |saying| floors.answer(&run, answers.fetch_add(1, Relaxed), saying),
        shutdown,
    );
}

impl Floors {
    fn answer(&self, run: &str, number: u64, saying: Saying) -> Told {
        if !self.recording.load(SeqCst) {
            return Told::Off;
        }
        if let Saying::See(floor) = saying
            && self.heard(floor.as_deref()).is_err()
        {
            // An edge signed it, and it is of another engine or version: there is something to see.
            let _ = self.heard(None);
        }
        let generation = self.node_floor().1;
        if self.unwatched() > 0 {
            // Nobody knows whether something was written: each answer is another.
            return Told::Floor {
                mark: format!("{run}.{generation}.{number}"),
                floor: None,
            };
        }
        Told::Floor {
            mark: format!("{run}.{generation}"),
            floor: self.handed_out(),
        }
    }

    /// What readers through this server must see, short enough to be handed to others; `None` while nobody knows, when
    /// nothing was written, or when it takes too many words.
    pub fn handed_out(&self) -> Option<String> {
        if !self.recording.load(SeqCst) {
            return None;
        }
        let mut floor = self.node_floor().0?;
        // Gaps do not matter to others: whoever gets it holds it against the primary's own position.
        floor.position.widen(1);
        let text = floor.to_string();
        (text.len() <= MAX_FLOOR && !floor.position.is_empty()).then_some(text)
    }
}
