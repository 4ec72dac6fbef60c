//! Log lines on stderr, one a line, for the journal or a file.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, Format, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("{other:?} is not a log format: use text or json")),
        }
    }
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `PONTOON_LOG` is not a filter.
    #[error("PONTOON_LOG={value:?} is not a log filter: {why}")]
    Filter {
        /// What it holds.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Logging has begun already.
    #[error("logging was set up twice")]
    Twice,
}

/// Begins to log on stderr as `process_name`. `PONTOON_LOG` says what, as in `info,pontoon_edge=debug`; `info` when it
/// is not set. Call it once, in `main`.
///
/// # Errors
/// [`InitError`].
pub fn init(process_name: &str, log_format: LogFormat) -> Result<(), InitError> {
    let filter = filter(std::env::var("PONTOON_LOG").ok())?;
    // systemd's journal has the time already (systemd.exec(5), JOURNAL_STREAM).
    let with_time = std::env::var_os("JOURNAL_STREAM").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A full disk behind stderr must not make each lost line another line, or a panic.
        .log_internal_errors(false);
    let started = match log_format {
        LogFormat::Text => {
            let prefix = Prefix {
                process: process_name.to_owned(),
                with_time,
            };
            builder
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .with_timer(prefix)
                .try_init()
        }
        LogFormat::Json => {
            let line = JsonLine {
                process: process_name.to_owned(),
                inner: json_format(),
            };
            builder.json().event_format(line).try_init()
        }
    };
    started.map_err(|_| InitError::Twice)
}

const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

fn filter(value: Option<String>) -> Result<EnvFilter, InitError> {
    let value = value
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| "info".to_owned());
    EnvFilter::try_new(&value).map_err(|error| InitError::Filter {
        value,
        why: error.to_string(),
    })
}

/// What stands before each line of text: the time, unless the journal has it, and the process.
struct Prefix {
    process: String,
    with_time: bool,
}

impl FormatTime for Prefix {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        if self.with_time {
            UtcTime.format_time(writer)?;
            writer.write_char(' ')?;
        }
        writer.write_str(&self.process)
    }
}

struct UtcTime;

impl FormatTime for UtcTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&OffsetDateTime::now_utc().format(TIME).map_err(|_| fmt::Error)?)
    }
}

fn json_format() -> Format<format::Json, UtcTime> {
    format::format().json().flatten_event(true).with_timer(UtcTime)
}

/// The library's JSON with the process as the first field.
struct JsonLine {
    process: String,
    inner: Format<format::Json, UtcTime>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => {
                let process = serde_json::to_string(&self.process).map_err(|_| fmt::Error)?;
                write!(writer, "{{\"process\":{process},{rest}")
            }
            None => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_is_json_and_names_its_process() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let line = JsonLine {
            process: "a \"b\"".to_owned(),
            inner: json_format(),
        };
        let subscriber = tracing_subscriber::fmt()
            .json()
            .event_format(line)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(port = 7400, "listens\n{{\"x\":1}}"));
        let bytes = buffer.0.lock().unwrap().clone();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (value["process"].as_str(), value["port"].as_u64()),
            (Some("a \"b\""), Some(7400))
        );
    }

    #[test]
    fn a_text_line_has_time_process_and_no_control_characters_from_outside() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let prefix = Prefix {
            process: "edge".to_owned(),
            with_time: true,
        };
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_target(false)
            .with_timer(prefix)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(peer = "x\ny", "refused"));
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("Z edge  WARN refused peer=\"x\\ny\""), "{text}");
    }

    #[test]
    fn filters_and_formats_are_checked() {
        assert!(filter(None).is_ok() && filter(Some(String::new())).is_ok());
        assert!(filter(Some("info,pontoon_edge=debug".to_owned())).is_ok());
        assert!(matches!(
            filter(Some("a=b=c".to_owned())),
            Err(InitError::Filter { .. })
        ));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
