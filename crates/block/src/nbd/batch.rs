//! Consecutive writes, applied with one call to the device.
//!
//! Invariants: the writes are applied in the order of arrival. Each is answered once, after the device call that
//! applied it has returned. A failure of one does not fail the others.

use std::ops::Range;

use super::{
    connection::Connection, exports::Ending, flusher::Flusher, outgoing::Outgoing, streamed::Part,
    wire::request::Cookie,
};
use crate::device::{Change, IoError, PAUSE, Writing};

/// Most writes in one call of the device.
const WRITES_MAX: usize = 256;

/// What one write changes.
pub(super) enum Action {
    /// Its data, in the receive buffer.
    Data(Range<usize>),
    Zero(u64),
    Trim(u64),
}

/// A write that waits to be applied and answered.
struct Write {
    cookie: Cookie,
    fua: bool,
    offset: u64,
    action: Action,
    /// Set if this is one part of a larger write.
    part: Option<Part>,
}

impl Write {
    /// The change for the device; `None` for a write of length zero.
    fn writing<'a>(&self, bytes: &'a [u8]) -> Option<Writing<'a>> {
        let change = match &self.action {
            Action::Data(range) => Change::Data(bytes.get(range.clone()).unwrap_or_default()),
            Action::Zero(len_bytes) => Change::Zero { len_bytes: *len_bytes },
            Action::Trim(len_bytes) => Change::Trim { len_bytes: *len_bytes },
        };
        (change.len_bytes() > 0).then_some(Writing { offset: self.offset, change })
    }
}

/// See the module's comment.
#[derive(Default)]
pub(super) struct Batch {
    writes: Vec<Write>,
    data_bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, cookie: Cookie, fua: bool, offset: u64, action: Action) {
        if let Action::Data(range) = &action {
            self.data_bytes += range.len();
        }
        self.writes.push(Write { cookie, fua, offset, action, part: None });
    }

    pub(super) fn push_part(
        &mut self,
        cookie: Cookie,
        fua: bool,
        offset: u64,
        data: Range<usize>,
        part: Part,
    ) {
        self.push(cookie, fua, offset, Action::Data(data));
        if let Some(write) = self.writes.last_mut() {
            write.part = Some(part);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes.len() >= WRITES_MAX
    }

    pub(super) fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Applies and answers the writes, whose data is in `bytes`. The batch is empty afterwards.
    pub(super) fn commit(
        &mut self,
        bytes: &[u8],
        flusher: &Flusher,
        out: &mut Outgoing,
    ) -> Result<(), Ending> {
        self.data_bytes = 0;
        let writes = std::mem::take(&mut self.writes);
        let spoiled = |write: &Write| write.part.as_ref().is_some_and(Part::is_spoiled);
        let all: Vec<Writing<'_>> =
            writes.iter().filter(|write| !spoiled(write)).filter_map(|write| write.writing(bytes)).collect();
        let mut result = if all.is_empty() { Ok(()) } else { write(&all, out)? };
        let one_by_one = result.is_err() && writes.len() > 1;
        for one in writes {
            // Finds out which write failed. Repeating all of them in order has the same outcome for those that are
            // sound.
            if one_by_one {
                result = match one.writing(bytes).filter(|_| !spoiled(&one)) {
                    Some(writing) => write(&[writing], out)?,
                    None => Ok(()),
                };
            }
            match one.part {
                Some(part) => {
                    let outcome = part.end(std::mem::replace(&mut result, Ok(())));
                    outcome.map_or(Ok(()), |outcome| answer(one.cookie, one.fua, &outcome, flusher, out))?;
                }
                None => answer(one.cookie, one.fua, &result, flusher, out)?,
            }
            if one_by_one && out.connection.is_broken() {
                break;
            }
        }
        Ok(())
    }
}

fn answer(
    cookie: Cookie,
    fua: bool,
    result: &Result<(), IoError>,
    flusher: &Flusher,
    out: &mut Outgoing,
) -> Result<(), Ending> {
    match result {
        Ok(()) if fua => Ok(flusher.add(cookie)?),
        Ok(()) => out.succeed(cookie),
        Err(error) => out.fail(cookie, error),
    }
}

/// Applies writes, retrying while there is no room, for as long as the client is connected. Once it has gone they must
/// not be applied any more: it may have repeated them over another connection, and have written newer data since.
fn write(writings: &[Writing<'_>], out: &mut Outgoing) -> Result<Result<(), IoError>, Ending> {
    let connection: &Connection = &out.connection.clone();
    loop {
        match connection.device.write(writings) {
            Err(IoError::Paused) => {}
            result => return Ok(result),
        }
        // Earlier replies must not wait for this.
        out.send()?;
        std::thread::sleep(PAUSE);
        // Checked after the pause: during it the client may have reconnected elsewhere.
        if connection.is_over() {
            return Err(Ending::Vanished);
        }
    }
}
