//! How the demo goes: a list of phases that is drawn anew on a terminal, plain lines in a log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pontoon_agent::api::Progress;
use pontoon_fleet::units::human_bytes;
use pontoon_rt::clock::{Clock, SystemClock};
use pontoon_testkit::PhaseSummary;

use super::super::Screen;
use super::super::paint::{Paint, harmless, width};

/// Shows how the demo goes, on standard error.
pub struct Show {
    screen: Screen,
    clock: SystemClock,
    begun: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// The list on the terminal: one bar whose text has many lines, so that each drawing is one.
    live: Option<ProgressBar>,
}

/// What there is to show. Pure: time comes from outside.
struct State {
    paint: Paint,
    title: String,
    steps: Vec<Step>,
    /// Which step is under way.
    now: usize,
    detail: String,
}

#[derive(Clone)]
struct Step {
    title: String,
    begun: Option<Duration>,
    took: Option<Duration>,
    well: bool,
    numbers: Option<PhaseSummary>,
}

impl Show {
    /// Begins with the preparation, which comes before the first of `titles`.
    pub fn new(screen: Screen, title: &str, titles: &[&str]) -> Show {
        let clock = SystemClock;
        let step = |title: &str| Step {
            title: title.to_owned(),
            begun: None,
            took: None,
            well: false,
            numbers: None,
        };
        let mut steps: Vec<Step> = std::iter::once(&PREPARATION)
            .chain(titles)
            .map(|title| step(title))
            .collect();
        if let Some(first) = steps.first_mut() {
            first.begun = Some(Duration::ZERO);
        }
        let state = State {
            paint: screen.err,
            title: title.to_owned(),
            steps,
            now: 0,
            detail: String::new(),
        };
        let live = screen.err_is_terminal.then(list);
        let show = Show {
            screen,
            clock,
            begun: clock.now(),
            inner: Mutex::new(Inner { state, live }),
        };
        if show.lock().live.is_none() {
            screen.remark(&format!("{title}\n"));
        }
        show.line(PREPARATION);
        show
    }

    /// Begins the phase with this index; what was before it is done.
    pub fn begin(&self, index: usize) {
        let now = self.elapsed();
        let mut inner = self.lock();
        inner.state.finish(now, true);
        inner.state.now = index + 1;
        inner.state.detail.clear();
        let mut title = String::new();
        if let Some(step) = inner.state.steps.get_mut(index + 1) {
            step.begun = Some(now);
            title.clone_from(&step.title);
        }
        drop(inner);
        self.line(&title);
        self.draw();
    }

    /// Ends the phase that is played.
    pub fn end(&self, well: bool) {
        let mut inner = self.lock();
        inner.state.finish(self.elapsed(), well);
        let numbers = inner
            .state
            .steps
            .get(inner.state.now)
            .and_then(|step| step.numbers.clone());
        let mark = if well {
            self.screen.err.good("✓")
        } else {
            self.screen.err.bad("✗")
        };
        drop(inner);
        self.line(&match numbers {
            Some(numbers) => format!("  {mark} {}", summary(&numbers)),
            None => format!("  {mark}"),
        });
        self.draw();
    }

    /// What is being done now; on a terminal only.
    pub fn detail(&self, text: &str) {
        self.lock().state.detail = harmless(text);
    }

    /// What a command of the fleet says while it works.
    pub fn progress(&self, progress: &Progress) {
        match progress {
            Progress::Step { server, text } => self.detail(&format!("{server}: {text}")),
            Progress::Bytes { done, total } => {
                let mut inner = self.lock();
                let step = inner
                    .state
                    .detail
                    .split("  ")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let total = total
                    .map(|total| format!(" of {}", human_bytes(total)))
                    .unwrap_or_default();
                inner.state.detail = format!("{step}  {}{total}", human_bytes(*done));
            }
            Progress::Done { server, text } => self.fact(&format!("{server}: {text}")),
            Progress::Note { text } | Progress::Finished { text } => self.fact(text),
            Progress::Rows { at, .. } => self.detail(at),
            Progress::Waiting { server } => self.detail(&format!("waiting for {server}")),
            Progress::Differs(what) => self.fact(&crate::output::db::differs(what)),
            // Whoever runs the command tells why it failed.
            Progress::Refused { .. } => {}
        }
    }

    /// Something that is now so.
    pub fn fact(&self, text: &str) {
        self.detail(text);
        self.line(&format!("  {}", harmless(text)));
    }

    /// What the visitors of the present phase have seen so far.
    pub fn numbers(&self, numbers: Option<PhaseSummary>) {
        let mut inner = self.lock();
        let now = inner.state.now;
        if let Some(step) = inner.state.steps.get_mut(now) {
            step.numbers = numbers;
        }
    }

    /// Something that should be known, whatever is shown.
    pub fn remark(&self, text: &str) {
        self.say(&format!("  {} {}\n", self.screen.err.warn("!"), harmless(text)));
    }

    /// Takes the list off the terminal.
    pub fn close(&self) {
        if let Some(list) = self.lock().live.take() {
            list.finish_and_clear();
        }
    }

