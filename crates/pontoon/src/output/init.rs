//! What `pontoon init` says at its end.

use std::path::PathBuf;

use pontoon_fleet::{FleetName, ServerName};

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
    pub pin: String,
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
    let pin = &founded.pin;
    let (head, tail) = (
        pin.get(..8).unwrap_or(pin),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::snapshot;

    #[test]
    fn what_was_found_done_and_assumed_is_said() {
        let founded = Founded {
            machine: "Debian 12, 4 cores, 7.8 GiB; MariaDB 10.11 (3 databases, 1.2 GiB) on /run/mysqld/mysqld.sock; \
                      nginx on :80; app answers on 127.0.0.1:8080"
                .into(),
            fleet: "notes".parse().unwrap(),
            server: "a".parse().unwrap(),
            pin: "wdrtqm5hsf7ldniub2bv6r5ylk7xpn53pvqyobfkvd4i3dwjlnmq".into(),
            config: "/etc/pontoon/fleet.toml".into(),
            lines: 14,
            moved: vec![("/etc/pontoon/fleet.toml".into(), "/etc/pontoon/fleet.toml.before-init-1795349071".into())],
            notes: vec!["the edge will take port 80: nginx must release it before `pontoon apply`".into()],
        };
        snapshot::check("init.txt", &render(&founded, Paint::off()));
    }
}
