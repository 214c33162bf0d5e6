//! The inside of a child: it confines itself, and answers questions until its manager closes the socket.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use bygone_files::{Blocks, Cause, ReadError, glances, software, survey};
use rustix::fs::{FileType, fstat};

use super::{
    confine::{Limits, confine},
    wire::{Answer, Frame, PIECE_MAX, Question, Request},
};

/// The arguments of a program that is to be a child.
#[cfg(not(test))]
pub(super) const ARGUMENTS: &[&str] = &["looks-at-disks"];
#[cfg(test)]
pub(super) const ARGUMENTS: &[&str] =
    &["child::tests::the_child_of_these_tests", "--exact", "--ignored", "--nocapture", "--test-threads=1"];

const LIMITS: Limits = Limits { memory_bytes: 512 << 20, cpu_seconds: if cfg!(test) { 3 } else { 60 } };

/// Serves as a child, if this program was started as one. To be called by `main` before anything else.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = ARGUMENTS.iter().all(|wanted| arguments.next().is_some_and(|given| given == *wanted));
    if !asked || arguments.next().is_some() {
        return None;
    }
    Some(match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("error: this is how a manager starts the part of itself that looks at disks");
            eprintln!("hint: `bygone help` lists what there is for people");
            ExitCode::from(2)
        }
        Err(_) => ExitCode::FAILURE,
    })
}

/// Confines this process and answers the requests that come over its standard input.
///
/// # Errors
/// `InvalidInput` if that is no socket; others if what comes is not from a manager.
pub(super) fn serve() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    if !FileType::from_raw_mode(fstat(&socket)?.st_mode).is_socket() {
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
            let Frame::Request(request) = frame else { return Err(io::ErrorKind::InvalidData.into()) };
            let disk = Disk { socket: Mutex::new(&mut self.socket), request: &request };
            // A panic cannot have left anything that the next question would use: each has a disk of its own.
            let answer = catch_unwind(AssertUnwindSafe(|| answer(&request.question, &disk)))
                .unwrap_or_else(|_| Answer::Failed("a fault of ours ended the look at it".to_owned()));
            let said = Frame::Answer(answer).encode().or_else(|_| {
                Frame::Answer(Answer::Failed("there is more than one answer holds".to_owned())).encode()
            })?;
            self.socket.write_all(&said)?;
        }
        Ok(())
    }

    fn say(&mut self, frame: &Frame) -> io::Result<()> {
        self.socket.write_all(&frame.encode()?)
    }
}

fn answer(question: &Question, disk: &Disk<'_>) -> Answer {
    match question {
        Question::Survey => answered(survey(disk), Answer::Survey),
        Question::Glances => answered(glances(disk), Answer::Glances),
        Question::Software => answered(software(disk), Answer::Software),
        #[cfg(test)]
        Question::Misbehave(misdeed) => misdeed.commit(disk),
    }
}

fn answered<T>(found: Result<T, ReadError>, answer: impl FnOnce(T) -> Answer) -> Answer {
    found.map_or_else(|error| Answer::Failed(error.to_string()), answer)
}

/// The disk that is asked about, which is read by asking back.
pub(super) struct Disk<'a> {
    socket: Mutex<&'a mut UnixStream>,
    request: &'a Request,
}

impl Disk<'_> {
    pub(super) fn read_piece(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
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
            Some(Frame::Refusal(refusal)) => Err(refusal.into_error()),
            // Nobody is there any more, or it is not our manager.
            _ => Err(failed(io::ErrorKind::InvalidData.into())),
        }
    }
}

impl Blocks for Disk<'_> {
    fn size_bytes(&self) -> u64 {
        self.request.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.request.sector_bytes
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
