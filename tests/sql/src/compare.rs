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
