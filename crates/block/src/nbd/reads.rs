//! How a connection's own thread reads: directly from memory, through other threads from the medium, and in pieces if a
//! read is larger than its buffer.

use std::sync::Arc;

use super::{
    command::Span,
    exports::Ending,
    job::{Divided, Task, push_part_failure, read_header_bytes, write_read_header},
    limits::PIECE_BYTES,
    outbox::Turn,
    wire::{
        reply::{SimpleReply, done, push_error},
        request::Cookie,
    },
    worker::Worker,
};
use crate::device::{IoError, Reading};

impl Worker {
    /// `NBD_CMD_READ`.
    pub(super) fn read(&mut self, cookie: Cookie, span: Span, whole: bool) -> Result<(), Ending> {
        let structured = self.connection.terms.structured;
        if span.len_bytes == 0 {
            let simple = SimpleReply { error: 0, cookie }.encode();
            return if structured { self.out.put(&done(cookie)) } else { self.out.put(&simple) };
        }
        if span.len_bytes as usize <= PIECE_BYTES {
            return self.read_piece(cookie, span, None);
        }
        if whole || !structured {
            self.read_at_a_stretch(cookie, span)
        } else {
            self.read_divided(cookie, span)
        }
    }

    /// Reads what fits into the buffer: a whole read, or one part of a larger one.
    fn read_piece(
        &mut self,
        cookie: Cookie,
        span: Span,
        part_of: Option<&Arc<Divided>>,
    ) -> Result<(), Ending> {
        let head = read_header_bytes(&self.connection);
        let bytes = head + span.len_bytes as usize;
        if self.out.replies.room_bytes() < bytes {
            self.out.send()?;
        }
        let device = Arc::clone(&self.connection.device);
        let data = self.out.replies.slot(bytes).get_mut(head..).unwrap_or_default();
        let mut result = device.read(span.offset, data, Reading::CachedOnly);
        if matches!(result, Err(IoError::WouldBlock)) {
            let task = Task::Read { span, part_of: part_of.cloned() };
            if self.hand_over(cookie, task).is_ok() {
                return Ok(());
            }
            // This thread has to wait for the medium itself. The client gets its earlier replies meanwhile.
            self.out.send()?;
            let data = self.out.replies.slot(bytes).get_mut(head..).unwrap_or_default();
            result = device.read(span.offset, data, Reading::MayWait);
        }
        match (result, part_of) {
            (Ok(()), _) => {
                write_read_header(
                    &self.connection,
                    self.out.replies.slot(bytes),
                    cookie,
                    span,
                    part_of.is_none(),
                );
                self.out.replies.keep(bytes);
                self.out.send_when_many()?;
            }
            (Err(error), None) => self.out.fail(cookie, &error)?,
            (Err(error), Some(_)) => {
                self.out
                    .answer(|connection, out| push_part_failure(connection, out, cookie, span, &error))?;
            }
        }
        if let Some(divided) = part_of {
            self.out.send()?;
            self.part_is_out(cookie, divided)?;
        }
        Ok(())
    }

    /// Answers a large read in several chunks, possibly from several threads. This thread holds one extra part, so that
    /// the closing chunk cannot be sent before all parts are counted.
    fn read_divided(&mut self, cookie: Cookie, span: Span) -> Result<(), Ending> {
        let len = span.len_bytes as usize;
        let divided = Divided::new(len.div_ceil(PIECE_BYTES) + 1);
        for piece in pieces(span) {
            self.read_piece(cookie, piece, Some(&divided))?;
        }
        self.part_is_out(cookie, &divided)
    }

    fn part_is_out(&mut self, cookie: Cookie, divided: &Divided) -> Result<(), Ending> {
        if divided.part_is_out(&self.connection) { self.out.put(&done(cookie)) } else { Ok(()) }
    }

    /// Answers a large read in one message. Once its header is sent, the client expects all of the data. A part that
    /// cannot be read is filled with zeroes and reported as an error at the end ("Structured replies"); where that is
    /// impossible ("Simple replies"), the connection ends.
    fn read_at_a_stretch(&mut self, cookie: Cookie, span: Span) -> Result<(), Ending> {
        self.out.send()?;
        let connection = Arc::clone(&self.connection);
        let structured = connection.terms.structured;
        let head = read_header_bytes(&connection);
        let mut failure = None;
        let mut turn: Option<Turn<'_>> = None;
        for piece in pieces(span) {
            let len = piece.len_bytes as usize;
            let buffer = self.out.replies.raw();
            let Some(data) = buffer.get_mut(head..head + len) else { return Err(Ending::Broken) };
            if failure.is_none()
                && let Err(error) = connection.device.read(piece.offset, data, Reading::MayWait)
            {
                match turn {
                    None => return self.out.fail(cookie, &error),
                    Some(turn) if !structured => {
                        connection.failed(&error);
                        turn.abandon();
                        return Err(Ending::Broken);
                    }
                    Some(_) => failure = Some(error),
                }
            }
            if failure.is_some() {
                data.fill(0);
            }
            match &mut turn {
                Some(turn) => turn.send(data)?,
                None => {
                    write_read_header(&connection, buffer, cookie, span, false);
                    let mut taken = connection.outbox.turn()?;
                    taken.send(buffer.get(..head + len).unwrap_or_default())?;
                    turn = Some(taken);
                }
            }
        }
        drop(turn);
        match failure {
            None if structured => self.out.put(&done(cookie)),
            None => Ok(()),
            Some(error) => match connection.failed(&error) {
                Some(errno) => self.out.answer(|_, out| push_error(out, cookie, errno, &error.to_string())),
                None => Err(Ending::Broken),
            },
        }
    }
}

/// Splits a span into pieces of [`PIECE_BYTES`]; the last one may be shorter.
fn pieces(span: Span) -> impl Iterator<Item = Span> {
    let len = span.len_bytes as usize;
    (0..len).step_by(PIECE_BYTES).map(move |from| {
        // Both within `span`, whose length is a u32.
        let len_bytes = u32::try_from(PIECE_BYTES.min(len - from)).unwrap_or(u32::MAX);
        Span { offset: span.offset + from as u64, len_bytes }
    })
}
