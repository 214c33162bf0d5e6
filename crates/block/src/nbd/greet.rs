//! The handshake on its socket.
//!
//! Invariants: the handshake is over by its deadline, however slowly the client sends or receives. At most
//! [`OPTION_BYTES_MAX`] of an option's data is held in memory. Nothing after the last option is received, because that
//! belongs to transmission.

use std::{
    cell::Cell,
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    exports::Exports,
    negotiation::{Agreed, Negotiation, Next, OPTION_BYTES_MAX},
    socket::{Deadline, Socket},
    wire::{
        Malformed,
        option::{OptionHeader, greeting},
    },
};

use crate::device::Geometry;

/// The largest option data that is skipped in order to refuse the option properly; no honest client sends more.
const SKIPPED_BYTES_MAX: u32 = 1 << 20;

/// Why there is no transmission.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ungreeted {
    #[error("the client left")]
    Left,
    #[error("the handshake took too long")]
    Late,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// When the server is stopping, how long a client may still take to send an option and be told so.
const GOODBYE: Duration = Duration::from_millis(250);

/// The server as the handshake sees it.
pub(crate) struct Host<'a> {
    pub(crate) exports: &'a dyn Exports,
    /// Whether one more client of a device of this shape is admitted.
    pub(crate) admit: &'a dyn Fn(&Geometry) -> bool,
    pub(crate) stopping: &'a AtomicBool,
    /// Readable once the server is stopping.
    pub(crate) woken: BorrowedFd<'a>,
}

struct Line<'a> {
    socket: &'a Socket,
    host: &'a Host<'a>,
    deadline: Cell<Deadline>,
    /// The server is stopping, and the deadline was shortened accordingly.
    hurried: Cell<bool>,
}

impl Line<'_> {
    fn receive(&self, mut buf: &mut [u8]) -> Result<(), Ungreeted> {
        while !buf.is_empty() {
            let woken = (!self.hurried.get()).then_some(self.host.woken);
            if !self.socket.wait_for_more(woken, self.deadline.get()).ok_or(Ungreeted::Late)? {
                self.hurried.set(true);
                self.deadline.set(self.deadline.get().sooner(Deadline::after(GOODBYE)));
                continue;
            }
            match self.socket.recv_now(buf) {
                Ok(0) => return Err(Ungreeted::Left),
                Ok(len) => buf = buf.get_mut(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn skip(&self, bytes: usize) -> Result<(), Ungreeted> {
        let mut scrap = [0; 4096];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(scrap.len());
            self.receive(scrap.get_mut(..now).unwrap_or_default())?;
            left -= now;
        }
        Ok(())
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), Ungreeted> {
        while !bytes.is_empty() {
            self.socket.set_send_timeout(Some(self.deadline.get().left().ok_or(Ungreeted::Late)?))?;
            match self.socket.send(bytes) {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Ungreeted::Late),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Runs the handshake to its end; `None` when the client does not want transmission or cannot have it.
pub(crate) fn greet(
    socket: &Socket,
    host: &Host<'_>,
    deadline: Deadline,
) -> Result<Option<Agreed>, Ungreeted> {
    let line = Line { socket, host, deadline: Cell::new(deadline), hurried: Cell::new(false) };
    line.send(&greeting())?;
    let mut flags = [0; 4];
    line.receive(&mut flags)?;
    let mut negotiation = Negotiation::begin(host.exports, host.admit, u32::from_be_bytes(flags))?;
    let mut data = Vec::new();
    let mut out = Vec::new();
    loop {
        let mut header = [0; OptionHeader::BYTES];
        line.receive(&mut header)?;
        let OptionHeader { kind, len_bytes } = OptionHeader::parse(&header)?;
        out.clear();
        let next = if len_bytes <= OPTION_BYTES_MAX {
            data.resize(len_bytes as usize, 0);
            line.receive(&mut data)?;
            if host.stopping.load(Ordering::Acquire) {
                negotiation.shutting_down(kind, &mut out);
                line.send(&out)?;
                return Ok(None);
            }
            negotiation.option(kind, &data, &mut out)
        } else if len_bytes <= SKIPPED_BYTES_MAX {
            line.skip(len_bytes as usize)?;
            negotiation.too_big(kind, &mut out)
        } else {
            negotiation.too_big(kind, &mut out);
            line.send(&out)?;
            return Ok(None);
        };
        line.send(&out)?;
        match next {
            Next::Option => {}
            Next::Close => return Ok(None),
            Next::Transmit(agreed) => return Ok(Some(agreed)),
        }
    }
}
