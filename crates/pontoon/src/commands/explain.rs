//! `pontoon explain`

use pontoon_fleet::{Category, Code};
use serde::Serialize;

use super::Context;
use crate::args::Explain;
use crate::output::paint::{Paint, wrap};

/// Explains one code, or lists all.
pub fn explain(context: &Context, args: &Explain) -> anyhow::Result<u8> {
    let screen = context.screen;
    match (args.code, args.json) {
        (Some(code), true) => screen.json(&Explained::of(code))?,
        (Some(code), false) => screen.answer(&in_full(code, screen.out))?,
        (None, true) => {
            let codes: Vec<Explained> = Code::ALL.iter().map(|code| Explained::of(*code)).collect();
            screen.json(&serde_json::json!({ "codes": codes }))?;
        }
        (None, false) => {
            let list: String = Code::ALL
                .iter()
                .map(|code| format!("{}  {}\n", screen.out.strong(code.as_str()), code.title()))
                .collect();
            screen.answer(&list)?;
        }
    }
    Ok(0)
}

#[derive(Serialize)]
struct Explained {
    code: Code,
    title: &'static str,
    explanation: &'static str,
    exit_status: u8,
}

impl Explained {
    fn of(code: Code) -> Explained {
        Explained {
            code,
            title: code.title(),
            explanation: code.explanation(),
            exit_status: code.category().exit_status(),
        }
    }
}

fn in_full(code: Code, paint: Paint) -> String {
    let kind = match code.category() {
        Category::Failed => "failed",
        Category::Usage => "wrong usage or configuration",
        Category::Safety => "refused for safety",
        Category::Unreachable => "something does not answer",
        Category::Changed => "the fleet changed",
    };
    let mut text = format!("{}: {}\n\n", paint.strong(code.as_str()), code.title());
    for line in wrap(code.explanation(), 90) {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str(&format!(
        "\n{}\n",
        paint.faint(&format!("exit status {}: {kind}", code.category().exit_status()))
    ));
    text
}
