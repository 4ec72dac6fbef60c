//! The walk along the tables.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pontoon_fleet::{Code, Refusal};

use super::look::strange;
use super::question::{
    Answer, Ask, Digest, Inventory, Key, KeyForm, KeyValue, Range, Reach, Sum, Table, Values,
};
use super::report::{Checked, Differing, Kind, RowDifference, Told, Unchecked};
use super::settle::{ROUNDS, Settling, Verdict};
use super::{Options, Side};

/// The first chunk of a table: nobody knows yet how large rows are.
const FIRST_ROWS: u64 = 10;

/// The largest chunk: its rows are listed when the sums differ.
const MOST_ROWS: u64 = 5_000;

/// The same when keys are long.
const MOST_ROWS_WITH_LONG_KEYS: u64 = 500;

/// A table without a key is compared in one piece up to about this size.
const MOST_ROWS_WITHOUT_KEY: u64 = 100_000;

/// Rows of a chunk that are followed to the end.
const MOST_SUSPECTS: usize = 500;

/// A table with more rows found different is left there: it needs another remedy than a list.
const MOST_DIFFERING: u64 = 1_000;

/// And so is one with more chunks that differ.
const MOST_CHUNKS: u64 = 20;

/// Keys in one question, by their size.
const QUESTION_BYTES: usize = 128 << 10;

/// How long a replica is waited for in one question.
const REACH: Duration = Duration::from_secs(5);

/// How long it is waited for in all, before the check gives up.
const BEHIND: Duration = Duration::from_secs(600);

/// How often what differs in the definitions is looked at again.
const DEFINITION_ROUNDS: u32 = 4;

/// Compares every replica with the primary; tells how it goes.
///
/// # Errors
/// [`Code::N002`] when a server stops answering, [`Code::D004`] when a replica does not get on. What differs is no
/// error: it is told, and in the result.
pub async fn check(
    primary: &dyn Side,
    replicas: &[&dyn Side],
    options: &Options,
    tell: &mut (dyn FnMut(Told) + Send),
) -> Result<Checked, Refusal> {
    let mut walk = Walk {
        primary,
        options,
        tell,
        checked: Checked::default(),
        total: 0,
        dice: u64::from(std::process::id()) | 1,
    };
    let inventories = walk.inventories(replicas).await?;
    walk.total = inventories.primary.tables.iter().map(|table| table.rows).sum();
    let tables = &inventories.primary.tables;
    for (at, table) in tables.iter().enumerate() {
        (walk.tell)(Told::Table {
            name: table.full_name(),
            number: at + 1,
            tables: tables.len(),
        });
        let sides: Vec<&dyn Side> = replicas
            .iter()
            .zip(&inventories.replicas)
            .filter_map(|(side, theirs)| Some((*side, find(theirs, table)?)))
            .filter(|(_, theirs)| theirs.columns == table.columns && theirs.key == table.key)
            .map(|(side, _)| side)
            .collect();
        match why_not(table) {
            _ if sides.is_empty() => {}
            Some(why) => walk.skip(table.full_name(), why),
            None => match walk.table(table, &sides).await {
                Ok(()) => walk.checked.tables += 1,
                // The table's own trouble: it was dropped, or a statement took too long.
                Err(refusal) if refusal.code == Code::D008 => {
                    let why = refusal.evidence.last().cloned().unwrap_or(refusal.what);
                    walk.skip(table.full_name(), why);
                }
                Err(refusal) => return Err(refusal),
            },
        }
    }
    Ok(walk.checked)
}

struct Walk<'a> {
    primary: &'a dyn Side,
    options: &'a Options,
    tell: &'a mut (dyn FnMut(Told) + Send),
    checked: Checked,
    total: u64,
    dice: u64,
}

struct Inventories {
    primary: Inventory,
    replicas: Vec<Inventory>,
}

/// What was found of one table on one replica.
#[derive(Default)]
struct Found {
    rows: u64,
    chunks: u64,
    shown: usize,
}

impl Found {
    fn is_enough(&self) -> bool {
        self.rows >= MOST_DIFFERING || self.chunks >= MOST_CHUNKS
    }
}

