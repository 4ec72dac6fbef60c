//! One thread's connections and sessions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_fleet::{PoolReport, Role, ServerName};
use pontoon_mysql_wire::{ErrorPacket, StatusFlags, error_code};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Identity, Key};
use super::line::{InLine, Lines};
use super::places::Places;
use super::shelf::{Left, Shelf, Token};
use crate::auth::Proven;
use crate::backend::{AttemptError, Login, LoginError, attempt_as, login};
use crate::boundary::Lane;
use crate::context::Context;
use crate::exchange::ask::AskError;
use crate::exchange::{End, Link};
use crate::front::Keys;
use crate::hold::{self, Begun, NotOpened};
use crate::peer::Peer;
use crate::preface::Purpose;
use crate::session::route::Side;
use crate::session::state::State;
use crate::target::{Pin, Target, Way};

/// Connections that one server takes from this process before it has said how many it takes at all.
const FIRST_LIMIT: usize = 8;
/// How long a read waits for a connection to a replica while all are in use: the primary may have one.
const REPLICA_QUEUE: Duration = Duration::from_millis(200);
/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks at what is idle.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(10);

/// The database servers that the process has connections to, by number.
#[derive(Debug, Default)]
pub struct Directory {
    servers: Mutex<Vec<(ServerName, Arc<Places>)>>,
    /// Told when somebody waits for a place.
    wanted: Arc<Notify>,
}

impl Directory {
    /// The number of a server and its places.
    pub fn find(&self, server: &ServerName) -> (usize, Arc<Places>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = servers.iter().position(|(name, _)| name == server);
        let at = known.unwrap_or_else(|| {
            servers.push((server.clone(), Places::new(FIRST_LIMIT, Arc::clone(&self.wanted))));
            servers.len() - 1
        });
        (at, Arc::clone(&servers[at].1))
    }

    /// How the connections to each server stand.
    pub fn standing(&self) -> Vec<PoolReport> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let each = servers.iter().map(|(server, places)| PoolReport {
            server: server.clone(),
            used: places.taken() as u64,
            limit: places.limit() as u64,
            waiting: places.waiting() as u64,
        });
        each.collect()
    }
}

/// A database that connections are needed to.
#[derive(Debug)]
pub struct Database {
    /// As what.
    pub side: Side,
    /// Whose, and of which epoch.
    pub pin: Pin,
    /// The way to it.
    pub way: Way,
    /// The server's number in the process.
    pub server: usize,
    /// How many connections there may be to it.
    pub places: Arc<Places>,
}

/// The databases of the present target.
#[derive(Debug, Default)]
pub struct Databases {
    /// The primary, if there is one, also while it is about to hand over.
    pub primary: Option<Rc<Database>>,
    /// The replicas.
    pub replicas: Vec<Rc<Database>>,
}

impl Databases {
    fn of(target: &Target, directory: &Directory) -> Rc<Databases> {
        let database = |side, pin: &Pin, way: &Way| {
            let (server, places) = directory.find(&pin.server);
            Rc::new(Database {
                side,
                pin: pin.clone(),
                way: way.clone(),
                server,
                places,
            })
        };
        Rc::new(Databases {
            primary: match target.serving() {
                Ok(primary) => Some(database(Side::Primary, &primary.pin, &primary.way)),
                Err(_) => None,
            },
            replicas: target
                .replicas
                .iter()
                .map(|replica| database(Side::Replica, &replica.pin, &replica.way))
                .collect(),
        })
    }
}

/// What a connection is needed for.
#[derive(Debug)]
pub struct Need<'a> {
    /// Whose.
    pub identity: &'a Rc<Identity>,
    /// To a replica; `None` for the primary, whichever it is.
    pub replica: Option<&'a Rc<Database>>,
    /// What the session has set.
    pub state: &'a Rc<State>,
    /// Which login it is for: see [`Thread::login`].
    pub login: u64,
    /// It ends what others do, and waits for none of them: there is a place for it, over the limit if need be.
    pub urgent: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// The client closed.
    ClientGone,
    /// No primary came in time.
    NoPrimary(String),
    /// All connections are in use, and were for as long as may be waited.
    Busy {
        /// How many there are.
        limit: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// The database refused.
    Refused(ErrorPacket),
    /// It could not be used.
    Failed(String),
}

