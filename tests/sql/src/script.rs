//! Scripts: text files of cases. See `scripts/README.md` for the words.

/// One case: what is done on which connection, in order.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file that it stands in.
    pub file: String,
    /// Its name.
    pub name: String,
    /// The words after its name: engines it is for (none: all), and what else the player knows.
    pub tags: Vec<String>,
    /// What is done.
    pub steps: Vec<Step>,
}

/// One line, or a line with its indented continuations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What to do.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `A> SQL`: a statement as text. See [`Recorded`].
    Query {
        /// The connection.
        who: String,
        /// The text, with `${…}` still in it.
        sql: String,
        /// What of the answer goes into the transcript.
        recorded: Recorded,
    },
    /// `A! WORD …`: a command of the protocol.
    Command {
        /// The connection.
        who: String,
        /// The command's word.
        word: String,
        /// The rest of the line.
        rest: String,
    },
    /// `expect TEXT`: the last answer contains it, on both roads.
    Expect(String),
    /// `sleep MILLISECONDS`.
    Sleep(u64),
    /// `loop COUNT` … `end`: the steps between, with `${i}` counting from 1.
    Loop(usize, Vec<Step>),
}

/// What of an answer goes into the transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// `A>`: all of it.
    All,
    /// `A*`: all but the values, which are facts of a server or of a moment.
    Shape,
    /// `A~`: nothing; it must not be an error.
    Nothing,
}

/// Reads the cases of a file.
///
/// # Errors
/// Names the line that is none.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    // The steps of the loops that are open, outermost first, with how often.
    let mut open: Vec<(usize, usize, Vec<Step>)> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, first)) = lines.next() {
        let line = index + 1;
        let bad = |why: &str| format!("{file}:{line}: {why}: {first}");
        if first.trim().is_empty() || first.starts_with('#') {
            continue;
        }
        let mut whole = first.trim_end().to_owned();
        while let Some((_, more)) = lines.next_if(|(_, next)| next.starts_with("    ")) {
            whole.push('\n');
            whole.push_str(more.trim());
        }
        if let Some(head) = whole.strip_prefix("=== ") {
            if !open.is_empty() {
                return Err(bad("the loop before it has no end"));
            }
            let (name, tags) = head.split_once(" | ").unwrap_or((head, ""));
            if cases.iter().any(|case| case.name == name.trim()) {
                return Err(bad("that name is taken"));
            }
            cases.push(Case {
                file: file.to_owned(),
                name: name.trim().to_owned(),
                tags: tags.split_whitespace().map(str::to_owned).collect(),
                steps: Vec::new(),
            });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| bad("no case has begun"))?;
        let action = match whole.split_once(' ').unwrap_or((&whole, "")) {
            ("loop", count) => {
                open.push((
                    line,
                    count.trim().parse().map_err(|_| bad("no number"))?,
                    Vec::new(),
                ));
                continue;
            }
            ("end", "") => {
                let (line, count, steps) = open.pop().ok_or_else(|| bad("no loop is open"))?;
                let step = Step {
                    line,
                    action: Action::Loop(count, steps),
                };
                open.last_mut()
                    .map_or(&mut case.steps, |outer| &mut outer.2)
                    .push(step);
                continue;
            }
            ("expect", text) => Action::Expect(text.to_owned()),
            ("sleep", count) => Action::Sleep(count.trim().parse().map_err(|_| bad("no number"))?),
            (head, rest) => on_connection(head, rest).ok_or_else(|| bad("not a step"))?,
        };
        let step = Step { line, action };
        open.last_mut()
            .map_or(&mut case.steps, |outer| &mut outer.2)
            .push(step);
    }
    match open.is_empty() {
        true => Ok(cases),
        false => Err(format!("{file}: the last loop has no end")),
    }
}

fn on_connection(head: &str, rest: &str) -> Option<Action> {
    let who = head.strip_suffix(['>', '*', '~', '!'])?;
    if who.is_empty()
        || !who
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '$' || c == '{' || c == '}')
    {
        return None;
    }
    let who = who.to_owned();
    if head.ends_with('!') {
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        return Some(Action::Command {
            who,
            word: word.to_owned(),
            rest: rest.to_owned(),
        });
    }
    let recorded = match head.as_bytes().last() {
        Some(b'>') => Recorded::All,
        Some(b'*') => Recorded::Shape,
        _ => Recorded::Nothing,
    };
    Some(Action::Query {
        who,
        sql: rest.to_owned(),
        recorded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# words\n=== first one | mariadb once\nA> SELECT 1,\n    2\nloop 2\nB! ping\nend\nexpect x y\n\
                        === second\nA~ SET @a = 1\nA* SELECT NOW()\nsleep 5\n";

    #[test]
    fn a_file_of_cases_is_read() {
        let cases = parse("f", TEXT).unwrap();
        assert_eq!((cases[0].name.as_str(), cases[0].tags.len()), ("first one", 2));
        assert_eq!(
            cases[0].steps[0].action,
            Action::Query {
                who: "A".to_owned(),
                sql: "SELECT 1,\n2".to_owned(),
                recorded: Recorded::All
            }
        );
        assert!(matches!(&cases[0].steps[1].action, Action::Loop(2, steps) if steps.len() == 1));
        assert_eq!(cases[0].steps[2].action, Action::Expect("x y".to_owned()));
        assert_eq!(cases[1].steps.len(), 3);
    }

    #[test]
    fn what_is_no_script_is_refused_with_its_line() {
        for (text, line) in [
            ("A> SELECT 1", 1),
            ("=== a\nnonsense", 2),
            ("=== a\nend", 2),
            ("=== a\nloop x", 2),
            ("=== a\nloop 2\n=== b", 3),
            ("=== a\nA> SELECT 1\n=== a", 3),
        ] {
            let error = parse("f", text).unwrap_err();
            assert!(error.starts_with(&format!("f:{line}: ")), "{error}");
        }
        assert!(parse("f", "=== a\nloop 2").is_err());
    }
}