impl Walk<'_> {
    /// What each server has; what is defined otherwise is told, when it stays so.
    async fn inventories(&mut self, replicas: &[&dyn Side]) -> Result<Inventories, Refusal> {
        let ask = Ask::Inventory {
            only: self.options.only.clone(),
        };
        let mut staying: Option<BTreeMap<(usize, String), Kind>> = None;
        let mut round = 0;
        let inventories = loop {
            let Answer::Inventory(primary) = self.primary.ask(&ask).await? else {
                return Err(strange());
            };
            let (mut found, mut theirs) = (BTreeMap::new(), Vec::new());
            for (at, side) in replicas.iter().enumerate() {
                self.wait(*side, &primary.position).await?;
                let Answer::Inventory(replica) = side.ask(&ask).await? else {
                    return Err(strange());
                };
                for (what, kind) in definitions(&primary, &replica) {
                    found.insert((at, what), kind);
                }
                theirs.push(replica);
            }
            if let Some(before) = &staying {
                found.retain(|what, kind| before.get(what) == Some(kind));
            }
            round += 1;
            let done = found.is_empty() || round == DEFINITION_ROUNDS;
            staying = Some(found);
            if done {
                break Inventories {
                    primary,
                    replicas: theirs,
                };
            }
            tokio::time::sleep(Duration::from_millis(100) * round).await;
        };
        for ((at, what), kind) in staying.unwrap_or_default() {
            let Some(side) = replicas.get(at) else { continue };
            self.differs(Differing {
                server: side.name().clone(),
                what,
                kind,
                range: None,
                count: 0,
                or_more: false,
                rows: Vec::new(),
            });
        }
        for wanted in &self.options.only {
            let everybody = std::iter::once(&inventories.primary).chain(&inventories.replicas);
            if !everybody
                .flat_map(|has| &has.tables)
                .any(|table| table.full_name() == *wanted)
            {
                return Err(
                    Refusal::new(Code::D008, format!("there is no table {wanted}")).because(
                        "tables are named as schema.table, and those of the server itself are not compared",
                    ),
                );
            }
        }
        let blind = std::iter::once(&inventories.primary)
            .chain(&inventories.replicas)
            .any(|has| has.others.is_none());
        if blind {
            let why = "a database was started by an older version of Pontoon, whose account may not see them; the \
                       next start of the database changes that";
            self.skip("views, triggers, routines and events".to_owned(), why.to_owned());
        }
        Ok(inventories)
    }

    async fn table(&mut self, table: &Table, sides: &[&dyn Side]) -> Result<(), Refusal> {
        let most = match table.key_bytes > 64 {
            true => MOST_ROWS_WITH_LONG_KEYS,
            false => MOST_ROWS,
        };
        let mut found: Vec<Found> = sides.iter().map(|_| Found::default()).collect();
        let mut rows = FIRST_ROWS;
        let mut range = Range::default();
        loop {
            let asked = Ask::Sum {
                table: table.clone(),
                range: Range {
                    after: range.after.clone(),
                    until: None,
                },
                rows: table.key.as_ref().map(|_| rows),
                reach: None,
            };
            let ours = sum(self.primary.ask(&asked).await?)?;
            let Some(sum) = ours.sum else {
                return Err(strange());
            };
            range.until = ours.until;
            let mut took = ours.took;
            for (side, found) in sides.iter().zip(&mut found) {
                if found.is_enough() {
                    continue;
                }
                let theirs = self.replica_sum(*side, table, &range, &ours.position).await?;
                took = took.max(theirs.took);
                if theirs.sum != Some(sum) {
                    self.look_closer(*side, table, &range, most, found).await?;
                }
                if theirs.waited > self.options.max_lag {
                    self.let_catch_up(*side).await?;
                }
            }
            self.checked.rows += sum.rows;
            self.total = self.total.max(self.checked.rows);
            (self.tell)(Told::Rows {
                done: self.checked.rows,
                total: self.total,
            });
            rows = next_rows(rows, took, self.options.chunk_time, most);
            match range.until.take() {
                Some(until) => range.after = Some(until),
                None => return Ok(()),
            }
        }
    }

    /// The replica's sum, once it has what the primary had.
    async fn replica_sum(
        &mut self,
        side: &dyn Side,
        table: &Table,
        range: &Range,
        position: &str,
    ) -> Result<Read, Refusal> {
        let begun = Instant::now();
        loop {
            let ask = Ask::Sum {
                table: table.clone(),
                range: range.clone(),
                rows: None,
                reach: Some(reach(position)),
            };
            let read = sum(side.ask(&ask).await?)?;
            if read.sum.is_some() {
                return Ok(read);
            }
            self.wait_again(side, position, begun).await?;
        }
    }

    /// Compares the rows of a chunk whose sums differ.
    async fn look_closer(
        &mut self,
        side: &dyn Side,
        table: &Table,
        range: &Range,
        most: u64,
        found: &mut Found,
    ) -> Result<(), Refusal> {
        // Twice the chunk: rows that only the replica has are there besides. Without a key everything is one chunk.
        let most = match table.key {
            Some(_) => most * 2,
            None => MOST_ROWS_WITHOUT_KEY * 2,
        };
        let rows = |reach| Ask::Rows {
            table: table.clone(),
            range: range.clone(),
            most,
            reach,
        };
        let (ours, position) = digests(self.primary.ask(&rows(None)).await?)?;
        let theirs = self
            .replica_digests(side, &position, rows(Some(reach(&position))))
            .await?;
        let cut_off = theirs.len() as u64 == most;
        let mut settling = Settling::suspects(&ours.unwrap_or_default(), &theirs);
        let mut or_more = cut_off;
        for round in 0..ROUNDS {
            let keys = settling.keys();
            if keys.is_empty() {
                return Ok(());
            }
            self.pause(round).await;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for keys in batches(&keys) {
                let find = |reach| Ask::Find {
                    table: table.clone(),
                    keys: keys.to_vec(),
                    reach,
                };
                let (rows, position) = digests(self.primary.ask(&find(None)).await?)?;
                ours.extend(rows.unwrap_or_default());
                theirs.extend(
                    self.replica_digests(side, &position, find(Some(reach(&position))))
                        .await?,
                );
            }
            settling.round(&ours, &theirs);
            // After two rounds what is left is not what was just being written.
            if round == 1 {
                or_more |= settling.keep(MOST_SUSPECTS);
            }
        }
        let (rewritten, mut differing): (Vec<_>, Vec<_>) = settling
            .verdicts()
            .into_iter()
            .partition(|(_, verdict)| *verdict == Verdict::Rewritten);
        self.checked.rewritten += rewritten.len() as u64;
        if differing.is_empty() {
            return Ok(());
        }
        differing.sort_by(|(one, _), (other, _)| in_order(one, other));
        found.rows += differing.len() as u64;
        found.chunks += 1;
        if table.key.is_some() {
            let keys = differing.iter().map(|(key, _)| key.clone()).collect();
            self.checked
                .found
                .push((side.name().clone(), table.clone(), keys));
        }
        let room = self.options.show.saturating_sub(found.shown).min(differing.len());
        let rows = self.show(side, table, &differing[..room]).await?;
        found.shown += rows.len();
        self.differs(Differing {
            server: side.name().clone(),
            what: table.full_name(),
            kind: Kind::Rows,
            range: table.key.as_ref().map(|key| range_words(key, range)),
            count: differing.len() as u64,
            or_more: or_more || found.is_enough(),
            rows,
        });
        Ok(())
    }

    async fn replica_digests(
        &mut self,
        side: &dyn Side,
        position: &str,
        ask: Ask,
    ) -> Result<Vec<Digest>, Refusal> {
        let begun = Instant::now();
        loop {
            if let (Some(rows), _) = digests(side.ask(&ask).await?)? {
                return Ok(rows);
            }
            self.wait_again(side, position, begun).await?;
        }
    }

    async fn show(
        &mut self,
        side: &dyn Side,
        table: &Table,
        differing: &[(KeyValue, Verdict)],
    ) -> Result<Vec<RowDifference>, Refusal> {
        if differing.is_empty() {
            return Ok(Vec::new());
        }
        let ask = Ask::Show {
            table: table.clone(),
            keys: differing.iter().map(|(key, _)| key.clone()).collect(),
        };
        let (ours, theirs) = (
            shown(self.primary.ask(&ask).await?)?,
            shown(side.ask(&ask).await?)?,
        );
        let mut rows = Vec::new();
        for (key, verdict) in differing {
            let (left, right) = (ours.get(key), theirs.get(key));
            let value = |row: Option<&Values>, at: usize| {
                row.and_then(|row| row.get(at))
                    .and_then(|(_, value)| value.clone())
            };
            let columns = table
                .columns
                .iter()
                .enumerate()
                .map(|(at, column)| (column.name.clone(), value(left, at), value(right, at)))
                .filter(|(_, left_value, right_value)| {
                    *verdict != Verdict::Other || left_value != right_value
                })
                .collect();
            rows.push(RowDifference {
                key: match &table.key {
                    Some(columns) => key_words(columns, key),
                    None => "a row of a table without a key".to_owned(),
                },
                kind: match verdict {
                    Verdict::Missing => Kind::Missing,
                    Verdict::Extra => Kind::Extra,
                    Verdict::Other | Verdict::Rewritten => Kind::Rows,
                },
                columns,
            });
        }
        Ok(rows)
    }

    /// Waits until the replica needs no longer than `max_lag` to reach what the primary has.
    async fn let_catch_up(&mut self, side: &dyn Side) -> Result<(), Refusal> {
        let begun = Instant::now();
        loop {
            (self.tell)(Told::Waiting(side.name().clone()));
            tokio::time::sleep(Duration::from_millis(250)).await;
            let here = Ask::Inventory {
                // None is named so: the position is all that is wanted.
                only: vec![String::new()],
            };
            let Answer::Inventory(now) = self.primary.ask(&here).await? else {
                return Err(strange());
            };
            let wait = Ask::Wait {
                reach: Reach {
                    position: now.position,
                    patience: self.options.max_lag.max(Duration::from_millis(50)),
                },
            };
            match side.ask(&wait).await? {
                Answer::Reached { reached: true, .. } => return Ok(()),
                Answer::Reached { error, .. } => self.behind(side, error, begun)?,
                _ => return Err(strange()),
            }
        }
    }

    async fn wait(&mut self, side: &dyn Side, position: &str) -> Result<(), Refusal> {
        self.wait_again(side, position, Instant::now()).await
    }

    async fn wait_again(&mut self, side: &dyn Side, position: &str, begun: Instant) -> Result<(), Refusal> {
        loop {
            let ask = Ask::Wait {
                reach: reach(position),
            };
            match side.ask(&ask).await? {
                Answer::Reached { reached: true, .. } => return Ok(()),
                Answer::Reached { error, .. } => self.behind(side, error, begun)?,
                _ => return Err(strange()),
            }
        }
    }

    /// After a wait that was in vain.
    fn behind(&mut self, side: &dyn Side, error: Option<String>, begun: Instant) -> Result<(), Refusal> {
        (self.tell)(Told::Waiting(side.name().clone()));
        if error.is_none() && begun.elapsed() < BEHIND {
            return Ok(());
        }
        let text = format!("{} does not reach what the primary has", side.name());
        let waited = format!("it was waited for {} s", begun.elapsed().as_secs());
        Err(Refusal::new(Code::D004, text)
            .because(error.unwrap_or(waited))
            .next("see what it does", "pontoon db status"))
    }

    /// Between two rounds: irregular, so that no rhythm of the application is met.
    async fn pause(&mut self, round: u32) {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let most = 20 + 20 * u64::from(round);
        tokio::time::sleep(Duration::from_millis(5 + self.dice % most)).await;
    }

    fn differs(&mut self, what: Differing) {
        let known = self
            .checked
            .differing
            .iter_mut()
            .find(|(server, name, _)| *server == what.server && *name == what.what);
        match known {
            Some((_, _, rows)) => *rows += what.count,
            None => self
                .checked
                .differing
                .push((what.server.clone(), what.what.clone(), what.count)),
        }
        (self.tell)(Told::Differs(what));
    }

    fn skip(&mut self, what: String, why: String) {
        let unchecked = Unchecked { what, why };
        self.checked.unchecked.push(unchecked.clone());
        (self.tell)(Told::Unchecked(unchecked));
    }
}