impl From<AskError> for NoConnection {
    fn from(error: AskError) -> NoConnection {
        match error {
            AskError::Refused(packet) => NoConnection::Refused(packet),
            other => NoConnection::Failed(other.to_string()),
        }
    }
}

/// A connection, whoever has it: what it leads to, and how it is ended.
type Known = (Side, Pin, Weak<Link>);

/// What the sessions of one thread share.
#[derive(Debug)]
pub struct Thread {
    /// What the whole process shares.
    pub context: Arc<Context>,
    shelf: RefCell<Shelf<Box<Connection>>>,
    /// Connections that are in use or on the shelf, to be ended.
    links: RefCell<HashMap<u64, Known>>,
    /// Sessions by their number.
    pub sessions: RefCell<HashMap<u32, Rc<Link>>>,
    identities: RefCell<Vec<Weak<Identity>>>,
    targets: RefCell<watch::Receiver<Target>>,
    /// Those of the target that was obeyed last.
    databases: RefCell<Rc<Databases>>,
    /// Accounts of the present primary.
    pub directory: crate::auth::Directory,
    /// Passwords that were proven.
    pub proven: Proven,
    /// The proxy's own keys.
    pub keys: Arc<Keys>,
    serial: Cell<u64>,
    /// How many logins there were.
    logins: Cell<u64>,
    /// Those who wait for a connection, in their order.
    lines: Lines,
    /// How many of them look whether there is one.
    waiting: Cell<usize>,
    left: Notify,
    /// Sessions of this thread that have a statement or a transaction under way.
    pub lane: Arc<Lane>,
    ender: mpsc::UnboundedSender<u32>,
    ends: RefCell<Option<mpsc::UnboundedReceiver<u32>>>,
}

impl Thread {
    /// The state of one thread.
    pub fn new(context: Arc<Context>, keys: Arc<Keys>) -> Rc<Thread> {
        let mut targets = context.targets.clone();
        let databases = Databases::of(&targets.borrow_and_update(), &context.directory);
        let (ender, ends) = mpsc::unbounded_channel();
        let directory = crate::auth::Directory::new(context.account_file.clone());
        let lane = context.boundary.lane();
        Rc::new(Thread {
            lane,
            context,
            shelf: RefCell::default(),
            links: RefCell::default(),
            sessions: RefCell::default(),
            identities: RefCell::default(),
            targets: RefCell::new(targets),
            databases: RefCell::new(databases),
            directory,
            proven: Proven::default(),
            keys,
            serial: Cell::new(0),
            logins: Cell::new(0),
            lines: Lines::default(),
            waiting: Cell::new(0),
            left: Notify::new(),
            ender,
            ends: RefCell::new(Some(ends)),
        })
    }

    /// The one value of an identity: equal ones share their connections.
    pub fn identity(&self, wanted: Identity) -> Rc<Identity> {
        let mut known = self.identities.borrow_mut();
        known.retain(|one| one.strong_count() > 0);
        let same = |one: &Identity| {
            one.user == wanted.user
                && one.fingerprint == wanted.fingerprint
                && one.flags == wanted.flags
                && one.collation == wanted.collation
                && one.transport == wanted.transport
                && one.tls == wanted.tls
                && !one.alone
                && !wanted.alone
        };
        if let Some(found) = known.iter().filter_map(Weak::upgrade).find(|one| same(one)) {
            return found;
        }
        let new = Rc::new(wanted);
        known.push(Rc::downgrade(&new));
        new
    }

