//! The manager's API on a unix socket: one request per connection, in lines of JSON (see `bygone_api`).
//!
//! Only the owner of the store can open the socket (mode 0600 in a folder of mode 0700).

use std::{
    fs, io,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::{
    api::{
        Answers, Asked, Call, Caller, Failure, Items, Progress, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply,
        call,
    },
    calls::own_zone,
    error::{Error, Result, Usage},
    manager::Manager,
};

const CONNECTIONS_MAX: usize = 128;
/// The timeout of each read of a request and each write of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const ACCEPT_EVERY: Duration = Duration::from_millis(100);
/// How long a client waits until the manager has closed its export: stopping a socket that has clients takes up to five
/// seconds.
const PUT_AWAY_MAX: Duration = Duration::from_secs(7);
/// How long a client waits for the manager to end any other call.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// How often a client checks whether its user still wants the answer.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// A listening API.
pub(crate) struct ApiServer {
    manager: Arc<Manager>,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub(crate) fn start(manager: Arc<Manager>) -> Result<ApiServer> {
        let path = manager.paths().api_socket();
        let io = |e| Error::file("listening on", &path, e);
        // The holder of the store's lock may replace a stale socket.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(io)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (stopping, counted, served) = (stop.clone(), connections.clone(), manager.clone());
        let thread = std::thread::Builder::new()
            .name("api".into())
            .spawn(move || accept(&listener, &served, &stopping, &counted))
            .map_err(io)?;
        Ok(ApiServer { manager, stop, connections, thread: Some(thread) })
    }

    /// Removes the socket. Clients that have connected before are answered.
    pub(crate) fn stop_accepting(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Removed first: who has not connected by now finds no manager.
        let _ = fs::remove_file(self.manager.paths().api_socket());
        self.stop.store(true, Ordering::Release);
        let _ = thread.join();
    }

    /// Waits until no client is connected; returns false if one still is after `within`.
    pub(crate) fn wait_for_clients(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.is_busy() && Instant::now() < end {
            std::thread::sleep(LOOK_EVERY);
        }
        !self.is_busy()
    }

    /// Whether a client is connected.
    pub(crate) fn is_busy(&self) -> bool {
        self.connections.load(Ordering::Acquire) > 0
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

fn accept(
    listener: &UnixListener,
    manager: &Arc<Manager>,
    stop: &AtomicBool,
    connections: &Arc<AtomicUsize>,
) {
    while !stop.load(Ordering::Acquire) {
        let wait = Timespec { tv_sec: 0, tv_nsec: ACCEPT_EVERY.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait));
        match listener.accept() {
            Ok((stream, _)) => begin_answering(stream, manager, connections),
            // Whoever wants to connect has gone, or nobody did.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            // Such as no free descriptor: the client is still there, so `poll` does not wait for one.
            Err(_) => std::thread::sleep(ACCEPT_EVERY),
        }
    }
    // Nobody finds the socket any more. Those that had connected before are as many as the listener queues.
    while let Ok((stream, _)) = listener.accept() {
        begin_answering(stream, manager, connections);
    }
}

fn begin_answering(stream: UnixStream, manager: &Arc<Manager>, connections: &Arc<AtomicUsize>) {
    if connections.load(Ordering::Acquire) >= CONNECTIONS_MAX {
        refuse(&stream);
        return;
    }
    connections.fetch_add(1, Ordering::AcqRel);
    // Dropped with the thread, even if that panics or cannot be started.
    let counted = Counted(connections.clone());
    let manager = manager.clone();
    let answer = move || {
        let _counted = counted;
        if let Err(e) = answer(&stream, &manager) {
            tracing::debug!(error = %e, "an API connection ended");
        }
    };
    let _ = std::thread::Builder::new().name("api-client".into()).spawn(answer);
}

/// Answers a client for which there is no thread, without reading its request. The answer fits into the socket's empty
/// buffer, so this does not wait for the client.
fn refuse(mut stream: &UnixStream) {
    let failure = Error::TooManyClients { max: CONNECTIONS_MAX }.failure();
    let line = serde_json::to_string(&Reply::<(), ()>::Failed(failure)).unwrap_or_default();
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(format!("{line}\n").as_bytes()));
}

/// Counts a connection, for its lifetime.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until a request begins to arrive, or the calls in progress are to end.
fn is_asked(stream: &UnixStream, manager: &Manager) -> bool {
    let end = Instant::now() + PATIENCE;
    let wait = Timespec { tv_sec: 0, tv_nsec: ACCEPT_EVERY.subsec_nanos().into() };
    loop {
        // Asked before the look, so that a request that has arrived by then is answered.
        let is_last = manager.is_closing() || Instant::now() > end;
        let mut fds = [PollFd::new(stream, PollFlags::IN)];
        if poll(&mut fds, Some(&wait)).is_ok_and(|ready| ready > 0) {
            return true;
        }
        if is_last {
            return false;
        }
    }
}

fn answer(stream: &UnixStream, manager: &Manager) -> io::Result<()> {
    if !is_asked(stream, manager) {
        return Ok(());
    }
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_until(b'\n', &mut line)?;
    let mut client =
        Client { stream, manager, last_progress: None, broken: false, caller: Caller::default() };
    let result = match serde_json::from_slice::<Asked>(&line) {
        Ok(asked) => {
            client.caller = asked.caller;
            manager.answer(&asked.request, &mut client)
        }
        Err(e) => Err(Usage::BadRequest(e.to_string()).into()),
    };
    match result {
        Ok(value) => client.send(&Reply::Done(value)),
        // The client has not given it up, so it is not told that.
        Err(e) if manager.is_closing() && e.failure() == Failure::Abandoned => {
            client.send(&Reply::Failed(Failure::ManagerGone))
        }
        Err(e) => client.send(&Reply::Failed(e.failure())),
    };
    Ok(())
}

/// The client of a connection.
struct Client<'a> {
    stream: &'a UnixStream,
    manager: &'a Manager,
    last_progress: Option<Instant>,
    broken: bool,
    caller: Caller,
}