/// Why the rows of a table are not compared.
fn why_not(table: &Table) -> Option<String> {
    let engine = table.engine.to_ascii_lowercase();
    if !matches!(engine.as_str(), "innodb" | "rocksdb") {
        return Some(format!(
            "its engine is {}: reading it would hold up those who write to it",
            table.engine
        ));
    }
    if table.key.is_none() && table.rows > MOST_ROWS_WITHOUT_KEY {
        return Some(format!(
            "it has about {} rows and neither a primary key nor a unique one by which they can be read in parts",
            table.rows
        ));
    }
    None
}

/// What the two define otherwise.
fn definitions(primary: &Inventory, replica: &Inventory) -> Vec<(String, Kind)> {
    let mut found = Vec::new();
    for table in &primary.tables {
        match find(replica, table) {
            None => found.push((table.full_name(), Kind::Missing)),
            // Another version prints the same table otherwise: then the columns and the key have to do.
            Some(theirs) => {
                let same = match primary.version == replica.version {
                    true => theirs.definition == table.definition,
                    false => theirs.columns == table.columns && theirs.key == table.key,
                };
                if !same {
                    found.push((table.full_name(), Kind::Definition));
                }
            }
        }
    }
    let extra = replica
        .tables
        .iter()
        .filter(|table| find(primary, table).is_none());
    found.extend(extra.map(|table| (table.full_name(), Kind::Extra)));
    if let (Some(ours), Some(theirs)) = (&primary.others, &replica.others)
        && primary.version == replica.version
    {
        let (ours, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (ours.iter().cloned().collect(), theirs.iter().cloned().collect());
        for (what, made_of) in &ours {
            match theirs.get(what) {
                None => found.push((what.clone(), Kind::Missing)),
                Some(other) if other != made_of => found.push((what.clone(), Kind::Definition)),
                Some(_) => {}
            }
        }
        let extra = theirs.keys().filter(|what| !ours.contains_key(*what));
        found.extend(extra.map(|what| (what.clone(), Kind::Extra)));
    }
    found
}

fn find<'a>(inventory: &'a Inventory, table: &Table) -> Option<&'a Table> {
    inventory
        .tables
        .iter()
        .find(|other| other.schema == table.schema && other.name == table.name)
}

