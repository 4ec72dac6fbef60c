//! Plays a case on a road and writes the transcript.

mod commands;

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_mysql_wire::{Capabilities, Command};

use crate::client::{Client, Fault, Login, Road};
use crate::compare::Entry;
use crate::render::{self, Answer, Reading, show};
use crate::script::{Action, Case, Recorded, Step};
use crate::text::{expand, mask};

/// The two doors of a server, or of a proxy.
#[derive(Clone, Debug)]
pub struct Stage {
    /// By TCP.
    pub tcp: Road,
    /// By the Unix socket.
    pub unix: Road,
}

/// What kind of client plays.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name in reports.
    pub name: &'static str,
    /// What it can do beyond what every client can.
    pub capabilities: Capabilities,
    /// Whether it comes by the Unix socket.
    pub unix: bool,
}

/// What every client of today can do.
pub const EVERY: Capabilities = Capabilities(
    Capabilities::CLIENT_MYSQL.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_STATEMENTS.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PS_MULTI_RESULTS.0
        | Capabilities::LOCAL_FILES.0
        | Capabilities::PLUGIN_AUTH.0,
);

/// The kinds of client, by what shapes the packets that they get.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "new",
        capabilities: Capabilities(
            Capabilities::DEPRECATE_EOF.0 | Capabilities::SESSION_TRACK.0 | Capabilities::CONNECT_ATTRS.0,
        ),
        unix: false,
    },
    Variant {
        name: "old",
        capabilities: Capabilities(0),
        unix: true,
    },
    Variant {
        name: "tracking with EOF",
        capabilities: Capabilities(Capabilities::SESSION_TRACK.0 | Capabilities::CONNECT_ATTRS.0),
        unix: true,
    },
    Variant {
        name: "no tracking, no EOF",
        capabilities: Capabilities(Capabilities::DEPRECATE_EOF.0),
        unix: false,
    },
];

/// A connection of a case.
struct Conn {
    client: Client,
    statements: BTreeMap<String, Statement>,
    /// What it gives when the server asks for a file.
    file: Option<Vec<u8>>,
}

struct Statement {
    id: u32,
    parameters: usize,
    columns: Vec<(u8, bool)>,
}

struct Player<'a> {
    stage: &'a Stage,
    variant: Variant,
    conns: BTreeMap<String, Conn>,
    /// Ids of all connections that the case ever had.
    ids: BTreeMap<String, u32>,
    entries: Vec<Entry>,
    count: usize,
}

/// Plays `case` and says what a client sees.
///
/// # Errors
/// When the script itself is wrong. What a server does wrong is in the transcript.
pub fn play(case: &Case, stage: &Stage, variant: Variant) -> Result<Vec<Entry>, String> {
    let mut player = Player {
        stage,
        variant,
        conns: BTreeMap::new(),
        ids: BTreeMap::new(),
        entries: Vec::new(),
        count: 0,
    };
    player
        .steps(&case.steps)
        .map_err(|error| format!("{}: {}: {error}", case.file, case.name))?;
    Ok(player.entries)
}

