//! The commands of the protocol that scripts can give: `A! WORD …`.

use pontoon_mysql_wire::{Command, write};

use super::{Player, Statement};
use crate::client::Fault;
use crate::render::{self, Answer, Reading, show};
use crate::script::Recorded;
use crate::text::{expand, words};
use crate::value::{self, Parameter, unhex};

/// COM_STMT_EXECUTE's flag for a read-only cursor.
const CURSOR_READ_ONLY: u8 = 1;
/// MariaDB: the statement that was prepared last, before its id is known.
const LAST_PREPARED: u32 = u32::MAX;

impl Player<'_> {
    pub(super) fn command(&mut self, line: usize, who: &str, word: &str, rest: &str) -> Result<(), String> {
        if word == "connect" {
            return self.connect(line, who, rest);
        }
        if !self.ids.contains_key(who) {
            self.conn(line, who)?;
        }
        let expanded = expand(rest, &self.ids, self.count)?;
        let step = format!("! {word} {rest}");
        let answer = match word {
            "prepare" | "execute" | "fetch" | "long" | "reset_stmt" | "close" | "direct" => {
                return self.statement(line, who, word, rest, &expanded);
            }
            "quit" => self.quit(who),
            "gone" => self.gone(who),
            "ping" => self.simple(who, Command::Ping, &[]),
            "reset" => self.simple(who, Command::ResetConnection, &[]),
            "debug" => self.simple(who, Command::Debug, &[]),
            "init_db" => self.simple(who, Command::InitDb, &expanded),
            "process_info" => self.simple_shape(who, Command::ProcessInfo),
            "refresh" => self.simple(who, Command::Refresh, &[1]),
            "set_option" => {
                let on = rest.trim() == "0";
                self.simple(who, Command::SetOption, &u16::from(!on).to_le_bytes())
            }
            "process_kill" => {
                let id: u32 = parse(&String::from_utf8_lossy(&expanded))?;
                self.simple(who, Command::ProcessKill, &id.to_le_bytes())
            }
            "statistics" => self.statistics(who),
            "field_list" => self.field_list(who, rest),
            "change_user" => self.change_user(who, rest),
            "file" => {
                let file = (rest.trim() != "none").then(|| unescape(&expanded));
                if let Ok(conn) = self.open(who) {
                    conn.file = file;
                }
                return Ok(());
            }
            "send" => self.send(who, &expanded),
            "try" => {
                // What the server still says before it closes is a matter of luck.
                let _ = self.query(who, &expanded, Recorded::All);
                self.conns.remove(who);
                Ok(said("tried"))
            }
            "reap" => self.open(who).and_then(|conn| conn.answer(false, false)),
            "pipeline" => self.pipeline(who, &expanded),
            "raw" => {
                let bytes = unhex(&rest.replace(' ', "")).ok_or_else(|| format!("no hex: {rest}"))?;
                self.raw(who, &bytes)
            }
            _ => return Err(format!("line {line}: no such command: {word}")),
        };
        self.record(line, who, &step, Recorded::All, answer)
    }

    fn simple(&mut self, who: &str, command: Command, body: &[u8]) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client.send(&[&[command.to_byte()][..], body].concat())?;
        conn.answer(false, false)
    }

    fn simple_shape(&mut self, who: &str, command: Command) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client.send(&[command.to_byte()])?;
        let mut answer = conn.answer(true, false)?;
        // How many sessions there are is no business of the test's.
        answer
            .lines
            .retain(|line| line != "row" && !line.starts_with("frames"));
        Ok(answer)
    }

    fn quit(&mut self, who: &str) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client.send(&[Command::Quit.to_byte()])?;
        let closed = conn.client.is_closed();
        self.conns.remove(who);
        Ok(said(if closed { "closed" } else { "still open" }))
    }

    /// The server has ended the connection: with an error before or without.
    fn gone(&mut self, who: &str) -> Result<Answer, Fault> {
        let alive = self.simple(who, Command::Ping, &[]);
        self.conns.remove(who);
        Ok(match alive {
            Ok(answer) if !answer.failed => said("alive"),
            _ => said("gone"),
        })
    }

    fn statistics(&mut self, who: &str) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client.send(&[Command::Statistics.to_byte()])?;
        let packet = conn.client.packet()?;
        let text = String::from_utf8_lossy(&packet).into_owned();
        let names: Vec<&str> = text
            .split("  ")
            .filter_map(|part| part.split(':').next())
            .collect();
        Ok(said(&format!("{} {}", conn.client.frames, names.join(","))))
    }

    fn field_list(&mut self, who: &str, rest: &str) -> Result<Answer, Fault> {
        let mut words = rest.split_whitespace();
        let mut payload = vec![Command::FieldList.to_byte()];
        write::nul_bytes(&mut payload, words.next().unwrap_or_default().as_bytes());
        payload.extend_from_slice(words.next().unwrap_or_default().as_bytes());
        let conn = self.open(who)?;
        conn.client.send(&payload)?;
        render::field_list(&mut conn.client)
    }

    fn change_user(&mut self, who: &str, rest: &str) -> Result<Answer, Fault> {
        let words = words(rest);
        let word = |index: usize| words.get(index).map(String::as_bytes).unwrap_or_default();
        let collation = words.get(3).and_then(|word| word.parse().ok()).unwrap_or(45);
        let conn = self.open(who)?;
        conn.statements.clear();
        let ok = match conn.client.change_user(word(0), word(1), word(2), collation) {
            Err(Fault::Refused(error)) => return Ok(said(&format!("error {error}"))),
            other => other?,
        };
        Ok(said(&render::ok(&ok, conn.client.capabilities)?.0))
    }

    fn send(&mut self, who: &str, sql: &[u8]) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client
            .send(&[&[Command::Query.to_byte()][..], sql].concat())?;
        Ok(said("sent"))
    }

    /// Several statements at once, `;;` between them: their packets go out before an answer is read.
    fn pipeline(&mut self, who: &str, all: &[u8]) -> Result<Answer, Fault> {
        let text = String::from_utf8_lossy(all).into_owned();
        let statements: Vec<&str> = text.split(";;").map(str::trim).collect();
        let conn = self.open(who)?;
        for sql in &statements {
            let payload = [&[Command::Query.to_byte()][..], sql.as_bytes()].concat();
            conn.client.send(&payload)?;
        }
        let mut whole = Answer::default();
        for _ in &statements {
            conn.client.next_answer();
            whole.lines.extend(conn.answer(false, false)?.lines);
        }
        Ok(whole)
    }

    fn raw(&mut self, who: &str, bytes: &[u8]) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client.send_raw(bytes)?;
        conn.answer(false, false)
    }

    fn statement(
        &mut self,
        line: usize,
        who: &str,
        word: &str,
        rest: &str,
        expanded: &[u8],
    ) -> Result<(), String> {
        let (name, sql) = rest.split_once(' ').unwrap_or((rest, ""));
        let step = format!("! {word} {rest}");
        let text = String::from_utf8_lossy(expanded).into_owned();
        let answer = match word {
            "prepare" => {
                let sql = expand(sql, &self.ids, self.count)?;
                self.prepare(who, name, &sql)
            }
            "direct" => {
                let (sql, parameters) = sql.split_once(";;").unwrap_or((sql, ""));
                let parameters = parameters_of(&words(parameters))?;
                self.direct(who, name, sql.trim().as_bytes(), &parameters)
            }
            "execute" => {
                let mut words: Vec<String> = words(&text).split_off(1);
                let mut flag = |name: &str| {
                    let found = words.iter().position(|word| word == name);
                    found.map(|at| words.remove(at)).is_some()
                };
                let (cursor, unbound) = (flag("cursor"), flag("unbound"));
                let parameters = parameters_of(&words)?;
                self.execute(who, name, cursor, unbound, &parameters)
            }
            "fetch" => {
                let count: u32 = parse(sql)?;
                self.fetch(who, name, count)
            }
            "long" => {
                let index = words(&text).get(1).cloned().unwrap_or_default();
                let data = words(&text).get(2).cloned().unwrap_or_default();
                self.long(who, name, parse(&index)?, data.as_bytes())
            }
            "reset_stmt" => self
                .statement_id(who, name)
                .and_then(|id| self.simple(who, Command::StmtReset, &id.to_le_bytes())),
            _ => self.close(who, name),
        };
        self.record(line, who, &step, Recorded::All, answer)
    }

    fn prepare(&mut self, who: &str, name: &str, sql: &[u8]) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client
            .send(&[&[Command::StmtPrepare.to_byte()][..], sql].concat())?;
        let (found, answer) = render::prepared(&mut conn.client)?;
        conn.statements.remove(name);
        if let Some((id, parameters)) = found {
            let statement = Statement {
                id,
                parameters,
                columns: answer.columns.clone(),
            };
            conn.statements.insert(name.to_owned(), statement);
        }
        Ok(answer)
    }

    /// MariaDB's way to prepare and execute in one round trip.
    fn direct(
        &mut self,
        who: &str,
        name: &str,
        sql: &[u8],
        parameters: &[Parameter],
    ) -> Result<Answer, Fault> {
        let conn = self.open(who)?;
        conn.client
            .send(&[&[Command::StmtPrepare.to_byte()][..], sql].concat())?;
        conn.client.send(&execution(LAST_PREPARED, 0, parameters, true))?;
        conn.client.next_answer();
        let (found, mut answer) = render::prepared(&mut conn.client)?;
        if let Some((id, count)) = found {
            let statement = Statement {
                id,
                parameters: count,
                columns: answer.columns.clone(),
            };
            conn.statements.insert(name.to_owned(), statement);
        }
        conn.client.next_answer();
        let executed = conn.answer(false, true)?;
        answer.lines.extend(executed.lines);
        Ok(answer)
    }

    fn execute(
        &mut self,
        who: &str,
        name: &str,
        cursor: bool,
        unbound: bool,
        parameters: &[Parameter],
    ) -> Result<Answer, Fault> {
        let id = self.statement_id(who, name)?;
        let conn = self.open(who)?;
        let count = conn
            .statements
            .get(name)
            .map_or(0, |statement| statement.parameters);
        if count != parameters.len() {
            return Err(Fault::Odd(format!("{count} parameters are due")));
        }
        let flags = if cursor { CURSOR_READ_ONLY } else { 0 };
        conn.client.send(&execution(id, flags, parameters, !unbound))?;
        let answer = conn.answer(false, true)?;
        if !answer.columns.is_empty()
            && let Some(statement) = conn.statements.get_mut(name)
        {
            statement.columns.clone_from(&answer.columns);
        }
        Ok(answer)
    }

    fn fetch(&mut self, who: &str, name: &str, count: u32) -> Result<Answer, Fault> {
        let id = self.statement_id(who, name)?;
        let conn = self.open(who)?;
        let mut payload = vec![Command::StmtFetch.to_byte()];
        write::u32(&mut payload, id);
        write::u32(&mut payload, count);
        conn.client.send(&payload)?;
        let mut answer = Answer {
            columns: conn
                .statements
                .get(name)
                .map(|statement| statement.columns.clone())
                .unwrap_or_default(),
            ..Answer::default()
        };
        let how = Reading {
            binary: true,
            ..Reading::default()
        };
        render::rows(&mut conn.client, &how, &mut answer)?;
        answer.lines.push(format!("frames {}", conn.client.frames));
        Ok(answer)
    }

    /// No answer comes to it.
    fn long(&mut self, who: &str, name: &str, index: u16, data: &[u8]) -> Result<Answer, Fault> {
        let id = self.statement_id(who, name)?;
        let mut payload = vec![Command::StmtSendLongData.to_byte()];
        write::u32(&mut payload, id);
        write::u16(&mut payload, index);
        payload.extend_from_slice(data);
        self.open(who)?.client.send(&payload)?;
        Ok(said("sent"))
    }

    /// No answer comes to it. The name stays, for those who go on with a statement that is closed.
    fn close(&mut self, who: &str, name: &str) -> Result<Answer, Fault> {
        let id = self.statement_id(who, name)?;
        let payload = [&[Command::StmtClose.to_byte()][..], &id.to_le_bytes()].concat();
        self.open(who)?.client.send(&payload)?;
        Ok(said("sent"))
    }

    fn statement_id(&mut self, who: &str, name: &str) -> Result<u32, Fault> {
        let name = name.trim();
        let found = self.open(who)?.statements.get(name).map(|statement| statement.id);
        found.ok_or_else(|| Fault::Odd(format!("no statement {}", show(name.as_bytes()))))
    }
}

fn execution(id: u32, flags: u8, parameters: &[Parameter], types: bool) -> Vec<u8> {
    let mut payload = vec![Command::StmtExecute.to_byte()];
    write::u32(&mut payload, id);
    payload.push(flags);
    write::u32(&mut payload, 1);
    value::encode(&mut payload, parameters, types);
    payload
}

fn parameters_of(words: &[String]) -> Result<Vec<Parameter>, String> {
    words.iter().map(|word| Parameter::parse(word)).collect()
}

fn said(text: &str) -> Answer {
    Answer {
        lines: vec![text.to_owned()],
        ..Answer::default()
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("no number: {text}"))
}

/// `\n` and `\t` of a file's content.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.replace("\\n", "\n").replace("\\t", "\t").into_bytes()
}
