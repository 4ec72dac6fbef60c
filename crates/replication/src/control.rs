//! The control connection: our own account, over the server's Unix socket.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Value};
use pontoon_fleet::{Code, Refusal};
use tokio::sync::Mutex;

/// How long a statement of the control connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the spare connection is tried, and how long it may take to say something.
const SPARE_LOOK: Duration = Duration::from_secs(5);
const SPARE_PATIENCE: Duration = Duration::from_secs(1);

/// The account's name.
pub(crate) const ACCOUNT: &str = "pontoon";

/// One connection, made when needed and again after it broke.
pub struct Control {
    socket: PathBuf,
    password: String,
    conn: Mutex<Option<Conn>>,
    spare: Mutex<Option<Spare>>,
}

/// A connection for the moment in which the server lets nobody in: a `GRANT` that waits for an acknowledgement holds a lock
/// that every login needs, and only another connection can end its wait.
struct Spare {
    session: Session,
    seen: Instant,
}

/// A connection of one's own, for statements that take long.
pub struct Session {
    conn: Conn,
}

/// A row as text, by column name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(Vec<(String, Option<String>)>);

impl Row {
    /// A row of these columns.
    pub fn new(columns: Vec<(String, Option<String>)>) -> Row {
        Row(columns)
    }

    /// The column's text; `None` for NULL and for a column that is not there.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(column))?
            .1
            .as_deref()
    }

    /// The column's number, 0 when it is none.
    pub fn number(&self, column: &str) -> u64 {
        self.get(column).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The first column's text.
    pub fn first(&self) -> Option<&str> {
        self.0.first()?.1.as_deref()
    }
}

impl Control {
    /// To the server that listens on `socket`.
    pub fn new(socket: PathBuf, password: String) -> Control {
        Control {
            socket,
            password,
            conn: Mutex::new(None),
            spare: Mutex::new(None),
        }
    }

    /// Runs one statement and returns its rows. A connection that broke since the last time is made anew, so every
    /// statement given here must be one that may run twice.
    ///
    /// # Errors
    /// [`Code::N002`] when the server does not answer, [`Code::D008`] when it refuses.
    pub async fn query(&self, statement: &str) -> Result<Vec<Row>, Refusal> {
        let mut slot = self.conn.lock().await;
        let was_open = slot.is_some();
        let mut conn = match slot.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        let mut outcome = timed(&mut conn, statement, PATIENCE).await;
        if was_open && matches!(outcome, Err(Failure::Lost(_))) {
            conn = self.connect().await?;
            outcome = timed(&mut conn, statement, PATIENCE).await;
        }
        if !matches!(outcome, Err(Failure::Lost(_))) {
            *slot = Some(conn);
        }
        outcome.map_err(|failure| failure.refusal(statement))
    }

    /// Runs statements, one after the other.
    ///
    /// # Errors
    /// The first one's that failed.
    pub async fn run<S: AsRef<str>>(&self, statements: &[S]) -> Result<(), Refusal> {
        for statement in statements {
            self.query(statement.as_ref()).await?;
        }
        Ok(())
    }

    /// A connection of one's own.
    ///
    /// # Errors
    /// [`Code::N002`], [`Code::D008`].
    pub async fn session(&self) -> Result<Session, Refusal> {
        Ok(Session {
            conn: self.connect().await?,
        })
    }

    /// Sees to it that there is a spare connection.
    ///
    /// # Errors
    /// As [`session`](Control::session).
    pub async fn keep_spare(&self) -> Result<(), Refusal> {
        // Who holds it sees to it.
        let Ok(mut slot) = self.spare.try_lock() else {
            return Ok(());
        };
        if let Some(spare) = slot.as_mut() {
            let lives = spare.seen.elapsed() < SPARE_LOOK || {
                spare.seen = Instant::now();
                spare.session.query("DO 0", SPARE_PATIENCE).await.is_ok()
            };
            if lives {
                return Ok(());
            }
        }
        *slot = None;
        let mut session = self.session().await?;
        // Longer than it will be without a word.
        session
            .query("SET SESSION wait_timeout = 86400", PATIENCE)
            .await?;
        let seen = Instant::now();
        *slot = Some(Spare { session, seen });
        Ok(())
    }

    /// Runs statements in a connection of their own: in the spare one if there is one that lives.
    ///
    /// # Errors
    /// As [`run`](Control::run).
    pub async fn run_apart<S: AsRef<str>>(&self, statements: &[S]) -> Result<(), Refusal> {
        let mut slot = self.spare.lock().await;
        if let Some(mut spare) = slot.take() {
            match spare.session.run(statements).await {
                Ok(()) => {
                    *slot = Some(spare);
                    return Ok(());
                }
                Err(refusal) => tracing::info!(%refusal, "the spare connection is of no use"),
            }
        }
        drop(slot);
        self.session().await?.run(statements).await
    }