impl Player<'_> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a player has a thread of its own, where nothing else waits"
    )]
    fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            match &step.action {
                Action::Loop(count, inner) => {
                    for turn in 1..=*count {
                        self.count = turn;
                        self.steps(inner)?;
                    }
                    self.count = 0;
                }
                Action::Sleep(millis) => std::thread::sleep(Duration::from_millis(*millis)),
                Action::Expect(text) => self.expect(step.line, text)?,
                Action::Query { who, sql, recorded } => {
                    let who = self.name(who)?;
                    self.conn(step.line, &who)?;
                    let expanded = expand(sql, &self.ids, self.count)?;
                    let answer = self.query(&who, &expanded, *recorded);
                    self.record(step.line, &who, sql, *recorded, answer)?;
                }
                Action::Command { who, word, rest } => {
                    let who = self.name(who)?;
                    self.command(step.line, &who, word, rest)?;
                }
            }
        }
        Ok(())
    }

    /// A connection's name may count: `C${i}`.
    fn name(&self, who: &str) -> Result<String, String> {
        let bytes = expand(who, &self.ids, self.count)?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn expect(&mut self, line: usize, text: &str) -> Result<(), String> {
        let text = expand(text, &self.ids, self.count)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let last = self.entries.last().ok_or("nothing was answered yet")?;
        let met = last.answer.iter().any(|said| said.contains(&text));
        self.entries.push(Entry {
            line,
            step: format!("expect {text}"),
            answer: vec![if met { "met" } else { NOT_MET }.to_owned()],
        });
        Ok(())
    }

    fn query(&mut self, who: &str, sql: &[u8], recorded: Recorded) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        let payload = [&[Command::Query.to_byte()][..], sql].concat();
        conn.client.send(&payload)?;
        conn.answer(recorded == Recorded::Shape, false)
    }

    fn open(&mut self, who: &str) -> Result<&mut Conn, Fault> {
        self.conns
            .get_mut(who)
            .ok_or_else(|| Fault::Odd("not connected".to_owned()))
    }

    /// Opens the connection in the ordinary way when it is named for the first time.
    fn conn(&mut self, line: usize, who: &str) -> Result<(), String> {
        if self.ids.contains_key(who) || self.conns.contains_key(who) {
            return Ok(());
        }
        self.connect(line, who, "")
    }

    fn connect(&mut self, line: usize, who: &str, words: &str) -> Result<(), String> {
        let mut login = Login {
            user: b"app".to_vec(),
            password: b"pw".to_vec(),
            database: Some(b"app".to_vec()),
            capabilities: EVERY | self.variant.capabilities,
            collation: 45,
        };
        let mut unix = self.variant.unix;
        for word in words.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("user", user) => login.user = user.as_bytes().to_vec(),
                ("password", password) => login.password = password.as_bytes().to_vec(),
                ("db", name) => {
                    login.database = Some(name.as_bytes().to_vec()).filter(|name| !name.is_empty());
                    if login.database.is_none() {
                        login.capabilities = login.capabilities.without(Capabilities::CONNECT_WITH_DB);
                    }
                }
                ("collation", number) => {
                    login.collation = number.parse().map_err(|_| format!("no collation: {word}"))?;
                }
                ("tcp", _) => unix = false,
                ("unix", _) => unix = true,
                (flag, _) => {
                    let known = capability(flag.get(1..).unwrap_or_default());
                    let known = known.ok_or_else(|| format!("no such word: {word}"))?;
                    match flag.as_bytes().first() {
                        Some(b'+') => login.capabilities = login.capabilities | known,
                        Some(b'-') => login.capabilities = login.capabilities.without(known),
                        _ => return Err(format!("no such word: {word}")),
                    }
                }
            }
        }
        self.conns.remove(who);
        let road = if unix { &self.stage.unix } else { &self.stage.tcp };
        let answer = Client::connect(road, &login).and_then(|client| {
            let welcome = render::ok(&client.welcome, client.capabilities)?.0;
            let greeting = &client.greeting;
            let lines = vec![
                format!(
                    "greeting {} collation {} {:?} {}",
                    show(&greeting.server_version),
                    greeting.character_set,
                    greeting.status,
                    show(&greeting.auth_plugin)
                ),
                format!("agreed {:?}", client.capabilities),
                welcome,
            ];
            Ok((client, lines))
        });
        let lines = match answer {
            Ok((client, lines)) => {
                self.ids.insert(who.to_owned(), client.greeting.thread_id);
                let conn = Conn {
                    client,
                    statements: BTreeMap::new(),
                    file: None,
                };
                self.conns.insert(who.to_owned(), conn);
                lines
            }
            Err(fault) => vec![format!("refused: {}", fault.say())],
        };
        self.entries.push(Entry {
            line,
            step: format!("{who}! connect {words}"),
            answer: lines,
        });
        Ok(())
    }

    fn record(
        &mut self,
        line: usize,
        who: &str,
        step: &str,
        recorded: Recorded,
        answer: Result<Answer, Fault>,
    ) -> Result<(), String> {
        let mut lines = match answer {
            Ok(answer) if recorded == Recorded::Nothing => {
                if answer.failed {
                    return Err(format!("line {line}: {step}: {:?}", answer.lines));
                }
                return Ok(());
            }
            Ok(answer) => answer.lines,
            Err(fault) => {
                self.conns.remove(who);
                if recorded == Recorded::Nothing {
                    return Err(format!("line {line}: {step}: {fault}"));
                }
                vec![fault.say()]
            }
        };
        // Ids are small numbers: elsewhere they would be taken for values.
        let spoken = step.to_ascii_uppercase();
        if SPEAKS_OF_IDS.iter().any(|word| spoken.contains(word)) {
            for line in lines.iter_mut().filter(|line| !line.starts_with("column")) {
                *line = mask(line, &self.ids);
            }
        }
        let lines = lines.iter().map(|line| without_statement_id(line)).collect();
        self.entries.push(Entry {
            line,
            step: format!("{who}> {}", step.chars().take(120).collect::<String>()),
            answer: lines,
        });
        Ok(())
    }
}

/// Words of statements whose answers may have a connection's id in them.
const SPEAKS_OF_IDS: &[&str] = &[
    "CONNECTION_ID",
    "KILL",
    "PROCESSLIST",
    "${ID",
    "PSEUDO_THREAD_ID",
    "IS_USED_LOCK",
];

/// An error about a prepared statement names its id.
fn without_statement_id(line: &str) -> String {
    for before in ["prepared statement handler (", "The statement ("] {
        if let Some((head, tail)) = line.split_once(before) {
            let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            return format!("{head}{before}ID{tail}");
        }
    }
    line.to_owned()
}

/// What the transcript says where an expectation is not met.
pub const NOT_MET: &str = "NOT MET";

impl Conn {
    fn answer(&mut self, shape: bool, binary: bool) -> Result<Answer, Fault> {
        let reading = Reading {
            binary,
            shape,
            file: self.file.as_deref(),
        };
        render::answer(&mut self.client, &reading)
    }
}

fn capability(name: &str) -> Option<Capabilities> {
    Some(match name {
        "FOUND_ROWS" => Capabilities::FOUND_ROWS,
        "NO_SCHEMA" => Capabilities::NO_SCHEMA,
        "ODBC" => Capabilities::ODBC,
        "LOCAL_FILES" => Capabilities::LOCAL_FILES,
        "IGNORE_SPACE" => Capabilities::IGNORE_SPACE,
        "INTERACTIVE" => Capabilities::INTERACTIVE,
        "MULTI_STATEMENTS" => Capabilities::MULTI_STATEMENTS,
        "MULTI_RESULTS" => Capabilities::MULTI_RESULTS,
        "PS_MULTI_RESULTS" => Capabilities::PS_MULTI_RESULTS,
        "PLUGIN_AUTH" => Capabilities::PLUGIN_AUTH,
        "CONNECT_ATTRS" => Capabilities::CONNECT_ATTRS,
        "SESSION_TRACK" => Capabilities::SESSION_TRACK,
        "DEPRECATE_EOF" => Capabilities::DEPRECATE_EOF,
        _ => return None,
    })
}
