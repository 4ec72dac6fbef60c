//! `pontoon` on a terminal, with what it showed and when.

use std::process::Stdio;
use std::time::{Duration, Instant};

use pontoon_testkit::{LabError, Server, find_program};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::fleet::pontoon;

/// What a command showed on its terminal.
pub struct Screen {
    /// Its exit status.
    pub status: i32,
    /// How long it ran.
    pub seconds: f64,
    shown: Vec<(Duration, String)>,
}

/// A step of the join, as the screen told it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Its words on the screen.
    pub name: &'static str,
    /// How long it lasted.
    pub seconds: f64,
}

/// What was seen of the progress bar.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bar {
    /// Frames with a bar in them.
    pub frames: usize,
    /// Different fill levels, of 21.
    pub levels: usize,
    /// The last frame that was neither empty nor full.
    pub example: String,
}

/// Runs `pontoon` with these arguments under a pseudo-terminal of `server` (script(1)), for 20 minutes at most.
///
/// # Errors
/// When it cannot be run, or does not end.
pub async fn on_a_terminal(server: &Server, arguments: &[String]) -> Result<Screen, LabError> {
    if find_program("script").is_none() {
        return Err(
            pontoon_testkit::Skip("script(1) is not installed (Debian package bsdutils)".to_owned()).into(),
        );
    }
    let line = format!(
        "stty cols 110 rows 40; exec {} {}",
        pontoon()?.display(),
        arguments.join(" ")
    );
    let failed = |what: &'static str| LabError::io(what);
    let mut child = server
        .command("script")?
        .args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start script"))?;
    let begun = Instant::now();
    let mut shown: Vec<(Duration, String)> = Vec::new();
    let mut output = child
        .stdout
        .take()
        .ok_or_else(|| LabError::Unknown("script has no output".to_owned()))?;
    let reading = async {
        let mut bytes = vec![0; 65_536];
        loop {
            let count = output.read(&mut bytes).await?;
            if count == 0 {
                return child.wait().await;
            }
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
            shown.push((begun.elapsed(), text));
        }
    };
    let limit = Duration::from_secs(1200);
    let status = tokio::time::timeout(limit, reading)
        .await
        .map_err(|_| LabError::Timeout {
            what: line.clone(),
            after: limit,
        })?
        .map_err(failed("the terminal"))?;
    Ok(Screen {
        status: status.code().unwrap_or(-1),
        seconds: begun.elapsed().as_secs_f64(),
        shown,
    })
}

impl Screen {
    /// What stayed on the screen: the text without what was drawn over.
    pub fn text(&self) -> String {
        let all = self.all();
        let lines = all.split('\n').map(|line| {
            // A frame of the bar is drawn over the one before: what follows the last return is what stays.
            let line = plain(line);
            let stays = line
                .trim_end_matches('\r')
                .rsplit('\r')
                .next()
                .unwrap_or_default();
            stays.trim_end().to_owned()
        });
        lines
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The steps that were shown, in their order.
    pub fn steps(&self) -> Vec<Step> {
        const WORDS: [&str; 7] = [
            "certificate issued",
            "copying database",
            "preparing the copy",
            "putting the copy in place",
            "catching up",
            "replica, lag",
            "becoming a member",
        ];
        let first = |word: &str| {
            let found = self.shown.iter().find(|(_, text)| plain(text).contains(word));
            found.map(|(at, _)| at.as_secs_f64())
        };
        let seen: Vec<(&'static str, f64)> = WORDS
            .into_iter()
            .filter_map(|word| Some((word, first(word)?)))
            .collect();
        let ends = seen.iter().skip(1).map(|(_, at)| *at).chain([self.seconds]);
        seen.iter()
            .zip(ends)
            .map(|((name, at), end)| Step {
                name,
                seconds: end - at,
            })
            .collect()
    }

    /// The progress bar.
    pub fn bar(&self) -> Bar {
        let mut bar = Bar::default();
        let mut levels = std::collections::BTreeSet::new();
        for frame in self.all().split(['\r', '\n']) {
            let frame = plain(frame);
            if !frame.contains(['█', '░']) {
                continue;
            }
            bar.frames += 1;
            let full = frame.matches('█').count();
            levels.insert(full);
            if full > 0 && frame.contains('░') {
                bar.example = frame.trim().to_owned();
            }
        }
        bar.levels = levels.len();
        bar
    }

    fn all(&self) -> String {
        self.shown.iter().map(|(_, text)| text.as_str()).collect()
    }
}

/// Without the terminal's control sequences (ECMA-48: ESC, `[`, parameters, a letter).
fn plain(text: &str) -> String {
    let mut found = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            found.push(c);
        } else if chars.next() == Some('[') {
            while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drawn_over_is_gone_and_the_bar_is_remembered() {
        let at = |ms: u64, text: &str| (Duration::from_millis(ms), text.to_owned());
        let screen = Screen {
            status: 0,
            seconds: 3.0,
            shown: vec![
                at(0, "  \x1b[32m✓\x1b[0m b  certificate issued\r\n"),
                at(500, "\r\x1b[2K  b  copying database from a  ██░░  1.0 MiB"),
                at(1500, "\r\x1b[2K  b  copying database from a  ███░  1.5 MiB"),
                at(2000, "\r\x1b[2K  ✓ b  replica, lag 0.0 s\r\n"),
            ],
        };
        assert_eq!(
            screen.text(),
            "  ✓ b  certificate issued\n  ✓ b  replica, lag 0.0 s"
        );
        let bar = screen.bar();
        assert_eq!((bar.frames, bar.levels), (2, 2));
        assert!(bar.example.ends_with("███░  1.5 MiB"));
        let steps: Vec<(&str, f64)> = screen
            .steps()
            .iter()
            .map(|step| (step.name, step.seconds))
            .collect();
        assert_eq!(
            steps,
            [
                ("certificate issued", 0.5),
                ("copying database", 1.5),
                ("replica, lag", 1.0)
            ]
        );
    }
}
