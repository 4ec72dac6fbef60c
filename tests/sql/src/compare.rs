//! Two transcripts, and where they differ.

/// What one step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The step's line in its file.
    pub line: usize,
    /// What was done, as in the script.
    pub step: String,
    /// What a client sees.
    pub answer: Vec<String>,
}

/// Steps and lines that a difference is shown with.
const SHOWN: usize = 3;

/// A difference that is inherent to sessions which share connections and read from replicas.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The case.
    pub case: &'static str,
    /// How the step begins, without the connection's name.
    pub step: &'static str,
    /// Why it cannot be otherwise.
    pub reason: &'static str,
}

/// Makes the steps of `through` that are known to differ, and what is expected of them, equal to the direct ones.
/// Returns the reasons that were needed.
pub fn forgive(known: &[Known], case: &str, direct: &[Entry], through: &mut [Entry]) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    let mut before = false;
    for (left, right) in direct.iter().zip(through) {
        let said = left.step.split_once(' ').map_or("", |(_, said)| said);
        let found = known
            .iter()
            .find(|known| known.case == case && said.starts_with(known.step));
        let expects = left.step.starts_with("expect ") && before;
        before = found.is_some();
        if (found.is_some() || expects) && left.answer != right.answer {
            right.answer.clone_from(&left.answer);
            reasons.extend(found.map(|known| known.reason));
        }
    }
    reasons
}

/// Where two transcripts differ, for people; `None` when they are equal.
pub fn difference(direct: &[Entry], through: &[Entry]) -> Option<String> {
    let differ = (0..direct.len().max(through.len())).filter(|at| direct.get(*at) != through.get(*at));
    let said: Vec<String> = differ
        .take(SHOWN)
        .map(|at| match (direct.get(at), through.get(at)) {
            (Some(left), Some(right)) => one(left, right),
            _ => format!(
                "{} steps directly, {} through the proxy",
                direct.len(),
                through.len()
            ),
        })
        .collect();
    (!said.is_empty()).then(|| said.join("\n    "))
}

fn one(left: &Entry, right: &Entry) -> String {
    let mut said = format!("line {}: {}", left.line, left.step);
    let mut shown = 0;
    for index in 0..left.answer.len().max(right.answer.len()) {
        let (one, other) = (left.answer.get(index), right.answer.get(index));
        if one != other && shown < SHOWN {
            shown += 1;
            said.push_str(&format!(
                "\n      direct:  {}\n      through: {}",
                one.map_or("(nothing)", String::as_str),
                other.map_or("(nothing)", String::as_str)
            ));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_forgiven_and_nothing_else() {
        let entry = |step: &str, answer: &str| Entry {
            line: 3,
            step: step.to_owned(),
            answer: vec![answer.to_owned()],
        };
        let known = [Known {
            case: "own id",
            step: "SELECT CONNECTION_ID()",
            reason: "because",
        }];
        let direct = [
            entry("A> SELECT CONNECTION_ID() = 7", "1"),
            entry("expect 1", "met"),
            entry("A> SELECT 2", "2"),
        ];
        let mut through = direct.clone();
        for entry in &mut through {
            entry.answer = vec!["0".to_owned()];
        }
        assert_eq!(forgive(&known, "another", &direct, &mut through), [""; 0]);
        assert_eq!(forgive(&known, "own id", &direct, &mut through), ["because"]);
        assert_eq!((&through[0], &through[1]), (&direct[0], &direct[1]));
        assert_ne!(through[2], direct[2]);
    }

    #[test]
    fn the_differences_are_shown() {
        let entry = |answer: &str| Entry {
            line: 3,
            step: "A> SELECT 1".to_owned(),
            answer: vec!["1 columns".to_owned(), answer.to_owned()],
        };
        assert_eq!(difference(&[entry("x")], &[entry("x")]), None);
        let said = difference(&[entry("x"), entry("y")], &[entry("x"), entry("z")]).unwrap();
        assert!(
            said.contains("direct:  y") && said.contains("through: z"),
            "{said}"
        );
        assert!(difference(&[entry("x")], &[]).is_some());
    }
}
