//! Accounts, asked for at every login over one kept connection: a new password counts at once, and so does a dropped
//! user. Logins that come together are asked about together.
//!
//! One of these belongs to one thread, as its connections do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use pontoon_mysql_wire::{ErrorPacket, Greeting, ServerGreeting};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};

use super::accounts::Account;
use super::control::{Control, ControlError, OwnAccount};
use crate::backend::Opened;
use crate::packets::Packets;
use crate::target::{Pin, Transport};

/// The way to the present primary.
pub trait Dial {
    /// A connection to it that has greeted; or what the client is told when none can be had in time.
    fn open(&self, transport: Transport) -> impl Future<Output = Result<Opened, ErrorPacket>>;

    /// Whether a connection made under `pin` still leads to it.
    fn permits(&self, pin: &Pin) -> bool;
}

/// Names that are asked about at once.
const MAX_BATCH: usize = 64;

/// The longest name that a user can have: 32 characters in MySQL, 128 in MariaDB, of up to 4 bytes.
const MAX_NAME: usize = 512;

/// What waits for its accounts.
type Waiting = (Vec<u8>, oneshot::Sender<Vec<Account>>);

/// The accounts of the present primary.
#[derive(Debug)]
pub struct Directory {
    file: PathBuf,
    control: Mutex<Option<Control>>,
    waiting: RefCell<Vec<Waiting>>,
    model: RefCell<Option<(Pin, Arc<Greeting>)>>,
    demands_tls: Cell<bool>,
}

impl Directory {
    /// With the proxy's own account in `file`, which need not be there yet.
    pub fn new(file: PathBuf) -> Directory {
        Directory {
            file,
            control: Mutex::default(),
            waiting: RefCell::default(),
            model: RefCell::default(),
            demands_tls: Cell::new(false),
        }
    }

    /// How the present primary greets: what the proxy's own greeting is made after.
    ///
    /// # Errors
    /// What the client is told when there is no primary in time, or when it refuses everybody.
    pub async fn model(&self, dial: &impl Dial, transport: Transport) -> Result<Arc<Greeting>, ErrorPacket> {
        let known = self.model.borrow().clone();
        if let Some((pin, greeting)) = known
            && dial.permits(&pin)
        {
            return Ok(greeting);
        }
        let mut control = self.control.lock().await;
        match self.connect(dial).await {
            Ok(connected) => {
                let greeting = Arc::new(connected.greeting().clone());
                *control = Some(connected);
                return Ok(greeting);
            }
            Err(DirectoryError::Dial(packet)) => return Err(packet),
            Err(error) => tracing::warn!(%error, "accounts cannot be read: logins are relayed"),
        }
        let Opened { peer, first, pin, .. } = dial.open(transport).await?;
        let failed = || ErrorPacket::new(1043, pontoon_mysql_wire::SqlState::LINK_FAILURE, "Bad handshake");
        let payload = Packets::new(peer, &first).read().await.map_err(|_| failed())?;
        match ServerGreeting::parse(&payload).map_err(|_| failed())? {
            ServerGreeting::Refused(error) => Err(error),
            ServerGreeting::Ready(greeting) => {
                let greeting = Arc::new(greeting);
                *self.model.borrow_mut() = Some((pin, Arc::clone(&greeting)));
                Ok(greeting)
            }
        }
    }

    /// The accounts of `user` at the present primary, as they are now; `None` when they cannot be known.
    pub async fn accounts(&self, user: &[u8], dial: &impl Dial) -> Option<Vec<Account>> {
        if user.len() > MAX_NAME || std::str::from_utf8(user).is_err() {
            return None;
        }
        // Whoever asks for several may go away within the question.
        for _ in 0..3 {
            let (sender, mut receiver) = oneshot::channel();
            self.waiting.borrow_mut().push((user.to_vec(), sender));
            let mut control = self.control.lock().await;
            // Whoever had the connection before may have asked for this one too: after it was wanted.
            loop {
                match receiver.try_recv() {
                    Ok(accounts) => return Some(accounts),
                    Err(TryRecvError::Closed) => break,
                    Err(TryRecvError::Empty) => {}
                }
                let batch = self.next_batch();
                match self.ask(&mut control, &batch, dial).await {
                    Ok(mut found) => {
                        for (name, sender) in batch {
                            let accounts = found.remove(&name).unwrap_or_default();
                            found.insert(name, accounts.clone());
                            let _ = sender.send(accounts);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accounts cannot be read: logins are relayed");
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Whether the database takes nobody over TCP without TLS.
    pub fn demands_tls(&self) -> bool {
        self.demands_tls.get()
    }

    fn next_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|(_, sender)| !sender.is_closed());
        let count = waiting.len().min(MAX_BATCH);
        waiting.drain(..count).collect()
    }

    async fn ask(
        &self,
        slot: &mut Option<Control>,
        batch: &[Waiting],
        dial: &impl Dial,
    ) -> Result<HashMap<Vec<u8>, Vec<Account>>, DirectoryError> {
        let names = batch.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>();
        let kept = slot.take().filter(|control| dial.permits(control.pin()));
        let (mut control, was_kept) = match kept {
            Some(control) => (control, true),
            None => (self.connect(dial).await?, false),
        };
        let mut asked = control.accounts(&names).await;
        if was_kept && matches!(asked, Err(ControlError::Packet(_))) {
            // It ended while nobody asked.
            control = self.connect(dial).await?;
            asked = control.accounts(&names).await;
        }
        let rows = asked?;
        // An answer of a primary that is none any more is not one.
        if !dial.permits(control.pin()) {
            return Err(DirectoryError::Demoted);
        }
        *slot = Some(control);
        let mut found: HashMap<Vec<u8>, Vec<Account>> = HashMap::new();
        for (name, account) in rows {
            found.entry(name).or_default().push(account);
        }
        Ok(found)
    }

    async fn connect(&self, dial: &impl Dial) -> Result<Control, DirectoryError> {
        let account = OwnAccount::read(&self.file).ok_or(DirectoryError::NoAccount)?;
        let opened = dial.open(Transport::Unix).await.map_err(DirectoryError::Dial)?;
        let control = Control::connect(opened, &account).await?;
        let model = (control.pin().clone(), Arc::new(control.greeting().clone()));
        *self.model.borrow_mut() = Some(model);
        self.demands_tls.set(control.demands_tls());
        Ok(control)
    }
}

#[derive(Debug, thiserror::Error)]
enum DirectoryError {
    #[error("the proxy has no account of its own")]
    NoAccount,
    #[error("no primary: {0}")]
    Dial(ErrorPacket),
    #[error("the primary changed meanwhile")]
    Demoted,
    #[error(transparent)]
    Control(#[from] ControlError),
}
