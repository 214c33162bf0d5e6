//! The inside of a child: it confines itself, and answers questions until its manager closes the socket.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use bygone_files::{Blocks, Cause, ReadError, survey};
use rustix::fs::FileType;

use super::{
    confine::{Limits, confine},
    wire::{Answer, Asked, Frame, PIECE_MAX, Question},
};

/// What a program is called with to become a child.
#[cfg(not(test))]
pub(super) const WORDS: &[&str] = &["looks-at-disks"];
#[cfg(test)]
pub(super) const WORDS: &[&str] =
    &["child::tests::the_child_of_these_tests", "--exact", "--ignored", "--nocapture", "--test-threads=1"];

const LIMITS: Limits = Limits { memory_bytes: 1 << 30, cpu_seconds: 60 };

/// Serves as a child, if this program was started as one. To be called by `main` before anything else.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let asked = WORDS.iter().all(|word| words.next().is_some_and(|given| given == *word));
    asked.then(|| if serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Confines this process and answers what comes over its standard input.
///
/// # Errors
/// Standard input is not a socket, or what comes is not from our manager.
pub(super) fn serve() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode).is_socket() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Inside { socket: socket.into() }.serve()
}

struct Inside {
    socket: UnixStream,
}

impl Inside {
    fn serve(mut self) -> io::Result<()> {
        if let Err(error) = confine(LIMITS) {
            return self.say(&Frame::NotConfined(error.to_string()));
        }
        self.say(&Frame::Ready)?;
        while let Some(frame) = Frame::read(&mut self.socket)? {
            let Frame::Question(asked) = frame else { return Err(io::ErrorKind::InvalidData.into()) };
            let disk = Disk { socket: Mutex::new(&mut self.socket), asked: &asked };
            // A panic cannot have left anything that the next question would use: each has a disk of its own.
            let answer = catch_unwind(AssertUnwindSafe(|| answer(&asked.question, &disk)))
                .unwrap_or_else(|_| Answer::Failed("a fault of ours ended the look at it".to_owned()));
            self.say(&Frame::Answer(answer))?;
        }
        Ok(())
    }

    fn say(&mut self, frame: &Frame) -> io::Result<()> {
        self.socket.write_all(&frame.encode()?)
    }
}

fn answer(question: &Question, disk: &Disk<'_>) -> Answer {
    match question {
        Question::Survey => match survey(disk) {
            Ok(survey) => Answer::Survey(survey),
            Err(error) => Answer::Failed(error.to_string()),
        },
        #[cfg(test)]
        Question::Misbehave(misdeed) => misdeed.commit(disk),
    }
}

/// The disk that was asked about, which is read by asking back.
pub(super) struct Disk<'a> {
    socket: Mutex<&'a mut UnixStream>,
    asked: &'a Asked,
}

impl Disk<'_> {
    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let failed = |error: io::Error| ReadError::failed(offset, buf.len(), error);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let len_bytes = buf.len() as u32;
        let frame = Frame::Read { offset, len_bytes }.encode().map_err(failed)?;
        socket.write_all(&frame).map_err(failed)?;
        match Frame::read(&mut **socket).map_err(failed)? {
            Some(Frame::Data(data)) if data.len() == buf.len() => {
                buf.copy_from_slice(&data);
                Ok(())
            }
            Some(Frame::Refused(refused)) => Err(refused.into_error()),
            // Nobody is there any more, or it is not our manager.
            _ => Err(failed(io::ErrorKind::InvalidData.into())),
        }
    }
}

impl Blocks for Disk<'_> {
    fn size_bytes(&self) -> u64 {
        self.asked.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.asked.sector_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size_bytes()) {
            return Err(ReadError { offset, len_bytes: buf.len(), cause: Cause::Outside });
        }
        let mut at = offset;
        for piece in buf.chunks_mut(PIECE_MAX as usize) {
            self.read_piece(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
