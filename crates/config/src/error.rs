//! A mistake in a configuration: what, where, and what was probably meant.

use std::fmt;
use std::ops::Range;

use pontoon_fleet::{Code, Refusal};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The stable code, `C001` to `C008`.
    pub code: Code,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where, in bytes: of the file, or of [`Origin::text`] when `origin` is there. Always present on errors of
    /// [`Config::parse`](crate::Config::parse).
    pub span: Option<Range<usize>>,
    /// What to write instead, or why.
    pub hint: Option<String>,
    /// The override that the mistake is in; `None` when it is in the file.
    pub origin: Option<Origin>,
}

/// Where an override came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `--set` or the environment variable's name.
    pub name: String,
    /// What was given there.
    pub text: String,
}

impl ConfigError {
    /// A mistake at a place of the file.
    pub fn new(code: Code, message: impl Into<String>, span: Range<usize>) -> ConfigError {
        ConfigError {
            code,
            message: message.into(),
            span: Some(span),
            hint: None,
            origin: None,
        }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ConfigError {
        self.hint = Some(hint.into());
        self
    }

    /// The same as a [`Refusal`], for places that have no source to show.
    pub fn to_refusal(&self) -> Refusal {
        let mut refusal = Refusal::new(self.code, self.message.clone());
        if let Some(origin) = &self.origin {
            refusal = refusal.because(format!("in {}", origin.name));
        }
        if let Some(hint) = &self.hint {
            refusal = refusal.because(hint.clone());
        }
        refusal
    }
}

impl fmt::Display for ConfigError {
    /// One line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
