//! Writes that came one after the other, made with one call of the device.
//!
//! Invariants: they are made in the order they came, and each is answered once, after the call that made it returned; what
//! fails fails alone.

use std::ops::Range;

use super::{
    connection::Connection, exports::Ending, flusher::Flusher, outgoing::Outgoing, streamed::Part,
    wire::request::Cookie,
};
use crate::device::{Change, IoError, PAUSE, Writing};

/// Most writes in one call of the device.
const WRITES_MAX: usize = 256;

/// What one write does.
pub(super) enum Action {
    /// Its data, in the receive buffer.
    Data(Range<usize>),
    Zero(u64),
    Trim(u64),
}

/// A write that waits to be made and answered.
struct Write {
    cookie: Cookie,
    fua: bool,
    offset: u64,
    action: Action,
    /// It is a part of a larger one.
    part: Option<Part>,
}

impl Write {
    /// What the device is to do; nothing for a write of nothing.
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

    /// Makes and answers the writes, whose data is in `bytes`. The batch is empty afterwards.
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
            // Whose fault was it? Done again in the same order, the outcome is the same for those that are well.
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

/// Makes writes; where there is no room for them, again and again until there is, for as long as the client is there. If it
/// has gone they must not be made any more: it may have repeated them elsewhere, and written other things since.
fn write(writings: &[Writing<'_>], out: &mut Outgoing) -> Result<Result<(), IoError>, Ending> {
    let connection: &Connection = &out.connection.clone();
    loop {
        match connection.device.write(writings) {
            Err(IoError::Paused) => {}
            result => return Ok(result),
        }
        // Replies to what was done before must not wait with it.
        out.send()?;
        std::thread::sleep(PAUSE);
        // Not before the pause: the client may have come back over another connection during it.
        if connection.is_over() {
            return Err(Ending::Vanished);
        }
    }
}