    /// The number of a login that begins now. What a connection was allowed before is not what its client is allowed.
    pub fn login(&self) -> u64 {
        self.logins.set(self.logins.get() + 1);
        self.logins.get()
    }

    /// Where the numbers of sessions that are to end are sent.
    pub fn ender(&self) -> mpsc::UnboundedSender<u32> {
        self.ender.clone()
    }

    /// The databases now.
    pub fn databases(&self) -> Rc<Databases> {
        self.obey();
        Rc::clone(&self.databases.borrow())
    }

    /// Whether there is a primary at the moment.
    pub fn has_primary(&self) -> bool {
        self.databases().primary.is_some()
    }

    /// Obeys a new target at once, in case there is one: no byte goes to a database of an old epoch.
    pub fn obey(&self) {
        let target = {
            let mut targets = self.targets.borrow_mut();
            if !targets.has_changed().unwrap_or(false) {
                return;
            }
            targets.borrow_and_update().clone()
        };
        *self.databases.borrow_mut() = Databases::of(&target, &self.context.directory);
        let permitted = |side: Side, pin: &Pin| match side {
            Side::Primary => target.permits(pin),
            Side::Replica => target.permits_replica(pin),
        };
        self.links.borrow_mut().retain(|_, (side, pin, link)| {
            let Some(link) = link.upgrade() else {
                return false;
            };
            if !permitted(*side, pin) {
                self.context.counters.demoted.fetch_add(1, Relaxed);
                link.end(End::Demoted);
            }
            true
        });
        let swept = self
            .shelf
            .borrow_mut()
            .sweep(std::time::Instant::now(), |one, _| one.link.ended().is_some());
        drop(swept);
    }

    /// Takes back what a session left, if it is still there and good.
    pub async fn claim(&self, token: Token) -> Option<Box<Connection>> {
        self.obey();
        let mut connection = self.shelf.borrow_mut().claim(token)?;
        connection.is_good().await.then_some(connection)
    }

    /// Whether what a session left is still there.
    pub fn leave(&self, mut connection: Box<Connection>, left: Left) -> Option<Token> {
        let ended = connection.link.ended().is_some();
        // Somebody of another thread waits, and nobody here: the place is worth more than the connection.
        let elsewhere = self.waiting.get() == 0 && connection.is_wanted();
        if ended {
            return None;
        }
        if connection.backend.status.has(StatusFlags::IN_TRANS) {
            tracing::error!(server = %connection.backend.pin.server, "a connection was left within a transaction; it is closed");
            return None;
        }
        if elsewhere {
            retire(connection);
            return None;
        }
        let free = left.free || self.waiting.get() > 0;
        if left.free {
            connection.owner = None;
        }
        let left = Left {
            free: left.free,
            ..left
        };
        let token = self
            .shelf
            .borrow_mut()
            .leave(connection, left, std::time::Instant::now());
        if free && self.waiting.get() > 0 {
            self.left.notify_one();
        }
        Some(token)
    }

    /// Says that the session which left it has ended.
    pub fn set_free(&self, token: Token) {
        self.shelf.borrow_mut().set_free(token);
    }

