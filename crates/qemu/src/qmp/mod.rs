//! QEMU's machine protocol (QMP, `docs/interop/qmp-spec.rst`) over a unix socket.
//!
//! A connection has two ends: [`Incoming`], owned by the one thread that reads, and [`Qmp`], with which any thread may
//! send commands and wait for their answers. To reconnect, the caller makes a new pair.
//!
//! Invariants:
//! - the reading end never blocks; the caller polls it, and it reads what is available;
//! - the sender of every command gets exactly one result: QEMU's answer, a timeout, or the end of the connection; an
//!   answer after the timeout is dropped;
//! - a peer can use at most [`LINE_BYTES_MAX`] of memory plus [`COMMANDS_MAX`] pending commands, and can do no more
//!   harm than to break the connection;
//! - events are delivered in the order in which QEMU sent them, and before any answer that came after them.

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

/// How many commands can be pending at once.
pub const COMMANDS_MAX: usize = 64;

/// How long to wait for a peer to read one command.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// The id of the command that ends the negotiation.
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

/// The reading end. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    stream: UnixStream,
    lines: Lines,
    greeted: Option<Version>,
    qmp: Qmp,
}

/// What [`Incoming::receive`] delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The negotiation is over: commands are accepted from here on.
    Ready(Version),
    /// An event.
    Event(Event),
}

/// Connects to the monitor of a QEMU and returns at once. [`Incoming::receive`] handles the greeting and the
/// negotiation, and delivers [`Notice::Ready`] when commands can be sent.
///
/// # Errors
/// [`Error::NotListening`] when nothing listens there, or the listener's queue is full.
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

/// Connects to a unix socket without ever waiting for the peer. (An ordinary connect waits, without a limit, when the
/// listener's queue is full; QEMU's has room for one.) The returned stream is blocking.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Qmp {
    /// Sends a command and waits for its answer. The thread that owns [`Incoming`] must not call this, as it would wait
    /// for itself; it uses [`Qmp::start`].
    ///
    /// # Errors
    /// [`Error::Refused`] when QEMU answers with an error; [`Error::Unanswered`] on a timeout and
    /// [`Error::NotConnected`] when the connection breaks, after both of which the command may still be carried out.
    pub fn execute<C: Command>(&self, command: &C, within: Duration) -> Result<C::Answer> {
        self.start(command)?.wait(within)
    }

    /// Sends a command whose answer is fetched later.
    ///
    /// # Errors
    /// [`Error::NotConnected`] before [`Notice::Ready`] and after the end of the connection, [`Error::TooManyCommands`]
    /// when [`COMMANDS_MAX`] are pending already.
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

    /// Closes the connection: the reading end sees its end, and every waiting sender gets an error.
    pub fn close(&self) {
        self.lock().close();
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Writes one command. A peer that does not read it loses the connection, because a part of the command may have
    /// been sent.
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
        // Dropping the senders wakes the waiting callers.
        self.waiting.clear();
    }
}

/// The pending answer to a command. Dropping it discards the answer, not the command.
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

    /// The answer, if it has arrived.
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
    /// Reads what the peer has sent, at most some 64 KiB at a time, without waiting; to be called when the socket is
    /// readable (or has hung up). `notice` is called on this thread.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the peer has gone, [`Error::Protocol`] when it violates the protocol. The
    /// connection is closed then.
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
            // The descriptor is shared with the sending end, which blocks; so only this call is made non-blocking.
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

    /// Waits for data from the peer, at most until the deadline.
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
                // The sender may have stopped waiting.
                let _ = sender.try_send(verdict);
            }
        }
        // QEMU could not parse a command. All of ours are JSON, so no sender is waiting for this.
        Message::Answer(None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