    /// Forgets its connections: the server is about to stop.
    pub async fn close(&self) {
        if let Ok(mut spare) = self.spare.try_lock() {
            *spare = None;
        }
        if let Some(conn) = self.conn.lock().await.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), conn.disconnect()).await;
        }
    }

    /// Whether nobody takes connections at the socket. A server that only stands still does: the kernel takes them for it.
    pub async fn is_closed(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match tokio::net::UnixStream::connect(&self.socket).await {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), ConnectionRefused | NotFound),
        }
    }

    async fn connect(&self) -> Result<Conn, Refusal> {
        let options = OptsBuilder::default()
            .socket(Some(self.socket.to_string_lossy()))
            .user(Some(ACCOUNT))
            .pass(Some(&self.password))
            .prefer_socket(false)
            // Known beforehand, so that no statement is needed to ask for them.
            .max_allowed_packet(Some(16 << 20))
            .wait_timeout(Some(28_800));
        let connected = tokio::time::timeout(PATIENCE, Conn::new(options)).await;
        let away = |why: String| {
            Refusal::new(Code::N002, "the database does not answer")
                .because(format!("{}: {why}", self.socket.display()))
        };
        match connected {
            Err(_) => Err(away(format!("nothing within {} s", PATIENCE.as_secs()))),
            Ok(Err(mysql_async::Error::Server(error))) => {
                Err(Refusal::new(Code::D008, "the database refused Pontoon's account")
                    .because(error.to_string()))
            }
            Ok(Err(error)) => Err(away(error.to_string())),
            Ok(Ok(conn)) => Ok(conn),
        }
    }
}

impl Session {
    /// Runs one statement and returns its rows.
    ///
    /// # Errors
    /// As [`Control::query`].
    pub async fn query(&mut self, statement: &str, patience: Duration) -> Result<Vec<Row>, Refusal> {
        timed(&mut self.conn, statement, patience)
            .await
            .map_err(|failure| failure.refusal(statement))
    }

    async fn run<S: AsRef<str>>(&mut self, statements: &[S]) -> Result<(), Refusal> {
        for statement in statements {
            self.query(statement.as_ref(), PATIENCE).await?;
        }
        Ok(())
    }

    /// The server's id of this connection.
    pub fn id(&self) -> u32 {
        self.conn.id()
    }
}

enum Failure {
    /// The connection is of no more use.
    Lost(String),
    /// The server said no.
    Refused(String),
}

impl Failure {
    fn refusal(self, statement: &str) -> Refusal {
        match self {
            Failure::Lost(why) => Refusal::new(Code::N002, "the database does not answer").because(why),
            Failure::Refused(why) => Refusal::new(Code::D008, "the database refused a statement")
                .because(without_password(statement))
                .because(why),
        }
    }
}

async fn timed(conn: &mut Conn, statement: &str, patience: Duration) -> Result<Vec<Row>, Failure> {
    match tokio::time::timeout(patience, ask(conn, statement)).await {
        Err(_) => Err(Failure::Lost(format!(
            "no answer within {} s to: {}",
            patience.as_secs(),
            without_password(statement)
        ))),
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(mysql_async::Error::Server(error))) => Err(Failure::Refused(error.to_string())),
        Ok(Err(error)) => Err(Failure::Lost(error.to_string())),
    }
}

async fn ask(conn: &mut Conn, statement: &str) -> Result<Vec<Row>, mysql_async::Error> {
    let mut result = conn.query_iter(statement).await?;
    let rows: Vec<mysql_async::Row> = result.collect().await?;
    result.drop_result().await?;
    Ok(rows.into_iter().map(as_text).collect())
}

fn as_text(row: mysql_async::Row) -> Row {
    let names: Vec<String> = row
        .columns_ref()
        .iter()
        .map(|column| column.name_str().into_owned())
        .collect();
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    };
    Row(names
        .into_iter()
        .zip(row.unwrap().into_iter().map(text))
        .collect())
}

/// A statement for people's eyes: what stands in quotes after a password's keyword is not theirs to see.
pub(crate) fn without_password(statement: &str) -> String {
    let mut shown = statement.to_owned();
    for keyword in ["IDENTIFIED BY '", "MASTER_PASSWORD='", "SOURCE_PASSWORD='"] {
        if let Some((before, secret)) = shown.split_once(keyword) {
            let after = secret.split_once('\'').map_or("", |(_, after)| after);
            shown = format!("{before}{keyword}…'{after}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let shown = without_password("CREATE USER 'x'@'y' IDENTIFIED BY 'geheim' REQUIRE X509");
        assert_eq!(shown, "CREATE USER 'x'@'y' IDENTIFIED BY '…' REQUIRE X509");
        assert!(!without_password("CHANGE MASTER TO MASTER_PASSWORD='geheim").contains("geheim"));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_refusal() {
        let control = Control::new("/nonexistent/sock".into(), "x".to_owned());
        let refusal = control.query("SELECT 1").await.unwrap_err();
        assert_eq!(refusal.code, Code::N002);
    }
}
