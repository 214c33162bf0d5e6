//! QEMU's machine protocol (QMP, `docs/interop/qmp-spec.rst`) over a unix socket.
//!
//! A connection has two ends: [`Incoming`], owned by the one thread that reads, and [`Qmp`], which any thread may
//! use to send commands and wait for their answers. Re-connecting is the caller's business: make a new pair.
//!
//! Invariants:
//! - the reading end never blocks; it is to be polled, and takes what there is;
//! - every command is answered exactly once to its sender: by QEMU, by its deadline, or by the end of the
//!   connection; an answer that comes after its deadline is dropped;
//! - what the peer sends costs at most [`LINE_BYTES_MAX`] of memory plus [`COMMANDS_MAX`] waiting commands, and
//!   breaks the connection at worst;
//! - events are handed over in the order in which QEMU sent them, and before any answer that came after them.

mod command;
mod message;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    marker::PhantomData,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};

pub use command::{
    Chardev, Command, Cont, Drive, Image, Inserted, Nothing, QueryBlock, QueryChardev, QueryStatus, Quit,
    RebootAction, RingbufRead, RunState, SetAction, Status, Stop, SystemPowerdown, SystemReset,
};
use message::Refusal;
pub use message::{Event, LINE_BYTES_MAX, Version};
pub(crate) use message::{Lines, Message};

use super::{
    deadline::Deadline,
    error::{Error, ProtocolError, Result},
};

/// How many commands can wait for their answers at once.
pub const COMMANDS_MAX: usize = 64;

/// How long a peer may take to make room for one command in its socket.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// The number of the command that ends the negotiation.
const NEGOTIATION: u64 = 0;

type Verdict = std::result::Result<Value, Refusal>;

#[derive(Debug)]
struct Line {
    stream: Option<UnixStream>,
    ready: bool,
    last_id: u64,
    waiting: BTreeMap<u64, SyncSender<Verdict>>,
}

/// The sending end of a connection to a QEMU. Cheap to clone; any thread may use it.
#[derive(Clone, Debug)]
pub struct Qmp {
    line: Arc<Mutex<Line>>,
}

/// The reading end. When it goes, so does the connection.
#[derive(Debug)]
pub struct Incoming {
    stream: UnixStream,
    lines: Lines,
    greeted: Option<Version>,
    qmp: Qmp,
}

/// What [`Incoming::receive`] hands over.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The negotiation is over: commands are taken from here on.
    Ready(Version),
    /// QEMU tells of something.
    Event(Event),
}

/// Connects to the monitor of a QEMU. Returns at once: the greeting and what follows it are taken by
/// [`Incoming::receive`], which says [`Notice::Ready`] when commands can be sent.
///
/// # Errors
/// [`Error::NotListening`] when nobody listens there, or so many wait already that there is no room in the queue.
pub fn connect(path: &Path) -> Result<(Qmp, Incoming)> {
    let not_listening = |source: io::Error| Error::NotListening { path: path.to_owned(), source };
    let stream = connect_at_once(path).map_err(not_listening)?;
    let prepare = || {
        stream.set_write_timeout(Some(WRITE_MAX))?;
        stream.try_clone()
    };
    let reading = prepare().map_err(not_listening)?;
    let line = Line { stream: Some(stream), ready: false, last_id: NEGOTIATION, waiting: BTreeMap::new() };
    let qmp = Qmp { line: Arc::new(Mutex::new(line)) };
    Ok((qmp.clone(), Incoming { stream: reading, lines: Lines::default(), greeted: None, qmp }))
}

/// Connects to a unix socket without ever waiting for the peer. (An ordinary connect waits, without end, when the
/// listener's queue is full; QEMU's has room for one.) The stream itself is a blocking one.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Qmp {
    /// Sends a command and waits for its answer. Not to be called by the thread that owns [`Incoming`], which
    /// would wait for itself; that one uses [`Qmp::start`].
    ///
    /// # Errors
    /// [`Error::Refused`] when QEMU says no; [`Error::Unanswered`] when the deadline passes first, and then the
    /// command may still be carried out later; [`Error::NotConnected`] when the connection breaks, likewise.
    pub fn execute<C: Command>(&self, command: &C, within: Duration) -> Result<C::Answer> {
        self.start(command)?.wait(within)
    }

    /// Sends a command, to be asked for its answer later.
    ///
    /// # Errors
    /// [`Error::NotConnected`] before [`Notice::Ready`] and after the end of the connection,
    /// [`Error::TooManyCommands`] when [`COMMANDS_MAX`] wait already.
    pub fn start<C: Command>(&self, command: &C) -> Result<Answer<C>> {
        let (sender, verdict) = sync_channel(1);
        let mut line = self.lock();
        if !line.ready {
            return Err(Error::NotConnected);
        }
        if line.waiting.len() >= COMMANDS_MAX {
            return Err(Error::TooManyCommands);
        }
        line.last_id += 1;
        let id = line.last_id;
        line.waiting.insert(id, sender);
        if !line.send(C::NAME, &command.arguments(), id) {
            return Err(Error::NotConnected);
        }
        Ok(Answer { qmp: self.clone(), id, verdict, command: PhantomData })
    }

    /// Ends the connection: the reading end sees its end, and all who wait are told.
    pub fn close(&self) {
        self.lock().close();
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Writes one command; a peer that does not take it loses the connection, because half a command may be sent.
    fn send(&mut self, name: &str, arguments: &Value, id: u64) -> bool {
        let mut text = json!({ "execute": name, "arguments": arguments, "id": id }).to_string();
        text.push('\n');
        let sent = self.stream.as_mut().is_some_and(|stream| stream.write_all(text.as_bytes()).is_ok());
        if !sent {
            self.close();
        }
        sent
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Fails only when the peer has closed it already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.ready = false;
        // Dropping the senders is what tells those who wait.
        self.waiting.clear();
    }
}

