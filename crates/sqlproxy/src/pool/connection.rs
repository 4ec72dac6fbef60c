//! One connection to a database, with what is known of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pontoon_mysql_wire::reply::Expect;
use pontoon_mysql_wire::{Capabilities, Command, StatusFlags, WireError, encode_packet};
use pontoon_sql_class::{Charset, Engine, SqlMode, Version};

use super::places::{Busy, TakenPlace};
use super::shelf::Lends;
use crate::auth::Secret;
use crate::backend::Backend;
use crate::exchange::ask::{AskError, Question, ask};
use crate::exchange::{Link, is_quiet};
use crate::session::route::Side;
use crate::session::state::{Difference, Setup, State, TRACKED};
use crate::statements::OnBackend;
use crate::target::Transport;

/// Who uses connections: sessions with the same identity may use each other's.
#[derive(Debug)]
pub struct Identity {
    /// The user's name.
    pub user: Vec<u8>,
    /// What proves it.
    pub secret: Secret,
    /// Tells secrets apart.
    pub fingerprint: [u8; 32],
    /// The flags that change what statements mean.
    pub flags: Capabilities,
    /// The collation named at login.
    pub collation: u8,
    /// How the clients came.
    pub transport: Transport,
    /// Whether the account demands TLS.
    pub tls: bool,
    /// Its connections are nobody else's, ever: nothing has to be known of them but what its own session needs.
    pub alone: bool,
}

/// What two connections must have in common to stand in for each other.
#[derive(Clone, Debug)]
pub struct Key {
    /// Whose.
    pub identity: Rc<Identity>,
    /// To what.
    pub side: Side,
    /// To whom: the server's number in the process.
    pub server: usize,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        Rc::ptr_eq(&self.identity, &other.identity) && self.side == other.side && self.server == other.server
    }
}

/// What a server said about itself and about a fresh session on it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The software.
    pub engine: Engine,
    /// Its version.
    pub version: Version,
    /// How a fresh session reads statements.
    pub sql_mode: SqlMode,
    /// How a fresh session reads bytes.
    pub charset: Charset,
    /// Whether a fresh session's reads take locks.
    pub serializable: bool,
    /// Whether in a fresh session `WHERE id IS NULL` finds the row that was inserted last.
    pub auto_is_null: bool,
    /// How long a fresh session may say nothing.
    pub wait_timeout: Duration,
    /// The status flags of a fresh session.
    pub status: StatusFlags,
    /// How a session reads and writes text after its own COM_RESET_CONNECTION, where that is not as after its login.
    pub text_after_reset: Option<Text>,
    /// How many connections the server takes.
    pub max_connections: usize,
    /// What makes a reset connection fresh again.
    set_up: Vec<u8>,
    /// What has the server report to a session as if there were no proxy.
    untracked: Vec<u8>,
}

/// How a session reads and writes text: its `character_set_…` and `collation_connection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// How statements are written.
    pub client: String,
    connection: String,
    collation: String,
    /// In quotes, or NULL.
    results: String,
}

impl Text {
    /// What stands after `SET`. Of all ways, only `NAMES … COLLATE` says in which collation results are described.
    pub fn assignments(&self) -> String {
        let Text {
            client,
            connection,
            collation,
            results,
        } = self;
        if client == connection && results.trim_matches('\'') == client {
            return format!("NAMES '{client}' COLLATE '{collation}'");
        }
        format!(
            "SESSION character_set_client='{client}',SESSION collation_connection='{collation}',\
             SESSION character_set_results={results}"
        )
    }
}

/// Where a session's `LAST_INSERT_ID()` is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastInsertId {
    /// This is it.
    Known(u64),
    /// In the connection with this number.
    At(u64),
    /// In a connection that is gone.
    Lost,
}

/// What a session and the connections that it used know of each other.
#[derive(Debug)]
pub struct Owner {
    /// The session's last insert id.
    pub last_insert_id: Cell<LastInsertId>,
}