    /// Finds a connection for who needs one.
    ///
    /// # Errors
    /// [`NoConnection`].
    pub async fn acquire(
        &self,
        need: &Need<'_>,
        client: Option<&Peer>,
    ) -> Result<Box<Connection>, NoConnection> {
        let began = Instant::now();
        let queue = self.context.limits.queue;
        let deadline = began + need.replica.map_or(queue, |_| queue.min(REPLICA_QUEUE));
        let mut in_line: Option<InLine<'_>> = None;
        let mut last = String::new();
        let mut queued = None;
        for attempt in 0.. {
            self.obey();
            let database = match need.replica {
                Some(database) => Rc::clone(database),
                None => self.primary(client).await?,
            };
            let (server, places) = (database.server, &database.places);
            let key = Key {
                identity: Rc::clone(need.identity),
                side: database.side,
                server,
            };
            let mine = match &in_line {
                _ if need.urgent => true,
                Some(in_line) if in_line.server() == server => in_line.is_first(),
                _ => self.lines.is_empty(server),
            };
            if !mine {
                queued.get_or_insert_with(|| self.context.metrics.queue());
                let place = match in_line.take().filter(|place| place.server() == server) {
                    Some(place) => in_line.insert(place),
                    None => in_line.insert(self.lines.join(server)),
                };
                tokio::select! {
                    first = timeout_at(deadline, place.until_first()) => match first {
                        Ok(()) => continue,
                        Err(_) => return Err(busy(places, began)),
                    },
                    () = gone(client) => return Err(NoConnection::ClientGone),
                }
            }
            if let Some(found) = self.take_free(&key, need).await {
                return Ok(found);
            }
            let place = match need.urgent {
                true => Some(places.take().unwrap_or_else(|| places.take_one_more())),
                false => places.take(),
            };
            if let Some(place) = place {
                match self.open(&database, key.clone(), need, client, place).await {
                    Ok(opened) => {
                        self.learn_limit(places, &opened);
                        return Ok(opened);
                    }
                    // The database died between its greeting and the end of the login: nothing was asked of it yet.
                    Err(NoConnection::Failed(reason)) if need.replica.is_none() && attempt < 20 => {
                        last = reason;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        if Instant::now() < deadline {
                            continue;
                        }
                        return Err(NoConnection::Failed(last));
                    }
                    // Others take connections too: as many as there are now are what can be had.
                    Err(NoConnection::Refused(packet))
                        if packet.code == error_code::TOO_MANY_CONNECTIONS && Instant::now() < deadline =>
                    {
                        places.set_limit(places.taken());
                        last = packet.text();
                    }
                    Err(other) => return Err(other),
                }
            }
            if let Some(stolen) = self.steal(&key, need).await {
                return Ok(stolen);
            }
            let given_up = self.shelf.borrow_mut().give_up(server);
            if let Some(mut one) = given_up {
                // When it cannot say what its session may want to know, nobody can.
                let _ = one.settle().await;
                drop(one);
                continue;
            }
            queued.get_or_insert_with(|| self.context.metrics.queue());
            if in_line.as_ref().is_none_or(|place| place.server() != server) {
                in_line = Some(self.lines.join(server));
            }
            tokio::select! {
                in_time = self.wait(places, deadline) => if !in_time {
                    return Err(busy(places, began));
                },
                () = gone(client) => return Err(NoConnection::ClientGone),
            }
        }
        Err(NoConnection::Failed(last))
    }

    async fn primary(&self, client: Option<&Peer>) -> Result<Rc<Database>, NoConnection> {
        if let Some(primary) = &self.databases().primary {
            return Ok(Rc::clone(primary));
        }
        let mut targets = self.context.targets.clone();
        let hold = targets.borrow().hold;
        let began = Instant::now();
        let mut held = None;
        loop {
            // Whoever asks has passed the boundary: a hand-over waits for it.
            let reason = match targets.borrow_and_update().serving() {
                Ok(_) => String::new(),
                Err(reason) => reason.to_string(),
            };
            if let Some(primary) = &self.databases().primary {
                return Ok(Rc::clone(primary));
            }
            held.get_or_insert_with(|| self.context.metrics.hold());
            let changed = tokio::select! {
                changed = timeout_at(began + hold, targets.changed()) => changed,
                () = gone(client) => return Err(NoConnection::ClientGone),
            };
            if !matches!(changed, Ok(Ok(()))) {
                let waited = began.elapsed().as_secs_f64();
                return Err(NoConnection::NoPrimary(format!("{reason}; waited {waited:.1} s")));
            }
            self.obey();
        }
    }

    async fn take_free(&self, key: &Key, need: &Need<'_>) -> Option<Box<Connection>> {
        loop {
            let mut found = self
                .shelf
                .borrow_mut()
                .take_free(key, |one| one.effort(need.state))?;
            if found.is_good().await && self.vet(&mut found, need).await {
                found.owner = None;
                return Some(found);
            }
        }
    }

