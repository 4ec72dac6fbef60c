//! How a refusal looks: the code, what was refused, the evidence, the commands that come next.

use pontoon_fleet::Refusal;

use super::paint::{Paint, harmless, width};

/// The lines of a refusal, in the look of the manual:
///
/// ```text
/// error[F002]: refusing to promote b
///   │ a  PRIMARY  answering (2 ms)
///   = a planned change loses nothing:  pontoon db switchover b
///   more: pontoon explain F002
/// ```
pub fn render(refusal: &Refusal, paint: Paint) -> String {
    let mut text = format!(
        "{}: {}\n",
        paint.bad(&format!("error[{}]", refusal.code)),
        paint.strong(&harmless(&refusal.what))
    );
    for evidence in &refusal.evidence {
        for line in evidence.lines() {
            text.push_str(&format!("  {} {}\n", paint.faint("│"), harmless(line)));
        }
    }
    let whys: Vec<String> = refusal
        .next
        .iter()
        .map(|step| format!("{}:", harmless(&step.why)))
        .collect();
    let column = whys.iter().map(|why| width(why)).max().unwrap_or(0);
    for (why, step) in whys.iter().zip(&refusal.next) {
        let gap = " ".repeat(column - width(why) + 1);
        text.push_str(&format!(
            "  {} {why}{gap}{}\n",
            paint.faint("="),
            paint.strong(&harmless(&step.command))
        ));
    }
    text.push_str(&format!(
        "  {}\n",
        paint.faint(&format!("more: pontoon explain {}", refusal.code))
    ));
    text
}

#[cfg(test)]
mod tests {
    use pontoon_fleet::Code;

    use super::*;
    use crate::output::snapshot;

    #[test]
    fn a_refusal_shows_the_evidence_and_what_comes_next() {
        let refusal = Refusal::new(
            Code::F002,
            "refusing to promote b: it is 3 412 transactions behind a",
        )
        .because(
            "a  PRIMARY  10.11.19  gtid 0-1-88213   answering (2 ms)\nb  replica  lag 41 s  gtid 0-1-84801",
        )
        .next("a planned change loses nothing", "pontoon db switchover b")
        .next(
            "to accept losing 3 412 transactions",
            "pontoon db failover b --accept-loss 3412",
        );
        snapshot::check("refusal.txt", &render(&refusal, Paint::off()));
        assert!(render(&refusal, Paint::on()).starts_with("\x1b[31merror[F002]\x1b[0m: "));
    }

    #[test]
    fn a_refusal_from_a_liar_cannot_paint_the_screen() {
        let refusal = Refusal::new(Code::N005, "\x1b]0;owned\x07")
            .because("\x1b[2J")
            .next("x\r", "rm\x1b[A");
        assert!(
            !render(&refusal, Paint::off())
                .chars()
                .any(|c| c.is_control() && c != '\n')
        );
    }
}