/// A connection to a database.
#[derive(Debug)]
pub struct Connection {
    /// The login.
    pub backend: Backend,
    /// What it can be used for.
    pub key: Key,
    /// Ends it from outside.
    pub link: Rc<Link>,
    /// Its number on this thread.
    pub serial: u64,
    /// The session that used it last.
    pub owner: Option<Rc<Owner>>,
    /// What was set on it.
    pub applied: Rc<State>,
    /// What is known of its server.
    pub facts: Rc<Facts>,
    /// Statements prepared on it.
    pub statements: OnBackend,
    /// What `LAST_INSERT_ID()` is on it, when that is known.
    pub insert_id: Option<u64>,
    /// The last login (see `Thread::login`) whose rights it is known to have.
    pub vetted: u64,
    /// What its user was allowed when it logged in, as a digest.
    rights: [u8; 32],
    /// Its last statement left warnings or an error. A statement without tables does not take them away.
    pub warned: bool,
    /// The server reports what the proxy must know.
    tracked: bool,
    /// Statements to close with the next command: closing has no answer.
    to_close: Vec<u32>,
    place: TakenPlace,
}

/// How long the proxy's own questions may take.
const OWN_QUESTIONS: Duration = Duration::from_secs(10);

impl Lends for Box<Connection> {
    type Key = Key;

    fn key(&self) -> &Key {
        &self.key
    }

    fn server(&self) -> usize {
        self.key.server
    }
}

impl Connection {
    /// Says that a statement runs on it.
    pub fn works(&self) -> Busy {
        self.place.works()
    }

    /// Whether somebody waits for a place at its server.
    pub fn is_wanted(&self) -> bool {
        self.place.is_wanted()
    }