    /// Draws the list as it is now; to be called a few times a second.
    pub fn draw(&self) {
        let now = self.elapsed();
        let inner = self.lock();
        if let Some(list) = &inner.live {
            let turn = (now.as_millis() / 120) as usize;
            list.set_message(inner.state.lines(now, turn).join("\n"));
        }
    }

    /// A line with its time, where there is no list.
    fn line(&self, text: &str) {
        if self.lock().live.is_none() {
            self.screen.remark(&format!(
                "{}  {text}\n",
                self.screen.err.faint(&clock(self.elapsed()))
            ));
        }
    }

    fn say(&self, text: &str) {
        match &self.lock().live {
            Some(list) => list.suspend(|| self.screen.remark(text)),
            None => self.screen.remark(text),
        }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().saturating_sub(self.begun)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list() -> ProgressBar {
    let list = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is a constant; if it were wrong, the list would merely look different.
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        list.set_style(style);
    }
    list
}

impl State {
    fn finish(&mut self, now: Duration, well: bool) {
        if let Some(step) = self.steps.get_mut(self.now)
            && step.took.is_none()
        {
            step.took = step.begun.map(|begun| now.saturating_sub(begun));
            step.well = well;
        }
    }

    /// The same number of lines at all times.
    fn lines(&self, now: Duration, turn: usize) -> Vec<String> {
        let paint = self.paint;
        let widest = self
            .steps
            .iter()
            .map(|step| width(&step.title))
            .max()
            .unwrap_or(0);
        let mut lines = vec![
            String::new(),
            format!("  {}   {}", paint.strong(&self.title), clock(now)),
            String::new(),
        ];
        for step in &self.steps {
            let pad = " ".repeat(widest - width(&step.title));
            let (mark, title, time) = match (step.begun, step.took) {
                (Some(_), Some(took)) if step.well => (paint.good("✓"), step.title.clone(), took),
                (Some(_), Some(took)) => (paint.bad("✗"), step.title.clone(), took),
                (Some(begun), None) => {
                    let mark = SPINNER.get(turn % SPINNER.len()).copied().unwrap_or(" ");
                    (
                        mark.to_owned(),
                        paint.strong(&step.title),
                        now.saturating_sub(begun),
                    )
                }
                (None, _) => {
                    lines.push(format!("  {} {}", paint.faint("·"), paint.faint(&step.title)));
                    continue;
                }
            };
            let numbers = step
                .numbers
                .as_ref()
                .map(|numbers| painted(numbers, paint))
                .unwrap_or_default();
            lines.push(format!(
                "  {mark} {title}{pad} {:>6.1} s{numbers}",
                time.as_secs_f64()
            ));
        }
        lines.push(String::new());
        lines.push(format!("    {}", paint.faint(&self.detail)));
        lines
    }
}

fn painted(numbers: &PhaseSummary, paint: Paint) -> String {
    let failed = format!("{:>3} failed", numbers.failed);
    let failed = if numbers.failed == 0 {
        paint.good(&failed)
    } else {
        paint.bad(&failed)
    };
    format!(
        "  {:>5} sent  {failed}  longest {:>5.0} ms",
        numbers.sent, numbers.longest_ms
    )
}

fn summary(numbers: &PhaseSummary) -> String {
    let PhaseSummary {
        sent,
        failed,
        longest_ms,
        ..
    } = numbers;
    format!("{sent} requests sent, {failed} failed, longest wait {longest_ms:.0} ms")
}

/// `1:02`
fn clock(elapsed: Duration) -> String {
    format!("{}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

const PREPARATION: &str = "two servers, a database, a site";
const SPINNER: [&str; 8] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧"];

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::output::snapshot;

    fn state() -> State {
        let step = |title: &str, begun: Option<u64>, took: Option<u64>, numbers| Step {
            title: title.to_owned(),
            begun: begun.map(Duration::from_secs),
            took: took.map(Duration::from_secs),
            well: true,
            numbers,
        };
        State {
            paint: Paint::off(),
            title: "Pontoon demo: WordPress".to_owned(),
            steps: vec![
                step(PREPARATION, Some(0), Some(6), None),
                step(
                    "rung 1: one server",
                    Some(6),
                    Some(12),
                    Some(samples::phase("one-server", 171)),
                ),
                step(
                    "a second server joins",
                    Some(18),
                    None,
                    Some(samples::phase("join", 31)),
                ),
                step("rung 2: both servers serve", None, None, None),
            ],
            now: 2,
            detail: "b: copying the database of a  12.0 MiB of 58.0 MiB".to_owned(),
        }
    }

    #[test]
    fn the_list_says_what_is_done_what_is_going_on_and_what_comes() {
        let text = state().lines(Duration::from_secs(83), 1).join("\n");
        snapshot::check("demo-live.txt", &format!("{text}\n"));
    }

    #[test]
    fn the_list_never_changes_its_height() {
        let mut state = state();
        let before = state.lines(Duration::ZERO, 0).len();
        state.finish(Duration::from_secs(90), false);
        state.now = 3;
        state.detail.clear();
        assert_eq!(state.lines(Duration::from_secs(3_700), usize::MAX).len(), before);
        assert_eq!(clock(Duration::from_secs(3_700)), "61:40");
    }
}
