//! What a long command is doing: a bar on a terminal, plain lines in a log, JSON lines for machines.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pontoon_agent::api::Progress;
use pontoon_fleet::ServerName;
use pontoon_fleet::units::human_bytes;
use pontoon_rt::clock::{Clock, SystemClock};

use super::paint::{Paint, harmless};
use super::{Screen, when};

/// Shows the stream of one command.
pub struct Reporter {
    screen: Screen,
    clock: SystemClock,
    lines: Lines,
    look: Look,
}

enum Look {
    Json,
    Plain,
    Bar(Option<ProgressBar>),
}

impl Reporter {
    /// For this screen; `json` for machines.
    pub fn new(screen: Screen, json: bool) -> Reporter {
        let look = match (json, screen.err_is_terminal) {
            (true, _) => Look::Json,
            (false, true) => Look::Bar(None),
            (false, false) => Look::Plain,
        };
        let paint = if matches!(look, Look::Json) {
            Paint::off()
        } else {
            screen.err
        };
        Reporter {
            screen,
            clock: SystemClock,
            lines: Lines::new(paint),
            look,
        }
    }

    /// Shows one line of the stream.
    pub fn show(&mut self, progress: &Progress) -> io::Result<()> {
        let now = self.clock.now();
        match &mut self.look {
            // The refusal itself is printed by whoever ends the command, as for every other command.
            Look::Json if matches!(progress, Progress::Refused { .. }) => {}
            Look::Json => return self.screen.json(progress),
            Look::Plain => {
                if let Some(line) = self.lines.take(progress, now) {
                    self.screen.remark(&line);
                }
            }
            Look::Bar(bar) => {
                let line = self.lines.take(progress, now);
                match progress {
                    Progress::Step { .. } => {
                        // The step is shown by the bar while it lasts; `Done` leaves the line that stays.
                        bar.get_or_insert_with(spinner)
                            .set_message(self.lines.step_text());
                    }
                    Progress::Bytes { .. } | Progress::Rows { .. } | Progress::Waiting { .. } => {
                        bar.get_or_insert_with(spinner).set_message(self.lines.bar_text());
                    }
                    Progress::Note { .. } | Progress::Differs(_) | Progress::Done { .. } => {
                        let line = line.unwrap_or_default();
                        match bar {
                            Some(bar) => bar.suspend(|| self.screen.remark(&line)),
                            None => self.screen.remark(&line),
                        }
                        if let (Progress::Done { .. }, Some(bar)) = (progress, &bar) {
                            bar.set_message(String::new());
                        }
                    }
                    Progress::Finished { .. } | Progress::Refused { .. } => {
                        clear(bar);
                        self.screen.remark(&line.unwrap_or_default());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the bar off the screen, for what is printed after the stream broke.
    pub fn clear(&mut self) {
        if let Look::Bar(bar) = &mut self.look {
            clear(bar);
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn clear(bar: &mut Option<ProgressBar>) {
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
    }
}

/// The stream as lines that stay. Pure: time comes from outside.
struct Lines {
    paint: Paint,
    step: String,
    meter: Meter,
    last_line: Duration,
}

impl Lines {
    fn new(paint: Paint) -> Lines {
        Lines {
            paint,
            step: String::new(),
            meter: Meter::default(),
            last_line: Duration::ZERO,
        }
    }

    fn take(&mut self, progress: &Progress, now: Duration) -> Option<String> {
        let paint = self.paint;
        match progress {
            Progress::Step { server, text } => {
                self.step = named(server, text);
                self.meter = Meter::default();
                self.last_line = now;
                Some(format!("  {} {}\n", paint.faint("…"), self.step))
            }
            Progress::Bytes { done, total } => {
                self.meter.see(*done, *total, now);
                self.line_in_time(now)
            }
            Progress::Rows { done, total, at } => {
                self.meter.at = Some(harmless(at));
                self.meter.see(*done, Some(*total), now);
                self.line_in_time(now)
            }
            Progress::Waiting { server } => {
                self.meter.at = Some(format!("waiting for {server}, which is behind"));
                self.line_in_time(now)
            }
            Progress::Differs(what) => Some(super::db::differing(what, paint)),
            Progress::Done { server, text } => {
                Some(format!("  {} {}\n", paint.good("✓"), named(server, text)))
            }
            Progress::Note { text } => Some(format!("  {} {}\n", paint.warn("!"), harmless(text))),
            Progress::Finished { text } => Some(format!("{}\n", paint.strong(&harmless(text)))),
            // The refusal itself is printed by whoever ends the command.
            Progress::Refused { .. } => None,
        }
    }

    /// Now and then a line, in a log.
    fn line_in_time(&mut self, now: Duration) -> Option<String> {
        if now.saturating_sub(self.last_line) < BETWEEN_LINES {
            return None;
        }
        self.last_line = now;
        Some(format!(
            "  {} {}  {}\n",
            self.paint.faint("…"),
            self.step,
            self.meter.text()
        ))
    }

    fn step_text(&self) -> String {
        self.step.clone()
    }

    fn bar_text(&self) -> String {
        match self.meter.share() {
            Some(share) => {
                let full = (share * BAR_WIDTH as f64) as usize;
                let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR_WIDTH - full));
                format!("{}  {}  {}", self.step, self.paint.good(&bar), self.meter.text())
            }
            None => format!("{}  {}", self.step, self.meter.text()),
        }
    }
}

fn named(server: &ServerName, text: &str) -> String {
    format!("{server}  {}", harmless(text))
}

/// How fast bytes come, over the last few seconds, and how long it will take.
#[derive(Default)]
struct Meter {
    seen: VecDeque<(Duration, u64)>,
    done: u64,
    total: Option<u64>,
    /// Where it is, when it counts rows; it counts bytes otherwise.
    at: Option<String>,
}

impl Meter {
    fn see(&mut self, done: u64, total: Option<u64>, now: Duration) {
        if done < self.done {
            self.seen.clear();
        }
        (self.done, self.total) = (done, total.filter(|total| *total > 0));
        self.seen.push_back((now, done));
        while self.seen.len() > 2
            && self
                .seen
                .front()
                .is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Bytes per second.
    fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.seen.front()?, self.seen.back()?);
        let seconds = to.saturating_sub(*from).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*first) as f64 / seconds)
    }

    /// From 0 to 1. A copy under load grows beyond what was estimated: then it stays at 1.
    fn share(&self) -> Option<f64> {
        self.total
            .map(|total| (self.done as f64 / total as f64).clamp(0.0, 1.0))
    }

    /// `742.0 MiB / 1.2 GiB  88.0 MiB/s  ETA 6 s`
    fn text(&self) -> String {
        let amount = |value: u64| match self.at {
            Some(_) => format!("{value} rows"),
            None => human_bytes(value),
        };
        let mut text = amount(self.done);
        if let Some(total) = self.total {
            text.push_str(&format!(" / {}", amount(total)));
        }
        if let Some(at) = &self.at {
            text.push_str(&format!("  {at}"));
        }
        if let Some(rate) = self.rate() {
            text.push_str(&format!("  {}/s", amount(rate as u64)));
            if let Some(left) = self
                .total
                .and_then(|total| total.checked_sub(self.done))
                .filter(|_| rate >= 1.0)
            {
                let seconds = (left as f64 / rate).ceil().min(MOST_ETA_SECONDS);
                text.push_str(&format!(
                    "  ETA {}",
                    when::span(Duration::from_secs(seconds as u64))
                ));
            }
        }
        text
    }
}

const BETWEEN_LINES: Duration = Duration::from_secs(5);
const RATE_WINDOW: Duration = Duration::from_secs(5);
const BAR_WIDTH: usize = 20;
const MOST_ETA_SECONDS: f64 = 30.0 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::snapshot;

    fn stream() -> Vec<(u64, Progress)> {
        let server: ServerName = "b".parse().unwrap();
        let bytes = |done: u64| Progress::Bytes {
            done: done << 20,
            total: Some(1229 << 20),
        };
        vec![
            (
                0,
                Progress::Done {
                    server: server.clone(),
                    text: "fleet identity verified (CA pin matches)".into(),
                },
            ),
            (
                0,
                Progress::Step {
                    server: server.clone(),
                    text: "copying database from a".into(),
                },
            ),
            (1, bytes(88)),
            (2, bytes(176)),
            (6, bytes(528)),
            (8, bytes(704)),
            (12, bytes(1056)),
            (14, bytes(1300)),
            (18, bytes(1310)),
            (
                19,
                Progress::Note {
                    text: "the copy is larger than estimated\x1b[2J".into(),
                },
            ),
            (
                20,
                Progress::Done {
                    server,
                    text: "replica of a, lag 0.0 s".into(),
                },
            ),
            (
                20,
                Progress::Finished {
                    text: "b is part of fleet notes".into(),
                },
            ),
        ]
    }

    #[test]
    fn in_a_log_a_copy_is_a_line_each_five_seconds() {
        let mut lines = Lines::new(Paint::off());
        let text: String = stream()
            .iter()
            .filter_map(|(at, progress)| lines.take(progress, Duration::from_secs(*at)))
            .collect();
        snapshot::check("join-plain.txt", &text);
    }

    #[test]
    fn the_bar_never_runs_over_and_a_frozen_copy_has_no_eta() {
        let mut lines = Lines::new(Paint::off());
        for (at, progress) in stream() {
            let _ = lines.take(&progress, Duration::from_secs(at));
            assert!(
                lines
                    .bar_text()
                    .chars()
                    .filter(|c| matches!(c, '█' | '░'))
                    .count()
                    <= BAR_WIDTH
            );
        }
        let mut meter = Meter::default();
        for second in 0..60 {
            meter.see(1 << 20, Some(1 << 30), Duration::from_secs(second));
        }
        assert_eq!(meter.text(), "1.0 MiB / 1.0 GiB  0 B/s");
        meter.see(u64::MAX, Some(1), Duration::from_secs(61));
        meter.see(0, Some(0), Duration::from_secs(61));
        assert_eq!(meter.share(), None);
    }
}
