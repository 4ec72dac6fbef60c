//! The packets of an answer that are looked at: OK, EOF, ERR and what begins a result.

use super::walker::{At, Of, OutParams};
use super::{Expect, Outcome, Prepared, ReplyWalker, Step};
use crate::{
    Capabilities, EofPacket, ErrorPacket, HEADER_LEN, OkPacket, Reader, SqlState, StatusFlags, WireError,
};

/// What is said of a row of out-parameters.
const OUT_PARAMS: StatusFlags =
    StatusFlags(StatusFlags::PS_OUT_PARAMS.0 | StatusFlags::MORE_RESULTS_EXISTS.0);

/// The error code that makes an ERR packet a progress report (MariaDB: "ERR_Packet").
const PROGRESS: u16 = 0xFFFF;

impl ReplyWalker {
    /// A packet that is whole and neither row, definition nor text.
    pub(super) fn control(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Option<Step>, WireError> {
        let first = payload.first().copied().unwrap_or(ErrorPacket::HEADER);
        if first == ErrorPacket::HEADER {
            return self.error(payload, out);
        }
        match (self.at, first) {
            (At::DefinitionsEnd(of), _) => self.definitions_end(of, payload, out),
            (At::First, OkPacket::HEADER) if self.expect == Expect::Prepare => self.prepared(payload, out),
            (At::First, OkPacket::HEADER) => {
                let ok = OkPacket::parse(payload, self.backend)?;
                self.affected_rows = ok.affected_rows;
                self.result_end(payload, &ok, out)
            }
            (At::First, OkPacket::AS_EOF) if self.expect != Expect::Prepare => self.rows_end(payload, out),
            (At::First, _) if !matches!(self.expect, Expect::Simple | Expect::Execute) => {
                Err(WireError::Malformed("neither OK nor ERR"))
            }
            (At::First, 0xFB) => self.local_infile(payload, out).map(Some),
            (At::First, _) => self.column_count(payload, out),
            (At::FirstRow | At::Rows, _) => self.rows_end(payload, out),
            _ => Err(WireError::Malformed("a packet that has no place in this answer")),
        }
    }

    /// Behind a row: says in the EOF packet before it that it was one of out-parameters.
    fn mark_out_params(&mut self, status: StatusFlags, out: &mut [u8]) {
        const STATUS: usize = HEADER_LEN + 3;
        if let Some(at) = self.held_at.take()
            && status.has(StatusFlags::PS_OUT_PARAMS)
            && let Some(place) = out.get_mut(at + STATUS..)
            && let Some(place) = place.first_chunk_mut::<2>()
        {
            let said = StatusFlags(u16::from_le_bytes(*place)) | StatusFlags(status.0 & OUT_PARAMS.0);
            *place = said.0.to_le_bytes();
        }
    }

    fn error(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Option<Step>, WireError> {
        let error = ErrorPacket::parse(payload)?;
        if error.code == PROGRESS {
            let takes = Capabilities::MARIADB_PROGRESS.0 | Capabilities::PROGRESS_OBSOLETE.0;
            if self.client.0 & takes != 0 {
                self.packet(out, |out| out.extend_from_slice(payload));
            }
            return Ok(None);
        }
        self.begin_data(out);
        self.status_told = false;
        let before = out.len();
        self.packet(out, |out| out.extend_from_slice(payload));
        let outcome = Outcome::Error {
            code: error.code,
            state: error.state.unwrap_or(SqlState::GENERAL),
        };
        Ok(Some(Step::Done(self.done(outcome, out.len() - before))))
    }

    fn prepared(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Option<Step>, WireError> {
        let mut reader = Reader::new(payload);
        reader.u8("the OK header")?;
        let id = reader.u32("the statement's id")?;
        let columns = reader.u16("the number of columns")?;
        let params = reader.u16("the number of parameters")?;
        reader.u8("the filler")?;
        if !reader.is_empty() {
            self.warnings = reader.u16("the warnings")?;
        }
        self.prepared = Some(Prepared { id, params, columns });
        let told = self.statement_id.unwrap_or(id);
        let before = out.len();
        self.packet(out, |out| {
            out.push(OkPacket::HEADER);
            out.extend_from_slice(&told.to_le_bytes());
            out.extend_from_slice(&payload[5..]);
        });
        let written = out.len() - before;
        if params > 0 {
            self.at = At::Definitions {
                left: u64::from(params),
                of: Of::Params { columns },
            };
            return Ok(None);
        }
        let mut step = self.after_definitions(Of::Params { columns });
        if let Some(Step::Done(done)) = &mut step {
            done.final_bytes = written;
        }
        Ok(step)
    }

    fn local_infile(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Step, WireError> {
        // A server that asks a client which never offered it wants the client's files.
        if !self.client.has(Capabilities::LOCAL_FILES) {
            return Err(WireError::Malformed(
                "the server asks for a local file, and the client offered none",
            ));
        }
        self.packet(out, |out| out.extend_from_slice(payload));
        Ok(Step::LocalInfile)
    }

    fn column_count(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Option<Step>, WireError> {
        let mut reader = Reader::new(payload);
        let left = reader.lenenc("the number of columns")?;
        if left == 0 || !reader.is_empty() {
            return Err(WireError::Malformed("not a number of columns"));
        }
        self.rows = true;
        self.packet(out, |out| out.extend_from_slice(payload));
        self.at = At::Definitions { left, of: Of::Result };
        Ok(None)
    }

    /// The EOF packet after definitions, of a server without `DEPRECATE_EOF`.
    fn definitions_end(
        &mut self,
        of: Of,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Step>, WireError> {
        let eof = EofPacket::parse(payload)?;
        if of == Of::Result && self.opens_cursor(eof.status) {
            self.cursor = true;
            return self.rows_end(payload, out);
        }
        self.status = eof.status;
        if eof.status.has(StatusFlags::PS_OUT_PARAMS) {
            // Without DEPRECATE_EOF, MySQL forgets to say behind the row of out-parameters that more follows; its
            // client library remembers it from here as well.
            self.out_params_follow = eof.status.has(StatusFlags::MORE_RESULTS_EXISTS);
        }
        if !self.client.has(Capabilities::DEPRECATE_EOF) {
            self.packet(out, |out| eof.write(out));
        }
        Ok(self.after_definitions(of))
    }

    /// Whether the end of definitions, with this status, is the end of the answer: the rows wait in a cursor. A
    /// procedure that has a cursor of its own open shows the flag too (both servers do that), but its results are never
    /// the last.
    fn opens_cursor(&self, status: StatusFlags) -> bool {
        self.expect == Expect::Execute
            && status.has(StatusFlags::CURSOR_EXISTS)
            && !status.has(StatusFlags::MORE_RESULTS_EXISTS)
    }

    /// The packet after the last row, in either form; also what stands for OK after COM_SET_OPTION.
    fn rows_end(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Option<Step>, WireError> {
        let ok = if self.backend.has(Capabilities::DEPRECATE_EOF) {
            OkPacket::parse(payload, self.backend)?
        } else {
            let eof = EofPacket::parse(payload)?;
            OkPacket {
                affected_rows: 0,
                last_insert_id: 0,
                status: eof.status.without(StatusFlags::SESSION_STATE_CHANGED),
                warnings: eof.warnings,
                info: &[],
                state: &[],
            }
        };
        self.mark_out_params(ok.status, out);
        let fetched = self.expect == Expect::Fetch;
        if fetched {
            let last = ok.status.has(StatusFlags::LAST_ROW_SENT);
            self.cursor = ok.status.has(StatusFlags::CURSOR_EXISTS) && !last;
        } else if self.at == At::FirstRow {
            self.cursor = self.opens_cursor(ok.status);
            if !self.cursor {
                self.put_eof_in(ok.status, out);
            }
        }
        self.result_end(payload, &ok, out)
    }

    /// An OK packet in either place: the answer ends, or another result follows.
    fn result_end(
        &mut self,
        payload: &[u8],
        ok: &OkPacket<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Step>, WireError> {
        self.status = ok.status;
        self.status_told = true;
        self.warnings = ok.warnings;
        if ok.last_insert_id != 0 {
            self.last_insert_id = ok.last_insert_id;
        }
        self.state.add(ok.session_state())?;
        let before = out.len();
        let header = payload.first().copied().unwrap_or_default();
        self.write_ok(header, ok, out)?;
        let many = matches!(self.expect, Expect::Simple | Expect::Execute);
        let more =
            std::mem::take(&mut self.out_params_follow) || ok.status.has(StatusFlags::MORE_RESULTS_EXISTS);
        if many && more {
            self.at = At::First;
            return Ok(None);
        }
        let outcome = if self.rows { Outcome::Rows } else { Outcome::Ok };
        Ok(Some(Step::Done(self.done(outcome, out.len() - before))))
    }

    /// Writes an OK packet as the client understands it.
    fn write_ok(&mut self, header: u8, ok: &OkPacket<'_>, out: &mut Vec<u8>) -> Result<(), WireError> {
        if header == OkPacket::AS_EOF && !self.client.has(Capabilities::DEPRECATE_EOF) {
            let before_only = self.out_params == Some(OutParams::Before);
            let eof = EofPacket {
                warnings: ok.warnings,
                status: match before_only && ok.status.has(StatusFlags::PS_OUT_PARAMS) {
                    true => ok.status.without(OUT_PARAMS),
                    false => ok.status,
                },
            };
            self.packet(out, |out| eof.write(out));
            return Ok(());
        }
        let mut left = None;
        if let Some(hidden) = &self.hidden
            && !ok.state.is_empty()
            && self.client.has(Capabilities::SESSION_TRACK)
        {
            left = hidden.filter(ok.session_state())?;
        }
        let ok = OkPacket {
            state: left.as_deref().unwrap_or(ok.state),
            warnings: self.told_warnings.unwrap_or(ok.warnings),
            ..ok.clone()
        };
        let client = self.client;
        self.packet(out, |out| ok.write(out, header, client));
        Ok(())
    }
}