    async fn steal(&self, key: &Key, need: &Need<'_>) -> Option<Box<Connection>> {
        loop {
            let mut found = self
                .shelf
                .borrow_mut()
                .steal(key, |one| one.effort(need.state).is_some())?;
            if found.is_good().await && found.settle().await.is_ok() && self.vet(&mut found, need).await {
                return Some(found);
            }
        }
    }

    /// Whether the connection may do what a new one of this login may. What may not is given up: its own rights are
    /// those of an earlier time.
    async fn vet(&self, connection: &mut Connection, need: &Need<'_>) -> bool {
        if connection.vetted >= need.login {
            return true;
        }
        let now = self.logins.get();
        match connection.vet(need.state).await {
            Ok(same) => {
                connection.vetted = now;
                same
            }
            Err(error) => {
                tracing::debug!(%error, "a connection is not what a new login would be");
                false
            }
        }
    }

    /// Waits until a connection or a place may be had; false when time is up.
    async fn wait(&self, places: &Places, deadline: Instant) -> bool {
        let _waiting = places.wait();
        let _waits = Waits::here(&self.waiting);
        let told = timeout_at(deadline, async {
            tokio::select! {
                () = self.left.notified() => {}
                () = places.emptied.notified() => {}
                // What others leave without a word, such as what lingers.
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        })
        .await;
        told.is_ok()
    }

    async fn open(
        &self,
        database: &Database,
        key: Key,
        need: &Need<'_>,
        client: Option<&Peer>,
        place: super::places::TakenPlace,
    ) -> Result<Box<Connection>, NoConnection> {
        let transport = key.identity.transport;
        let opened = match database.side {
            Side::Primary => match hold::open(&self.context, client, transport, Begun::Yes).await {
                Ok(opened) => opened,
                Err(NotOpened::ClientGone) => return Err(NoConnection::ClientGone),
                Err(NotOpened::TimedOut { waited, obstacle }) => {
                    let text = format!("{obstacle}; waited {:.1} s", waited.as_secs_f64());
                    return Err(NoConnection::NoPrimary(text));
                }
            },
            Side::Replica => attempt_as(
                Purpose::Replica,
                &database.pin,
                &database.way,
                transport,
                &self.context.tls,
                self.context.limits.first_attempt,
            )
            .await
            .map_err(|error: AttemptError| NoConnection::Failed(error.to_string()))?,
        };
        // The primary may have changed while this one was held.
        let (server, _) = self.context.directory.find(&opened.pin.server);
        let key = Key { server, ..key };
        let pin = opened.pin.clone();
        let wanted = need.state.database.as_deref();
        let vetted = self.logins.get();
        let who = Login {
            user: &key.identity.user,
            secret: &key.identity.secret,
            database: wanted,
            capabilities: key.identity.flags,
            collation: key.identity.collation,
            attributes: &[],
            tls: key.identity.tls,
        };
        let backend = login(opened, &who, LOGIN).await.map_err(|error| match error {
            LoginError::Refused(packet) => NoConnection::Refused(packet),
            other => NoConnection::Failed(other.to_string()),
        })?;
        let side = key.side;
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let mut connection = Connection::set_up(backend, key, serial, wanted, place).await?;
        connection.vetted = vetted;
        self.links
            .borrow_mut()
            .insert(serial, (side, pin, Rc::downgrade(&connection.link)));
        Ok(connection)
    }

    /// This process's share of the connections that a server takes: four fifths of them, over all proxies.
    fn share(&self, max_connections: usize) -> usize {
        let views = self.context.views.borrow();
        let proxies = views.as_ref().map_or(1, |view| {
            let has = |role| view.with_role(role).count();
            has(Role::App).max(has(Role::Db)).max(1)
        });
        (max_connections * 4 / 5 / proxies).max(2)
    }

    fn learn_limit(&self, places: &Places, connection: &Connection) {
        let share = self.share(connection.facts.max_connections);
        if places.limit() != share {
            places.set_limit(share);
        }
    }

    /// Adopts a connection that was made elsewhere: one that a client's own authentication led to. It is there already:
    /// it counts, but no limit refuses it.
    ///
    /// # Errors
    /// [`NoConnection`].
    pub async fn adopt(
        &self,
        backend: crate::backend::Backend,
        identity: &Rc<Identity>,
        database: Option<&[u8]>,
    ) -> Result<Box<Connection>, NoConnection> {
        let pin = backend.pin.clone();
        let (server, places) = self.context.directory.find(&pin.server);
        let place = places.take_one_more();
        let key = Key {
            identity: Rc::clone(identity),
            side: Side::Primary,
            server,
        };
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let mut connection = Connection::set_up(backend, key, serial, database, place).await?;
        connection.vetted = self.logins.get();
        self.learn_limit(&places, &connection);
        self.links
            .borrow_mut()
            .insert(serial, (Side::Primary, pin, Rc::downgrade(&connection.link)));
        Ok(connection)
    }

    /// Keeps the thread's connections in order until the process closes.
    pub async fn tend(self: Rc<Thread>) {
        let mut targets = self.context.targets.clone();
        let mut sweep = tokio::time::interval(SWEEP);
        let wanted = Arc::clone(&self.context.directory.wanted);
        let ends = self.ends.borrow_mut().take();
        let Some(mut ends) = ends else {
            return;
        };
        loop {
            tokio::select! {
                changed = targets.changed() => match changed {
                    Ok(()) => self.obey(),
                    Err(_) => return,
                },
                _ = sweep.tick() => self.sweep(),
                () = wanted.notified() => self.give_to_others(),
                Some(id) = ends.recv() => {
                    let link = self.sessions.borrow().get(&id).cloned();
                    if let Some(link) = link {
                        link.end(End::Killed);
                    }
                }
                () = self.context.closing.cancelled() => {
                    for link in self.sessions.borrow().values() {
                        link.end(End::Closing);
                    }
                    return;
                }
            }
        }
    }

    fn sweep(&self) {
        let now = std::time::Instant::now();
        let old = self
            .shelf
            .borrow_mut()
            .sweep(now, |one, age| age > IDLE || one.link.ended().is_some());
        old.into_iter().for_each(retire);
        self.links
            .borrow_mut()
            .retain(|_, (_, _, link)| link.strong_count() > 0);
    }

    /// Another thread waits for a place: closes one connection that nobody uses here.
    fn give_to_others(&self) {
        if self.waiting.get() > 0 {
            return;
        }
        let databases = self.databases();
        for database in databases.primary.iter().chain(&databases.replicas) {
            if database.places.anybody_waits() {
                let given_up = self.shelf.borrow_mut().give_up(database.server);
                given_up.into_iter().for_each(retire);
            }
        }
    }
}

/// Closes a connection that nobody uses, after asking it what its session may want to know.
fn retire(mut connection: Box<Connection>) {
    if connection.link.ended().is_none() && connection.knows_insert_id() {
        tokio::task::spawn_local(async move {
            // When it cannot say, nobody can.
            let _ = connection.settle().await;
        });
    }
}

fn busy(places: &Places, began: Instant) -> NoConnection {
    NoConnection::Busy {
        limit: places.limit(),
        waited: began.elapsed(),
    }
}

/// Somebody of this thread waits as long as this lives.
struct Waits<'a>(&'a Cell<usize>);

impl<'a> Waits<'a> {
    fn here(count: &'a Cell<usize>) -> Waits<'a> {
        count.set(count.get() + 1);
        Waits(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Until the client has closed; never without one.
async fn gone(client: Option<&Peer>) {
    match client {
        Some(client) => client.gone().await,
        None => std::future::pending().await,
    }
}