    /// Makes a fresh login usable: has the server track what it must, and asks what it is.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn set_up(
        mut backend: Backend,
        key: Key,
        serial: u64,
        database: Option<&[u8]>,
        place: TakenPlace,
    ) -> Result<Box<Connection>, AskError> {
        let link = Rc::new(Link::default());
        let engine = match backend.greeting.is_mariadb() {
            true => Engine::MariaDb,
            false => Engine::MySql,
        };
        let isolation = isolation_variable(engine);
        let tracking = tracking(engine);
        let gtids = match engine {
            Engine::MariaDb => "",
            Engine::MySql => ", @@session.session_track_gtids",
        };
        // What is tracked is asked for before it is changed.
        let facts = format!(
            "SELECT @@max_connections, @@sql_mode, @@{isolation}, @@character_set_client, @@character_set_connection, \
             @@collation_connection, @@character_set_results, @@global.character_set_client, \
             @@global.character_set_connection, @@global.collation_connection, @@global.character_set_results, \
             @@sql_auto_is_null, @@wait_timeout, @@session.session_track_system_variables, \
             @@session.session_track_schema, @@session.session_track_state_change{gtids}"
        );
        let mut questions = vec![Question::query(facts.as_bytes()), Question::query(&tracking)];
        if !key.identity.alone {
            questions.push(Question::query(RIGHTS));
        }
        let status = backend.status;
        let asked = ask(&mut backend.peer, backend.capabilities, &questions, &link);
        let told = tokio::time::timeout(OWN_QUESTIONS, asked)
            .await
            .map_err(silent)??;
        let row = told
            .first()
            .map(|told| told.row())
            .transpose()?
            .unwrap_or_default();
        let text = |at: usize| {
            let value = row.get(at).cloned().flatten().unwrap_or_default();
            String::from_utf8_lossy(&value).into_owned()
        };
        let rights = told.get(2).map(|told| digest_of(&told.bytes)).unwrap_or_default();
        let quoted = |at: usize| match row.get(at) {
            Some(Some(_)) => format!("'{}'", text(at).replace('\'', "''")),
            _ => "NULL".to_owned(),
        };
        let settings = |at: usize| Text {
            client: text(at),
            connection: text(at + 1),
            collation: text(at + 2),
            results: quoted(at + 3),
        };
        let (login, global) = (settings(3), settings(7));
        let version = backend.greeting.version();
        let mut untracked = format!(
            "SET SESSION session_track_system_variables={},SESSION session_track_schema={},\
             SESSION session_track_state_change={}",
            quoted(13),
            text(14),
            text(15),
        );
        if engine == Engine::MySql {
            untracked.push_str(&format!(",SESSION session_track_gtids={}", quoted(16)));
        }
        let facts = Facts {
            engine,
            version: Version::parse(&version).unwrap_or(match engine {
                Engine::MariaDb => Version::MARIADB_MIN,
                Engine::MySql => Version::MYSQL_MIN,
            }),
            sql_mode: SqlMode::parse(&text(1)),
            charset: Charset::from_name(&text(3)),
            serializable: text(2).eq_ignore_ascii_case("SERIALIZABLE"),
            auto_is_null: text(11) != "0",
            wait_timeout: Duration::from_secs(
                text(12)
                    .parse()
                    .map_err(|_| WireError::Malformed("no wait_timeout"))?,
            ),
            status,
            max_connections: text(0)
                .parse()
                .map_err(|_| WireError::Malformed("no number of connections"))?,
            set_up: [&tracking[..], b",", login.assignments().as_bytes()].concat(),
            // MySQL forgets what the login said; MariaDB does not.
            text_after_reset: (engine == Engine::MySql && global != login).then_some(global),
            untracked: untracked.into_bytes(),
        };
        let applied = State::fresh(database);
        Ok(Box::new(Connection {
            backend,
            key,
            link,
            serial,
            owner: None,
            applied: Rc::new(applied),
            facts: Rc::new(facts),
            statements: OnBackend::default(),
            insert_id: Some(0),
            vetted: 0,
            rights,
            warned: false,
            tracked: true,
            to_close: Vec::new(),
            place,
        }))
    }

    /// How much it takes to give it this state; `None` when nothing does.
    pub fn effort(&self, wanted: &Rc<State>) -> Option<u32> {
        match wanted.difference(&self.applied) {
            Difference::Impossible => None,
            Difference::Reset => Some(2),
            Difference::Commands(commands) => Some(u32::from(!commands.is_empty())),
        }
    }

    /// Gives it this state, with a reset when `clean` asks for one or nothing else helps.
    ///
    /// # Errors
    /// [`AskError`]: the connection is to be closed. So it is when it has a default database and must have none.
    pub async fn become_like(&mut self, wanted: &Rc<State>, clean: bool) -> Result<(), AskError> {
        let mut reset = false;
        let questions = match wanted.difference(&self.applied) {
            Difference::Impossible => {
                return Err(AskError::Io(std::io::ErrorKind::Unsupported.into()));
            }
            Difference::Commands(commands) if !clean && commands.is_empty() => return Ok(()),
            Difference::Commands(commands) if !clean => commands.into_iter().map(question).collect(),
            Difference::Commands(_) | Difference::Reset => {
                reset = true;
                let mut questions = vec![
                    Question::new(Command::ResetConnection, b"", Expect::ResetOrPing),
                    Question::query(&self.facts.set_up),
                ];
                questions.extend(
                    wanted
                        .after_reset(&self.applied.database)
                        .into_iter()
                        .map(question),
                );
                self.statements = OnBackend::default();
                self.to_close.clear();
                self.warned = false;
                self.tracked = true;
                self.insert_id = Some(0);
                questions
            }
        };
        let told = self.ask(&questions).await?;
        // How a fresh session of this server reads statements has changed since: what is known of it is wrong.
        let reads = StatusFlags::NO_BACKSLASH_ESCAPES | StatusFlags::ANSI_QUOTES;
        if reset
            && told
                .get(1)
                .is_some_and(|told| told.done.status & reads != self.facts.status & reads)
        {
            return Err(AskError::Io(std::io::ErrorKind::Other.into()));
        }
        self.applied = Rc::clone(wanted);
        Ok(())
    }

    /// Whether its user is still allowed what it was when the connection logged in. A server looks into its global
    /// rights and its roles at a login only, and into those for the default database when that is chosen; so it is
    /// chosen again.
    ///
    /// # Errors
    /// [`AskError`]: the connection is to be closed. Whether the user may come in at all is for a new login to find out.
    pub async fn vet(&mut self, wanted: &State) -> Result<bool, AskError> {
        let mut questions = vec![Question::query(RIGHTS)];
        // A database that it does not have yet is chosen with the rest of the state.
        if let Some(database) = wanted
            .database
            .as_ref()
            .filter(|_| wanted.database == self.applied.database)
        {
            questions.push(Question::new(Command::InitDb, database, Expect::ResetOrPing));
        }
        let told = self.ask(&questions).await?;
        Ok(told
            .first()
            .is_some_and(|told| digest_of(&told.bytes) == self.rights))
    }

    /// Has the server report to its session as if there were no proxy: for one that looks at what is reported. Of no use
    /// for another session from then on.
    ///
    /// # Errors
    /// [`AskError`]: the connection is to be closed.
    pub async fn untrack(&mut self) -> Result<(), AskError> {
        if self.tracked {
            let untracked = Question::query(&self.facts.untracked);
            self.ask(&[untracked]).await?;
            self.tracked = false;
        }
        Ok(())
    }

    /// Asks questions of the proxy's own.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&mut self, questions: &[Question]) -> Result<Vec<crate::exchange::ask::Told>, AskError> {
        let asked = ask(
            &mut self.backend.peer,
            self.backend.capabilities,
            questions,
            &self.link,
        );
        let told = tokio::time::timeout(OWN_QUESTIONS, asked)
            .await
            .map_err(silent)??;
        if let Some(last) = told.last() {
            self.backend.status = last.done.status;
        }
        Ok(told)
    }

    /// Has a statement closed with the next command.
    pub fn close_later(&mut self, statement: Option<u32>) {
        self.to_close.extend(statement);
    }

    /// The packets that close what is to be closed; the next command goes behind them.
    pub fn closing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for statement in self.to_close.drain(..) {
            encode_packet(&mut bytes, 0, &crate::statements::close(statement));
        }
        bytes
    }

    /// Whether nobody but this connection knows what its last session's `LAST_INSERT_ID()` is.
    pub fn knows_insert_id(&self) -> bool {
        let here = LastInsertId::At(self.serial);
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.last_insert_id.get() == here)
    }

    /// Before it becomes another session's: finds out what the last one's `LAST_INSERT_ID()` is, if only this
    /// connection knows.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn settle(&mut self) -> Result<(), AskError> {
        if !self.knows_insert_id() {
            self.owner = None;
            return Ok(());
        }
        let Some(owner) = self.owner.clone() else {
            return Ok(());
        };
        // Whatever goes wrong, the id is not to be guessed.
        let told = self.ask(&[Question::query(b"SELECT LAST_INSERT_ID()")]).await;
        let found = told.as_ref().ok().and_then(|told| {
            let value = told.first()?.row().ok()?.into_iter().next()??;
            std::str::from_utf8(&value).ok()?.parse().ok()
        });
        owner
            .last_insert_id
            .set(found.map_or(LastInsertId::Lost, LastInsertId::Known));
        self.owner = None;
        told.map(|_| ())
    }

    /// Whether it can still be used: open, silent and not ended.
    pub async fn is_good(&mut self) -> bool {
        self.link.ended().is_none() && is_quiet(&mut self.backend.peer).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.knows_insert_id()
            && let Some(owner) = &self.owner
        {
            owner.last_insert_id.set(LastInsertId::Lost);
        }
        if self.link.ended().is_some() {
            self.backend.peer.abort_on_drop();
        }
    }
}