/// So many rows that they take the wanted time, but not at once four times as many.
fn next_rows(rows: u64, took: Duration, wanted: Duration, most: u64) -> u64 {
    let factor = wanted.as_secs_f64() / took.as_secs_f64().max(0.000_1);
    let next = rows as f64 * factor.clamp(0.1, 4.0);
    (next as u64).clamp(1, most)
}

struct Read {
    sum: Option<Sum>,
    until: Option<KeyValue>,
    position: String,
    took: Duration,
    waited: Duration,
}

fn sum(answer: Answer) -> Result<Read, Refusal> {
    match answer {
        Answer::Sum {
            sum,
            until,
            position,
            took_us,
            waited_ms,
        } => Ok(Read {
            sum,
            until,
            position,
            took: Duration::from_micros(took_us),
            waited: Duration::from_millis(waited_ms),
        }),
        _ => Err(strange()),
    }
}

fn digests(answer: Answer) -> Result<(Option<Vec<Digest>>, String), Refusal> {
    match answer {
        Answer::Rows { rows, position } => Ok((rows, position)),
        _ => Err(strange()),
    }
}

type Shown = BTreeMap<KeyValue, Values>;

fn shown(answer: Answer) -> Result<Shown, Refusal> {
    match answer {
        Answer::Show { rows } => Ok(rows.into_iter().collect()),
        _ => Err(strange()),
    }
}

