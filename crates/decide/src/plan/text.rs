//! A plan as `pontoon plan` prints it.

use super::{Action, Plan, Step};

pub(super) fn render(plan: &Plan) -> String {
    let mut out = String::new();
    let to = if plan.is_empty() {
        String::new()
    } else {
        format!(" → {}", plan.base.next())
    };
    let head = format!("fleet {}  revision {}{to}", plan.fleet, plan.base);
    let valid = format!("plan {} (valid while revision = {})", plan.id, plan.base);
    out.push_str(&format!("{head:<60}  {valid}\n"));
    let width = |f: fn(&Step) -> usize| plan.steps.iter().map(f).max().unwrap_or(0);
    let server = width(|step| step.server.as_str().chars().count());
    let subject = width(|step| step.subject.chars().count()).max(10);
    let text = width(|step| step.text.chars().count()).min(60);
    for step in &plan.steps {
        let impact = step
            .impact
            .as_ref()
            .map(|impact| format!("  {}, ~{} s", impact.what, impact.expected.as_secs()));
        let (name, sign, about) = (&step.server, step.sign.as_char(), &step.subject);
        let line = format!(
            "{name:<server$}  {sign} {about:<subject$}  {:<text$}{}",
            step.text,
            impact.unwrap_or_default()
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for line in interruptions(plan) {
        out.push_str(&format!("! {line}\n"));
    }
    for note in &plan.notes {
        out.push_str(&format!("· {note}\n"));
    }
    for blocker in &plan.blockers {
        out.push_str(&format!("✗ [{}] {}\n", blocker.code, blocker.what));
        for evidence in &blocker.evidence {
            out.push_str(&format!("    {evidence}\n"));
        }
    }
    out.push_str(&ending(plan));
    out.push('\n');
    out
}

/// What an operator must know before saying yes.
fn interruptions(plan: &Plan) -> Vec<String> {
    let steps: Vec<&Step> = plan.steps.iter().filter(|step| step.impact.is_some()).collect();
    if steps.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = steps
        .iter()
        .map(|step| format!("{} restart on {}", step.subject, step.server))
        .collect();
    let verb = if steps.len() == 1 {
        "step interrupts"
    } else {
        "steps interrupt"
    };
    let proxy_goes = steps.iter().any(|step| {
        plan.of(&step.server)
            .any(|step| step.action == Action::SqlProxyStop)
    });
    let new_ones = if proxy_goes {
        "new ones are refused until it is back"
    } else {
        "new ones wait in the SQL proxy"
    };
    vec![format!(
        "{} {verb} service ({}): open database connections are closed once, {new_ones}",
        steps.len(),
        names.join(", "),
    )]
}

fn ending(plan: &Plan) -> String {
    if !plan.blockers.is_empty() {
        let things = if plan.blockers.len() == 1 {
            "thing stands"
        } else {
            "things stand"
        };
        return format!(
            "{} {things} in the way; nothing can be applied yet.",
            plan.blockers.len()
        );
    }
    if plan.steps.is_empty() {
        return "Nothing to change.".to_owned();
    }
    format!(
        "{} to change. Apply exactly this:  pontoon apply {}",
        plan.steps.len(),
        plan.id
    )
}
