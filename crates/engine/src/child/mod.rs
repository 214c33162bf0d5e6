//! What a guest wrote is read in a process of its own.
//!
//! A guest decides what lies on its disks, so whatever parses them may be led astray. A child of this program does it: it
//! is this program once more, with a word that makes it [serve](serve) one socket and nothing else. Before it reads
//! anything it has [confined](confine) itself, and bytes of the disk come to it over that socket, one request each. What
//! it answers is believed no more than the disk: it is bounded, and data only.
//!
//! Trouble of any kind (a crash, too much memory, silence, nonsense) costs one answer: the child is killed, and the next
//! question starts another. The machine whose disk it is never notices.

mod confine;
mod inside;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{self, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bygone_files::{Blocks, Survey};

pub use inside::serve_if_asked;
use wire::{Answer, Asked, Frame, Question, Refused};

/// How long a child may keep us waiting for one answer, all its pauses together. What we need to read for it is not
/// counted.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often we look whether the patience is over.
const LOOK: Duration = Duration::from_millis(500);
/// How long a child may take to end that has closed its socket.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// How many bytes a child may have for one answer, several times what an honest one reads.
const READ_BYTES_MAX: u64 = 1 << 30;
const READS_MAX: u64 = 1_000_000;

/// Why a child gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// It did not start.
    #[error("the process that looks at disks cannot be started: {0}")]
    NotStarted(io::Error),
    /// It could not give up what it must not have.
    #[error("the process that looks at disks cannot be confined: {0}")]
    NotConfined(String),
    /// It is gone, by a fault of its own or because it reached a limit.
    #[error("the process that looks at disks {0}")]
    Ended(String),
    /// Somebody else ended it: the kernel for want of memory, a service manager that ends all of our processes.
    #[error("the process that looks at disks was ended by signal {0}")]
    Killed(i32),
    /// It kept us waiting.
    #[error("the process that looks at disks gave no answer for {} s", .0.as_secs())]
    Silent(Duration),
    /// It said or wanted what no honest one does.
    #[error("the process that looks at disks was led astray: {0}")]
    Astray(&'static str),
    /// It looked, and could not say.
    #[error("{0}")]
    Failed(String),
}

/// Asks children, one at a time, and starts one where there is none.
#[derive(Debug)]
pub(crate) struct Reader {
    child: Option<Child>,
    patience: Duration,
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader { child: None, patience: PATIENCE }
    }

    /// What is on a disk.
    ///
    /// # Errors
    /// [`Trouble`]. After anything but [`Trouble::Failed`] the next question goes to another child.
    pub(crate) fn survey(&mut self, disk: &dyn Blocks) -> Result<Survey, Trouble> {
        match self.ask(&Question::Survey, disk)? {
            Answer::Survey(survey) => Ok(survey),
            Answer::Failed(text) => Err(Trouble::Failed(text)),
        }
    }

    fn ask(&mut self, question: &Question, disk: &dyn Blocks) -> Result<Answer, Trouble> {
        match self.ask_once(question, disk) {
            Err(Trouble::Killed(_)) => self.ask_once(question, disk),
            result => result,
        }
    }

    fn ask_once(&mut self, question: &Question, disk: &dyn Blocks) -> Result<Answer, Trouble> {
        let mut child = match self.child.take() {
            Some(child) => child,
            None => Child::start(self.patience)?,
        };
        let answer = child.talk.ask(question, disk).map_err(|trouble| child.explain(trouble))?;
        self.child = Some(child);
        Ok(answer)
    }
}

/// A process that answers, killed when this is dropped.
#[derive(Debug)]
struct Child {
    process: process::Child,
    talk: Talk,
}

