//! Session state changes of an answer: what to keep of them, and what the client may see.

use crate::{SessionState, SessionStateReader, WireError, write};

/// How many bytes of session state are kept of one answer.
pub const MAX_COLLECTED: usize = 256 * 1024;

/// The variable in which MariaDB reports GTIDs.
const LAST_GTID: &[u8] = b"last_gtid";

/// What the results of one answer said about the session. Of what can be said more than once the last counts; GTIDs
/// add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// GTIDs that the answer's statements wrote: MySQL's GTID sets (`uuid:7`, `uuid:tag:8-9`), each as sent; MariaDB's
    /// `last_gtid` (`0-1-800`), the newest of each domain.
    pub gtids: Vec<Vec<u8>>,
    /// The default database; empty when there is none any more.
    pub schema: Option<Vec<u8>>,
    /// System variables with their values, `last_gtid` left out.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// `session_track_state_change`: something about the session changed.
    pub changed: bool,
    /// The statements that would open the transaction anew (`session_track_transaction_info`).
    pub transaction_characteristics: Option<Vec<u8>>,
    /// The transaction's state, eight characters.
    pub transaction_state: Option<Vec<u8>>,
    /// More than [`MAX_COLLECTED`] bytes were said and the rest was not kept: nothing is known of what is absent.
    pub incomplete: bool,
    /// Bytes kept.
    collected: usize,
}

impl Changes {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.collected == 0 && !self.changed && !self.incomplete
    }

    /// Adds what one OK packet said.
    ///
    /// # Errors
    /// [`WireError`] when the session state is not what the protocol says.
    pub fn add(&mut self, states: SessionStateReader<'_>) -> Result<(), WireError> {
        for state in states {
            match state? {
                SessionState::SystemVariable(name, value) if name.eq_ignore_ascii_case(LAST_GTID) => {
                    self.add_mariadb_gtid(value);
                }
                SessionState::SystemVariable(name, value) => self.add_variable(name, value),
                SessionState::Gtids(gtids) => {
                    if self.room_for(gtids.len()) {
                        self.gtids.push(gtids.to_vec());
                    }
                }
                SessionState::Schema(name) => {
                    if self.room_for(name.len()) {
                        self.schema = Some(name.to_vec());
                    }
                }
                SessionState::StateChange(flag) => self.changed |= flag == b"1",
                SessionState::TransactionCharacteristics(text) => {
                    if self.room_for(text.len()) {
                        self.transaction_characteristics = Some(text.to_vec());
                    }
                }
                SessionState::TransactionState(text) => {
                    if self.room_for(text.len()) {
                        self.transaction_state = Some(text.to_vec());
                    }
                }
                SessionState::Other(..) => {}
            }
        }
        Ok(())
    }

    /// `domain-server-sequence`: later ones of a domain include earlier ones.
    fn add_mariadb_gtid(&mut self, gtid: &[u8]) {
        if gtid.is_empty() || !self.room_for(gtid.len()) {
            return;
        }
        let domain = |gtid: &[u8]| gtid.iter().position(|byte| *byte == b'-');
        let older = domain(gtid)
            .map(|end| &gtid[..=end])
            .and_then(|prefix| self.gtids.iter_mut().find(|known| known.starts_with(prefix)));
        match older {
            Some(older) => gtid.clone_into(older),
            None => self.gtids.push(gtid.to_vec()),
        }
    }

    fn add_variable(&mut self, name: &[u8], value: &[u8]) {
        if !self.room_for(name.len() + value.len()) {
            return;
        }
        let older = self
            .variables
            .iter_mut()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        match older {
            Some((_, older)) => value.clone_into(older),
            None => self.variables.push((name.to_vec(), value.to_vec())),
        }
    }

    /// Counts what comes in, replaced or not, so that an answer without end costs no work without end either. The 64
    /// stand for the allocation around it.
    fn room_for(&mut self, len: usize) -> bool {
        let total = self.collected.saturating_add(len).saturating_add(64);
        if total > MAX_COLLECTED {
            self.incomplete = true;
            return false;
        }
        self.collected = total;
        true
    }
}

/// What the proxy tracks for itself and the client did not ask for: taken out of what the client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// MySQL's GTIDs. (MariaDB's are the variable `last_gtid`.)
    pub gtids: bool,
    /// The default database.
    pub schema: bool,
    /// That something changed.
    pub state_change: bool,
    /// The transaction's characteristics and state.
    pub transaction: bool,
    /// System variables by name, in any case.
    pub variables: Vec<Vec<u8>>,
}

impl Hidden {
    /// Whether the client must not see `state`.
    fn hides(&self, state: &SessionState<'_>) -> bool {
        match state {
            SessionState::SystemVariable(name, _) => self
                .variables
                .iter()
                .any(|hidden| hidden.eq_ignore_ascii_case(name)),
            SessionState::Schema(_) => self.schema,
            SessionState::StateChange(_) => self.state_change,
            SessionState::Gtids(_) => self.gtids,
            SessionState::TransactionCharacteristics(_) | SessionState::TransactionState(_) => {
                self.transaction
            }
            SessionState::Other(..) => false,
        }
    }

    /// The session state that is left; `None` when all of it is.
    ///
    /// # Errors
    /// [`WireError`] when the session state is not what the protocol says.
    pub(super) fn filter(&self, states: SessionStateReader<'_>) -> Result<Option<Vec<u8>>, WireError> {
        let mut any = false;
        for state in states.clone() {
            any |= self.hides(&state?);
        }
        if !any {
            return Ok(None);
        }
        let mut left = Vec::new();
        for state in states {
            let state = state?;
            if !self.hides(&state) {
                state.write(&mut left);
            }
        }
        Ok(Some(left))
    }
}

impl SessionState<'_> {
    /// Appends it to the session state of an OK packet, as one entry. Several system variables of one entry become one entry each, as MySQL sends them.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut entry = |kind: u8, prefix: &[u8], first: &[u8], second: Option<&[u8]>| {
            let mut data = prefix.to_vec();
            write::lenenc_bytes(&mut data, first);
            if let Some(second) = second {
                write::lenenc_bytes(&mut data, second);
            }
            out.push(kind);
            write::lenenc_bytes(out, &data);
        };
        match *self {
            SessionState::SystemVariable(name, value) => entry(0, b"", name, Some(value)),
            SessionState::Schema(name) => entry(1, b"", name, None),
            SessionState::StateChange(flag) => {
                out.push(2);
                write::lenenc_bytes(out, flag);
            }
            SessionState::Gtids(gtids) => entry(3, b"\0", gtids, None),
            SessionState::TransactionCharacteristics(text) => entry(4, b"", text, None),
            SessionState::TransactionState(text) => entry(5, b"", text, None),
            SessionState::Other(kind, data) => {
                out.push(kind);
                write::lenenc_bytes(out, data);
            }
        }
    }
}