fn reach(position: &str) -> Reach {
    Reach {
        position: position.to_owned(),
        patience: REACH,
    }
}

/// Keys in questions of bounded size.
fn batches(keys: &[KeyValue]) -> Vec<&[KeyValue]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, key) in keys.iter().enumerate() {
        bytes += key.iter().map(|value| value.len() + 8).sum::<usize>();
        if bytes > QUESTION_BYTES {
            parts.push(&keys[begin..=at]);
            (begin, bytes) = (at + 1, 0);
        }
    }
    if begin < keys.len() {
        parts.push(&keys[begin..]);
    }
    parts
}

/// Numbers by size, all else as text.
fn in_order(one: &KeyValue, other: &KeyValue) -> Ordering {
    let pairs = one.iter().zip(other);
    let compared = pairs.map(
        |(one, other)| match (one.parse::<i128>(), other.parse::<i128>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            _ => one.cmp(other),
        },
    );
    compared.fold(Ordering::Equal, Ordering::then)
}

/// `id=7`, `tenant='x' id=7`.
fn key_words(key: &Key, value: &KeyValue) -> String {
    let words = key.columns.iter().zip(value).map(|(column, value)| {
        let shown = match &column.form {
            KeyForm::Number => value.clone(),
            KeyForm::Quoted => format!("'{value}'"),
            KeyForm::Bytes => format!("X'{value}'"),
            KeyForm::Text { .. } => format!("'{}'", text_of_hex(value)),
        };
        format!("{}={shown}", column.name)
    });
    words.collect::<Vec<_>>().join(" ")
}

fn range_words(key: &Key, range: &Range) -> String {
    match (&range.after, &range.until) {
        (None, None) => "the whole table".to_owned(),
        (Some(after), None) => format!("above {}", key_words(key, after)),
        (None, Some(until)) => format!("up to {}", key_words(key, until)),
        (Some(after), Some(until)) => {
            format!("above {} up to {}", key_words(key, after), key_words(key, until))
        }
    }
}

fn text_of_hex(hex: &str) -> String {
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