/// The answer to a command that was sent. Dropping it forgets the answer, not the command.
#[derive(Debug)]
pub struct Answer<C: Command> {
    qmp: Qmp,
    id: u64,
    verdict: Receiver<Verdict>,
    command: PhantomData<fn(&C)>,
}

impl<C: Command> Answer<C> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// See [`Qmp::execute`].
    pub fn wait(self, within: Duration) -> Result<C::Answer> {
        match self.verdict.recv_timeout(within) {
            Ok(verdict) => read_verdict::<C>(verdict),
            Err(RecvTimeoutError::Timeout) => Err(Error::Unanswered { command: C::NAME, within }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::NotConnected),
        }
    }

    /// The answer, if it is there; `None` if it is still to come.
    pub fn take(&self) -> Option<Result<C::Answer>> {
        match self.verdict.try_recv() {
            Ok(verdict) => Some(read_verdict::<C>(verdict)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Error::NotConnected)),
        }
    }
}

impl<C: Command> Drop for Answer<C> {
    fn drop(&mut self) {
        self.qmp.lock().waiting.remove(&self.id);
    }
}

fn read_verdict<C: Command>(verdict: Verdict) -> Result<C::Answer> {
    let value = verdict.map_err(|refusal| Error::Refused {
        command: C::NAME,
        class: refusal.class,
        description: refusal.desc,
    })?;
    serde_json::from_value(value)
        .map_err(|source| Error::Protocol(ProtocolError::BadAnswer { command: C::NAME, source }))
}

impl Incoming {
    /// Takes what the peer has sent, at most some 64 KiB at a time, without waiting; call it when the socket is
    /// readable (or has hung up). `notice` is called on this thread.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the peer has gone, [`Error::Protocol`] when it breaks the rules. The connection
    /// is closed then.
    pub fn receive(&mut self, mut notice: impl FnMut(Notice)) -> Result<()> {
        let result = self.receive_some(&mut notice);
        if result.is_err() {
            self.qmp.close();
        }
        result
    }

    fn receive_some(&mut self, notice: &mut impl FnMut(Notice)) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        for _ in 0..4 {
            // The descriptor is shared with the sending end, which blocks; so this asks for one call not to.
            match rustix::net::recv(&self.stream, &mut buffer, rustix::net::RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Error::NotConnected),
                Ok((count, _)) => {
                    let Incoming { lines, greeted, qmp, .. } = self;
                    lines.feed(&buffer[..count], |line| take(Message::parse(line)?, greeted, qmp, notice))?;
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Error::NotConnected),
            }
        }
        Ok(())
    }

    /// Waits for what the peer sends, at most until the deadline.
    ///
    /// # Errors
    /// See [`Incoming::receive`].
    pub fn wait(&mut self, deadline: Deadline, notice: impl FnMut(Notice)) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        let ready = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&deadline.timeout()));
        if matches!(ready, Ok(count) if count > 0) { self.receive(notice) } else { Ok(()) }
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.qmp.close();
    }
}

fn take(
    message: Message,
    greeted: &mut Option<Version>,
    qmp: &Qmp,
    notice: &mut impl FnMut(Notice),
) -> Result<()> {
    let Some(version) = *greeted else {
        let Message::Greeting(version) = message else { return Err(ProtocolError::NoGreeting.into()) };
        *greeted = Some(version);
        let sent = qmp.lock().send("qmp_capabilities", &json!({}), NEGOTIATION);
        return if sent { Ok(()) } else { Err(Error::NotConnected) };
    };
    match message {
        Message::Greeting(_) => return Err(ProtocolError::UnknownMessage.into()),
        Message::Event(event) => notice(Notice::Event(event)),
        Message::Answer(Some(NEGOTIATION), Ok(_)) => {
            qmp.lock().ready = true;
            notice(Notice::Ready(version));
        }
        Message::Answer(Some(NEGOTIATION), Err(refusal)) => {
            return Err(Error::Refused {
                command: "qmp_capabilities",
                class: refusal.class,
                description: refusal.desc,
            });
        }
        Message::Answer(Some(id), verdict) => {
            if let Some(sender) = qmp.lock().waiting.remove(&id) {
                // Whoever sent it may have stopped waiting.
                let _ = sender.try_send(verdict);
            }
        }
        // QEMU could not read a command; all of ours are JSON, so there is nobody to tell.
        Message::Answer(None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
