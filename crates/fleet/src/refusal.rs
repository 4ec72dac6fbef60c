//! How Pontoon says no: what was refused, on which evidence, and what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Code;

/// A refusal travels as a value: from the crate that refuses, over the wire, to the operator's screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The stable code; `pontoon explain CODE` says more.
    pub code: Code,
    /// What was refused, in one sentence without a full stop.
    pub what: String,
    /// What was seen that led to it, a line each.
    pub evidence: Vec<String>,
    /// What the operator can do, the likeliest first.
    pub next: Vec<NextStep>,
}

/// Something the operator can do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// What it achieves.
    pub why: String,
    /// The command, ready to paste.
    pub command: String,
}

impl Refusal {
    /// A refusal without evidence yet.
    pub fn new(code: Code, what: impl Into<String>) -> Refusal {
        Refusal {
            code,
            what: what.into(),
            evidence: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Adds a line of evidence.
    #[must_use]
    pub fn because(mut self, evidence: impl Into<String>) -> Refusal {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds a next step: what it achieves, and the command.
    #[must_use]
    pub fn next(mut self, why: impl Into<String>, command: impl Into<String>) -> Refusal {
        self.next.push(NextStep {
            why: why.into(),
            command: command.into(),
        });
        self
    }
}

impl fmt::Display for Refusal {
    /// One line, for logs; the command line prints all of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.what)?;
        if let Some(first) = self.evidence.first() {
            write!(f, ": {first}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