/// What a user is allowed, in both servers' words. Nobody needs a right to ask it of itself.
const RIGHTS: &[u8] = b"SHOW GRANTS";

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

fn silent(_: tokio::time::error::Elapsed) -> AskError {
    AskError::Io(std::io::ErrorKind::TimedOut.into())
}

fn question(setup: Setup) -> Question {
    match setup {
        Setup::Sql(sql) => Question::query(&sql),
        Setup::InitDb(name) => Question::new(Command::InitDb, &name, Expect::ResetOrPing),
    }
}

/// The name of the isolation level's variable that every supported version has.
pub fn isolation_variable(engine: Engine) -> &'static str {
    match engine {
        Engine::MariaDb => "tx_isolation",
        Engine::MySql => "transaction_isolation",
    }
}

/// The statement that has a server report what it must. Names one by one: with `*`, MySQL reports the number of each
/// prepared statement.
fn tracking(engine: Engine) -> Vec<u8> {
    let mut names = TRACKED.join(",");
    names.push(',');
    names.push_str(isolation_variable(engine));
    let gtids = match engine {
        Engine::MariaDb => {
            names.push_str(",last_gtid");
            ""
        }
        Engine::MySql => ",SESSION session_track_gtids=OWN_GTID",
    };
    format!(
        "SET SESSION session_track_system_variables='{names}',SESSION session_track_schema=ON,\
         SESSION session_track_state_change=ON{gtids}"
    )
    .into_bytes()
}
