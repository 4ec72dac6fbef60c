//! The only place that prints.
//!
//! Everything that an operator sees is first made into text by a pure function (a table, a refusal, a plan) and
//! then written here. Answers go to standard output, so that they can be piped; questions, progress and
//! refusals go to standard error.

pub mod addresses;
pub mod backups;
pub mod cert;
pub mod certificates;
pub mod db;
pub mod demo;
pub mod events;
pub mod init;
pub mod measure;
pub mod paint;
pub mod progress;
pub mod refusal;
pub mod signed;
pub mod spread;
pub mod sql_top;
pub mod status;
pub mod table;
pub mod when;

#[cfg(test)]
pub mod snapshot;

use std::io::{self, BufRead, IsTerminal, Write};

use pontoon_agent::api::API_VERSION;
use pontoon_fleet::Refusal;
use serde::Serialize;

use crate::args::ColorWhen;
use paint::Paint;

/// The operator's screen.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Colours of standard output.
    pub out: Paint,
    /// Colours of standard error.
    pub err: Paint,
    /// Whether standard output is a terminal.
    pub out_is_terminal: bool,
    /// Whether standard error is a terminal: progress bars go there.
    pub err_is_terminal: bool,
}

impl Screen {
    /// As `--color` and the environment want it (<https://no-color.org>: set and not empty).
    pub fn new(when: ColorWhen) -> Screen {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let (out_is_terminal, err_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let paint = |is_terminal: bool| match when {
            ColorWhen::Always => Paint::on(),
            ColorWhen::Never => Paint::off(),
            ColorWhen::Auto if is_terminal && !no_color && !dumb => Paint::on(),
            ColorWhen::Auto => Paint::off(),
        };
        Screen {
            out: paint(out_is_terminal),
            err: paint(err_is_terminal),
            out_is_terminal,
            err_is_terminal,
        }
    }

    /// Writes an answer. A reader that went away (`| head`) is not an error.
    pub fn answer(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        ignore_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    /// Writes one JSON object on one line, with the version of the messages as its first field.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.answer(&format!(
            "{}\n",
            serde_json::to_string(&Versioned {
                version: API_VERSION,
                value
            })?
        ))
    }

    /// Writes a remark beside the answer.
    pub fn remark(&self, text: &str) {
        // When even standard error is gone there is nobody left to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Writes a refusal.
    pub fn refusal(&self, refusal: &Refusal) {
        self.remark(&refusal::render(refusal, self.err));
    }

    /// Replaces what the terminal shows by `text`.
    pub fn redraw(&self, text: &str) -> io::Result<()> {
        // Home, each line erased to its end, then everything below: no flicker, no scrollback lost.
        let text = text.replace('\n', "\x1b[K\n");
        self.answer(&format!("\x1b[H{text}\x1b[J"))
    }

    /// Asks a question that only `y` or `yes` answers with yes. Without a terminal the answer is no.
    pub fn ask(&self, question: &str) -> bool {
        if !io::stdin().is_terminal() || !self.err_is_terminal {
            return false;
        }
        self.remark(&format!("{question} [y/N] "));
        let mut answer = String::new();
        match io::stdin().lock().read_line(&mut answer) {
            Ok(_) => matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
            Err(_) => false,
        }
    }

    /// Whether a question can be asked at all.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && self.err_is_terminal
    }

    /// Columns and lines of the terminal; without one, as wide as needed.
    pub fn size(&self) -> (usize, Option<usize>) {
        if !self.out_is_terminal {
            return (usize::MAX, None);
        }
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 => (
                size.ws_col.into(),
                (size.ws_row > 0).then_some(size.ws_row.into()),
            ),
            _ => (80, None),
        }
    }
}

/// What every `--json` output begins with.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    value: &'a T,
}

fn ignore_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
