//! What `pontoon init` says at its end.

use std::path::PathBuf;

use pontoon_fleet::{FleetName, ServerName};
use pontoon_pki::Pin;

use super::paint::{Paint, harmless, wrap};

/// A fleet that was founded.
#[derive(Debug)]
pub struct Founded {
    /// The machine in a line.
    pub machine: String,
    /// The fleet.
    pub fleet: FleetName,
    /// This server.
    pub server: ServerName,
    /// Its certificate authority.
    pub pin: Pin,
    /// Where the configuration is.
    pub config: PathBuf,
    /// Lines in it that are not empty or comments.
    pub lines: usize,
    /// What was renamed.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// As text.
pub fn render(founded: &Founded, paint: Paint) -> String {
    let good = paint.good("✓");
    let mut text = format!("  {good} {}\n", harmless(&founded.machine));
    for (from, to) in &founded.moved {
        text.push_str(&format!(
            "  {good} renamed {} to {}\n",
            from.display(),
            to.display()
        ));
    }
    let pin = founded.pin.to_string();
    let (head, tail) = (
        pin.get(..8).unwrap_or(&pin),
        pin.get(pin.len().saturating_sub(4)..).unwrap_or_default(),
    );
    text.push_str(&format!(
        "  {good} created fleet \"{}\" with this server as \"{}\", certificate authority {head}…{tail}\n",
        founded.fleet, founded.server
    ));
    text.push_str(&format!(
        "  {good} wrote {} ({} lines). Nothing else has been changed on this machine yet.\n",
        founded.config.display(),
        founded.lines
    ));
    for note in &founded.notes {
        for (index, line) in wrap(&harmless(note), NOTE_WIDTH).iter().enumerate() {
            let mark = if index == 0 {
                paint.warn("!")
            } else {
                " ".to_owned()
            };
            text.push_str(&format!("  {mark} {line}\n"));
        }
    }
    text.push_str(&format!(
        "  Next:  {}       see what would change\n",
        paint.strong("pontoon plan")
    ));
    text.push_str(&format!(
        "         {}      change it\n",
        paint.strong("pontoon apply")
    ));
    text.push_str(&format!(
        "         {}  one-time join token for the next server\n",
        paint.strong("pontoon token new")
    ));
    text
}

const NOTE_WIDTH: usize = 100;