impl Client<'_> {
    fn send(&mut self, reply: &Reply<Value, Value>) -> bool {
        if self.broken {
            return false;
        }
        let sent = serde_json::to_vec(reply).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.stream.write_all(&line)
        });
        self.broken = sent.is_err();
        !self.broken
    }

    /// Whether it still waits for the answer.
    fn is_there(&self) -> bool {
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(self.stream, gone)];
        let asked = poll(&mut fds, Some(&now));
        !self.broken && asked.is_ok() && !fds[0].revents().intersects(gone)
    }
}

impl Answers for Client<'_> {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn progress(&mut self, progress: Progress) -> bool {
        if self.last_progress.is_some_and(|last| last.elapsed() < PROGRESS_EVERY) {
            return self.wanted();
        }
        self.last_progress = Some(Instant::now());
        self.send(&Reply::Progress(progress)) && self.wanted()
    }

    fn note(&mut self, text: String) {
        self.send(&Reply::Note(text));
    }

    fn wanted(&mut self) -> bool {
        !self.manager.is_closing() && self.is_there()
    }
}

impl Items<Value> for Client<'_> {
    /// True also when the calls in progress are to end: a list is finite, and one that ends early would be taken for
    /// all that there is.
    fn item(&mut self, item: Value) -> bool {
        self.send(&Reply::Item(item)) && self.is_there()
    }
}

/// Connects to a running manager; `None` if none runs.
pub(crate) fn connect(path: &Path) -> Option<UnixStream> {
    UnixStream::connect(path).ok()
}

/// Sends a call to a running manager; `began` if it was started for this call.
///
/// # Errors
/// The failure of the call, or [`Error::ManagerGone`]; [`Error::ManagerEnding`] if the manager did not read the call.
/// If the answer is no longer wanted: [`Error::Abandoned`] once the manager has ended the call and released what it
/// held for it; otherwise [`Error::GoesOn`].
pub(crate) fn ask<C: Call>(
    stream: &UnixStream,
    call: &C,
    began: bool,
    answers: &mut dyn Items<C::Item>,
) -> Result<C::Answer> {
    let gone = |_| Error::ManagerGone;
    let mut is_read = false;
    let caller = Caller { zone: own_zone(), began, ..answers.caller().clone() };
    let asked = Asked { request: call.clone().into(), caller };
    // Only an export can take long to close. Any other call that the manager does not end at once goes on.
    let put_away = if C::NAME == call::Export::NAME { PUT_AWAY_MAX } else { GIVE_UP_MAX };
    let mut line = serde_json::to_vec(&asked).map_err(|e| Usage::BadRequest(e.to_string()))?;
    line.push(b'\n');
    // A manager that has too many clients answers without reading the request, and closes its side.
    let is_sent = (&*stream).write_all(&line).is_ok();
    // A short timeout, so that a signal here is noticed while the manager sends nothing.
    stream.set_read_timeout(Some(WANTED_EVERY)).map_err(gone)?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        match (&mut reader).take(REPLY_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(_) if line.last() == Some(&b'\n') => {}
            // Without all of its line, nothing was done.
            Ok(_) if !is_sent && !is_read => return Err(Error::ManagerEnding),
            Ok(_) => return Err(Error::ManagerGone),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                if !answers.wanted() {
                    return Err(give_up(stream, put_away));
                }
                continue;
            }
            // A unix socket is reset if its other end was closed before all was read that had been written to it.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && !is_read => {
                return Err(Error::ManagerEnding);
            }
            Err(_) => return Err(Error::ManagerGone),
        }
        is_read = true;
        let reply: Reply<C::Item, C::Answer> =
            serde_json::from_slice(&line).map_err(|e| Usage::BadRequest(e.to_string()))?;
        line.clear();
        let wanted = match reply {
            Reply::Progress(progress) => answers.progress(progress),
            Reply::Note(text) => {
                answers.note(text);
                true
            }
            Reply::Item(item) => answers.item(item),
            Reply::Done(answer) => return Ok(answer),
            Reply::Failed(failure) => return Err(Error::Told(failure)),
        };
        if !wanted || !answers.wanted() {
            return Err(give_up(stream, put_away));
        }
    }
}

/// Shuts down this side, which tells the manager that the answer is no longer wanted, and waits until the manager has
/// closed its side.
fn give_up(mut stream: &UnixStream, within: Duration) -> Error {
    let end = Instant::now() + within;
    let mut scrap = [0; 16 << 10];
    let mut open = stream.shutdown(Shutdown::Write).is_ok();
    while open && Instant::now() < end {
        open = match stream.read(&mut scrap) {
            Ok(len) => len > 0,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
    }
    if open { Error::GoesOn } else { Error::Abandoned }
}
