//! The manager's side of the socket: a question, the reads that it takes, the answer, all of it within a budget.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use bygone_files::Blocks;

use super::{
    ChildError,
    wire::{Answer, Frame, Question, Refusal, Request},
};

/// How long one call of the socket may wait before the time is looked at.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How many bytes may be read for one answer: several times what an intact child reads.
const READ_BYTES_MAX: u64 = 1 << 30;
const READS_MAX: u32 = 100_000;

/// What one answer may still cost.
#[derive(Debug)]
pub(super) struct Budget {
    time: Duration,
    reads: u32,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(time: Duration) -> Budget {
        Budget { time, reads: READS_MAX, bytes: READ_BYTES_MAX }
    }

    /// Takes off the time since then.
    fn spend(&mut self, since: Instant, most: Duration) {
        self.time = self.time.saturating_sub(since.elapsed().min(most));
    }

    fn take_read(&mut self, bytes: u32) -> Result<(), ChildError> {
        let left = (self.reads.checked_sub(1), self.bytes.checked_sub(u64::from(bytes)));
        let (Some(reads), Some(bytes)) = left else {
            return Err(ChildError::Misbehaved("it reads without end"));
        };
        (self.reads, self.bytes) = (reads, bytes);
        Ok(())
    }
}

/// The manager's end.
#[derive(Debug)]
pub(super) struct Talk {
    socket: UnixStream,
}

impl Talk {
    pub(super) fn new(socket: UnixStream) -> io::Result<Talk> {
        socket.set_read_timeout(Some(POLL_EVERY))?;
        socket.set_write_timeout(Some(POLL_EVERY))?;
        Ok(Talk { socket })
    }

    /// Asks, serves the reads, and returns the answer.
    ///
    /// # Errors
    /// [`ChildError`]; nothing more can be said on this socket then.
    pub(super) fn ask(
        &mut self,
        question: &Question,
        disk: &dyn Blocks,
        budget: &mut Budget,
    ) -> Result<Answer, ChildError> {
        let request = Request {
            question: question.clone(),
            size_bytes: disk.size_bytes(),
            sector_bytes: disk.sector_bytes(),
        };
        self.send(&Frame::Request(request), budget)?;
        loop {
            match self.receive(budget)? {
                Frame::Read { offset, len_bytes } => {
                    budget.take_read(len_bytes)?;
                    let since = Instant::now();
                    let mut data = vec![0; len_bytes as usize];
                    let read = disk.read_at(offset, &mut data);
                    budget.spend(since, Duration::MAX);
                    let reply = match read {
                        Ok(()) => Frame::Data(data),
                        Err(error) => Frame::Refusal(Refusal::of(&error)),
                    };
                    self.send(&reply, budget)?;
                }
                Frame::Answer(answer) => return answer.checked().map_err(ChildError::Misbehaved),
                _ => return Err(ChildError::Misbehaved("it says what only the manager may say")),
            }
        }
    }

    fn send(&mut self, frame: &Frame, budget: &mut Budget) -> Result<(), ChildError> {
        let mut paced = Paced { socket: &self.socket, budget };
        frame.encode().and_then(|bytes| paced.write_all(&bytes)).map_err(|error| of(&error))
    }

    /// The next thing that the child says.
    ///
    /// # Errors
    /// [`ChildError`].
    pub(super) fn receive(&mut self, budget: &mut Budget) -> Result<Frame, ChildError> {
        match Frame::read(&mut Paced { socket: &self.socket, budget }) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(ChildError::Ended("ended".to_owned())),
            Err(error) => Err(of(&error)),
        }
    }
}

fn of(error: &io::Error) -> ChildError {
    match error.kind() {
        io::ErrorKind::TimedOut => ChildError::TimedOut,
        io::ErrorKind::InvalidData => ChildError::Misbehaved("it says what cannot be understood"),
        _ => ChildError::Ended("ended".to_owned()),
    }
}

/// A socket as long as there is time.
struct Paced<'a> {
    socket: &'a UnixStream,
    budget: &'a mut Budget,
}

impl Paced<'_> {
    fn within<T>(&mut self, mut call: impl FnMut(&UnixStream) -> io::Result<T>) -> io::Result<T> {
        while !self.budget.time.is_zero() {
            let since = Instant::now();
            let done = call(self.socket);
            // A manager that was stopped in between does not hold that against the child.
            self.budget.spend(since, 2 * POLL_EVERY);
            match done {
                Err(error) if is_passing(&error) => {}
                done => return done,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Read for Paced<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.within(|mut socket| socket.read(buf))
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.within(|mut socket| socket.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