impl Child {
    fn start(patience: Duration) -> Result<Child, Trouble> {
        let (ours, its) = UnixStream::pair().map_err(Trouble::NotStarted)?;
        // By this name, since the file may have been replaced by an upgrade.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("bygone")
            .args(inside::WORDS)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It gets no other descriptor of ours, and no signal from our terminal.
        let process = bygone_sys::detach(&mut command).spawn().map_err(Trouble::NotStarted)?;
        let talk = Talk::new(ours, patience).map_err(Trouble::NotStarted)?;
        let mut child = Child { process, talk };
        match child.talk.receive() {
            Ok(Frame::Ready) => Ok(child),
            Ok(Frame::NotConfined(why)) => Err(Trouble::NotConfined(why)),
            Ok(_) => Err(Trouble::Astray("it began with something else")),
            Err(trouble) => Err(child.explain(trouble)),
        }
    }

    /// With the reason for which it ended, if it did.
    fn explain(&mut self, trouble: Trouble) -> Trouble {
        let Trouble::Ended(_) = trouble else { return trouble };
        // It closes its socket before it has ended.
        let end = Instant::now() + ENDING_MAX;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return why(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(ENDING_MAX / 1000),
                _ => return trouble,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only if it has ended and was waited for.
        let _ = self.process.kill();
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "a process that looks at disks cannot be waited for");
        }
    }
}

/// Why a process ended.
fn why(status: ExitStatus) -> Trouble {
    let ended = |how: &str| Trouble::Ended(how.to_owned());
    match status.signal() {
        Some(libc::SIGSYS) => ended("was ended: it tried what it may not"),
        Some(libc::SIGXCPU) => ended("was ended: it needed too much time"),
        Some(libc::SIGABRT) => ended("gave up: it needed too much memory, or has a fault"),
        Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE) => ended("crashed"),
        Some(signal) => Trouble::Killed(signal),
        None => Trouble::Ended(format!("ended ({status})")),
    }
}

/// Our side of the socket.
#[derive(Debug)]
struct Talk {
    socket: UnixStream,
    patience: Duration,
    /// How long it has kept us waiting since it was asked.
    waited: Duration,
}

impl Talk {
    fn new(socket: UnixStream, patience: Duration) -> io::Result<Talk> {
        socket.set_read_timeout(Some(LOOK.min(patience)))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Talk { socket, patience, waited: Duration::ZERO })
    }

    fn ask(&mut self, question: &Question, disk: &dyn Blocks) -> Result<Answer, Trouble> {
        self.waited = Duration::ZERO;
        let (mut reads, mut bytes) = (0, 0);
        let asked = Asked {
            question: question.clone(),
            size_bytes: disk.size_bytes(),
            sector_bytes: disk.sector_bytes(),
        };
        self.send(&Frame::Question(asked))?;
        loop {
            match self.receive()? {
                Frame::Read { offset, len_bytes } => {
                    reads += 1;
                    bytes += u64::from(len_bytes);
                    if reads > READS_MAX || bytes > READ_BYTES_MAX {
                        return Err(Trouble::Astray("it reads without end"));
                    }
                    let mut data = vec![0; len_bytes as usize];
                    let read = disk.read_at(offset, &mut data);
                    self.send(&match read {
                        Ok(()) => Frame::Data(data),
                        Err(error) => Frame::Refused(Refused::of(&error)),
                    })?;
                }
                Frame::Answer(answer) => return Ok(answer),
                _ => return Err(Trouble::Astray("it says what only we may say")),
            }
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let sent = frame.encode().and_then(|bytes| self.socket.write_all(&bytes));
        sent.map_err(|error| self.trouble(&error))
    }

    fn receive(&mut self) -> Result<Frame, Trouble> {
        match Frame::read(self) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(Trouble::Ended("ended".to_owned())),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Trouble::Silent(self.patience),
            io::ErrorKind::InvalidData => Trouble::Astray("it says what cannot be understood"),
            _ => Trouble::Ended("ended".to_owned()),
        }
    }
}

/// Reads as long as the patience lasts.
impl io::Read for Talk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let since = Instant::now();
            let read = self.socket.read(buf);
            self.waited += since.elapsed();
            match read {
                Err(error) if is_passing(&error) && self.waited < self.patience => {}
                Ok(_) if self.waited >= self.patience => return Err(io::ErrorKind::TimedOut.into()),
                read => return read,
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
