//! The OK packet that lets a client in: what the database says to a fresh login, with what is this client's own. Pure.

use pontoon_mysql_wire::{Capabilities, OkPacket, SessionState, StatusFlags, WireError};

/// The length of what MariaDB, from 11.4 on, says in the text of the OK packet about the certificate and the password:
/// what it is, and a SHA-256 in hexadecimal digits.
const PROOF_LEN: usize = 1 + 64;

/// What the client is let in with.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// The default database that it has now.
    pub database: Option<&'a [u8]>,
    /// What vouches for the proxy's own certificate, for a server that does such a thing.
    pub proof: &'a [u8],
    /// It has become another user by COM_CHANGE_USER.
    pub again: bool,
}

impl Welcome<'_> {
    /// The payload for a client with these capabilities, and the status in it. `ok` is the payload that the connection
    /// of the same user was let in with, under `agreed`.
    ///
    /// # Errors
    /// [`WireError`] when that is no OK packet.
    pub fn after(
        &self,
        ok: &[u8],
        agreed: Capabilities,
        client: Capabilities,
    ) -> Result<(Vec<u8>, StatusFlags), WireError> {
        let model = OkPacket::parse(ok, agreed)?;
        let mut state = Vec::new();
        for one in model.session_state() {
            match one? {
                // The connection may have been another client's, with another one.
                SessionState::Schema(_) => {}
                SessionState::SystemVariable(..) if self.again => {}
                other => other.write(&mut state),
            }
        }
        if let Some(database) = self.database {
            SessionState::Schema(database).write(&mut state);
        }
        let proves = model.info.len() == PROOF_LEN && model.info.first() == Some(&1);
        let ok = OkPacket {
            info: match proves {
                // Only a login proves anything.
                true if self.again => &[],
                true => self.proof,
                false => model.info,
            },
            state: &state,
            ..model
        };
        let mut payload = Vec::new();
        ok.write(&mut payload, OkPacket::HEADER, client);
        Ok((payload, model.status.without(StatusFlags::SESSION_STATE_CHANGED)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: Capabilities = Capabilities(
        Capabilities::PROTOCOL_41.0 | Capabilities::SESSION_TRACK.0 | Capabilities::TRANSACTIONS.0,
    );

    fn model(info: &[u8]) -> Vec<u8> {
        let mut state = Vec::new();
        SessionState::SystemVariable(b"autocommit", b"ON").write(&mut state);
        SessionState::Schema(b"another").write(&mut state);
        let ok = OkPacket {
            affected_rows: 0,
            last_insert_id: 0,
            status: StatusFlags::AUTOCOMMIT,
            warnings: 0,
            info,
            state: &state,
        };
        let mut payload = Vec::new();
        ok.write(&mut payload, OkPacket::HEADER, AGREED);
        payload
    }

    fn said(welcome: &Welcome<'_>, model: &[u8], client: Capabilities) -> (Vec<u8>, Vec<String>) {
        let (payload, status) = welcome.after(model, AGREED, client).unwrap();
        assert_eq!(status, StatusFlags::AUTOCOMMIT);
        let ok = OkPacket::parse(&payload, client).unwrap();
        let state = ok.session_state().map(|one| format!("{:?}", one.unwrap()));
        (ok.info.to_vec(), state.collect())
    }

    #[test]
    fn the_database_is_the_clients_own_and_the_proof_is_the_proxys() {
        let proof = [&[1][..], &[b'A'; 64]].concat();
        let theirs = model(&[&[1][..], &[b'0'; 64]].concat());
        let mut welcome = Welcome {
            database: Some(b"mine"),
            proof: &proof,
            again: false,
        };
        let variable = format!("{:?}", SessionState::SystemVariable(b"autocommit", b"ON"));
        let schema = format!("{:?}", SessionState::Schema(b"mine"));
        assert_eq!(
            said(&welcome, &theirs, AGREED),
            (proof.clone(), vec![variable.clone(), schema.clone()])
        );
        // A server that proves nothing is not made to.
        assert_eq!(said(&welcome, &model(b""), AGREED).0, b"");
        welcome.database = None;
        assert_eq!(said(&welcome, &model(b""), AGREED).1, [variable]);
        welcome.again = true;
        assert_eq!(said(&welcome, &theirs, AGREED), (Vec::new(), Vec::new()));
        welcome.again = false;
        // A client that tracks nothing gets no state.
        let old = AGREED.without(Capabilities::SESSION_TRACK);
        assert_eq!(said(&welcome, &theirs, old).0, proof);
        assert!(welcome.after(b"\xff", AGREED, AGREED).is_err());
    }
}
