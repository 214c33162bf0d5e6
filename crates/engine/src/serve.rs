//! Runs the manager, or asks the running one.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bygone_block::nbd;
use bygone_qemu::Places;
use bygone_store::Error as StoreError;

use crate::{
    api::{Answers, Call, Failure, Items, Request, call},
    calls::{Handle as _, In},
    error::{Error, Result, Usage, or_panicked},
    exports::{ManagerExports, NBD_STOP_MAX},
    lifecycle::{Change, Request as Asked},
    machine::{self, Machine},
    manager::{ADOPT_EVERY, Manager, stop_machine},
    socket::{self, ApiServer},
    store_dir::{Configs, StorePaths},
    target::{Begun, Target, lock},
};

const TICK: Duration = Duration::from_millis(50);
/// A manager in the background ends when it was idle for this long.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// How long a manager that ends is waited for, and how long a started one while it lives: after a crash, opening a
/// large store reads much.
const START_MAX: Duration = Duration::from_secs(900);
/// How long a client waits before it asks again after a manager that ends.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long the end of the manager waits for a start in progress.
const STARTED_MAX: Duration = Duration::from_secs(60);
const CLOSE_MAX: Duration = Duration::from_secs(60);

/// Set by a signal.
static STOP: AtomicBool = AtomicBool::new(false);

/// Makes [`serve`] return. Does nothing but set a flag, so a signal handler may call it.
pub fn stop_serving() {
    STOP.store(true, Ordering::Release);
}

/// How to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeOptions {
    /// End once it is idle.
    pub until_idle: bool,
    /// Offer the exports on this TCP address as well.
    pub listen: Option<String>,
    /// The target that the starter of this manager is about to run with options of its own, so it is not started
    /// automatically.
    pub to_run: Option<String>,
}

/// Where a manager can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeInfo {
    /// The unix socket of its API.
    pub api: PathBuf,
    /// The unix socket of its exports.
    pub nbd: PathBuf,
    /// The TCP address of its exports.
    pub listen: Option<String>,
}

/// Makes a store.
///
/// # Errors
/// When there is one already, or the folder cannot be used.
pub fn init(store: &Path) -> Result<()> {
    StorePaths::new(store).make()
}

/// The thread that does upkeep of all logs, until this is dropped.
pub(crate) struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(manager: Arc<Manager>) -> Result<Keeper> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let keep = move || {
            let mut said = HashMap::new();
            while !stopping.load(Ordering::Acquire) {
                // It is the only one: the logs without a defect have their turns next.
                let worked = or_panicked("upkeep", || Ok(manager.logs().work()));
                say_troubles(&manager, &mut said);
                match worked {
                    Ok(true) => {}
                    Ok(false) => std::thread::sleep(TICK),
                    // Printed each time, if it comes again.
                    Err(_) => std::thread::sleep(ADOPT_EVERY),
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("keeper".into())
            .spawn(keep)
            .map_err(|e| Error::file("starting a thread for", "upkeep", e))?;
        Ok(Keeper { stop, thread: Some(thread) })
    }
}

/// Logs what prevents upkeep of each target. A message is not repeated while the reason stays the same: the log may be
/// on the same full medium. `said` has the last reason for each target.
fn say_troubles(manager: &Manager, said: &mut HashMap<String, String>) {
    for target in manager.served() {
        let log = &target.log;
        let trouble = log.upkeep_trouble().or(log.is_poisoned().then_some(StoreError::Poisoned));
        let why = trouble.map(|error| error.to_string());
        if why.as_ref() == said.get(&target.name) {
            continue;
        }
        if let Some(why) = why {
            tracing::warn!(target = target.name, error = why, "upkeep has to wait");
            said.insert(target.name.clone(), why);
        } else {
            said.remove(&target.name);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the manager until it is asked to stop ([`stop_serving`], [`call::Shutdown`]) or is idle. Machines that were
/// left running are adopted; targets marked `autostart` that are in the store are started. At the end, supervised
/// machines are shut down, unless the request said to keep them running.
///
/// # Errors
/// When the store cannot be opened or the sockets cannot be created.
pub fn serve(store: &Path, options: &ServeOptions, ready: &mut dyn FnMut(&ServeInfo)) -> Result<()> {
    serve_with(&Manager::open_to_serve(&StorePaths::new(store))?, options, ready)
}

/// As [`serve`], with a manager that has opened its store to serve it.
///
/// # Errors
/// When the sockets cannot be created.
pub(crate) fn serve_with(
    manager: &Arc<Manager>,
    options: &ServeOptions,
    ready: &mut dyn FnMut(&ServeInfo),
) -> Result<()> {
    let paths = manager.paths().clone();
    let run = paths.root().join("run");
    fs::create_dir_all(&run).map_err(|e| Error::file("making", &run, e))?;
    let exports = Arc::new(ManagerExports(manager.clone()));
    let server = manager.nbd().clone();
    let scope = nbd::Scope::new(exports);
    // Disks first, because a machine that was left running stands still until they are served. Each target is served as
    // soon as it is open.
    let opener = Opener::start(manager.clone())?;
    let nbd_socket = paths.nbd_socket();
    let unix = server.serve_unix(&nbd_socket, scope.clone())?;
    let keeper = Keeper::start(manager.clone())?;
    let tcp = match &options.listen {
        Some(at) => {
            let address =
                std::net::ToSocketAddrs::to_socket_addrs(at.as_str()).ok().and_then(|mut all| all.next());
            let address = address.ok_or_else(|| Usage::BadAddress(at.clone()))?;
            Some(server.serve_tcp(address, scope)?)
        }
        None => None,
    };
    let mut api = ApiServer::start(manager.clone())?;
    // Before a machine stops. It is of no use to whoever waits for the manager.
    let children = manager.children().clone();
    if let Err(error) =
        std::thread::Builder::new().name("child-test".to_owned()).spawn(move || children.try_one())
    {
        tracing::warn!(%error, "it is not known whether disks can be looked at");
    }
    manager.watching().begin();
    // Requests need not wait until machines are adopted and started.
    let caretaker = Caretaker::start(manager.clone(), options.to_run.clone())?;
    ready(&ServeInfo {
        api: paths.api_socket(),
        nbd: nbd_socket,
        listen: tcp.as_ref().map(|serving| serving.address().to_string()),
    });
    let is_busy = || {
        let used = |target: &Arc<Target>| target.is_unsupervised() || target.doing().is_some();
        manager.served().iter().any(used)
            || manager.is_opening()
            || manager.is_busy()
            || api.is_busy()
            || caretaker.is_busy()
    };
    let mut busy_at = Instant::now();
    while !STOP.load(Ordering::Acquire) && !manager.is_stopping() {
        if is_busy() {
            busy_at = Instant::now();
        }
        if options.until_idle && busy_at.elapsed() > IDLE_MAX {
            manager.stop_if_idle(&is_busy);
        }
        std::thread::sleep(TICK);
    }
    // First, so that the machines that run or are being started now are all there are. Clients are answered meanwhile:
    // a machine can be looked at, or forced.
    manager.begin_stopping();
    let keep_targets = manager.keep_targets.load(Ordering::Acquire);
    drop(caretaker);
    stop_all(manager, keep_targets);
    drop(opener);
    // From here on commands do not find this manager: they start another one, which waits for the store's lock.
    manager.says_it_ends();
    api.stop_accepting();
    manager.begin_closing();
    if !api.wait_for_clients(CLOSE_MAX) {
        tracing::warn!("some calls are cut off: they did not end in time");
    }
    unix.stop(NBD_STOP_MAX);
    if let Some(tcp) = &tcp {
        tcp.stop(NBD_STOP_MAX);
    }
    for target in manager.served() {
        target.stop_serving_machine();
    }
    close(manager, keep_targets);
    drop(keeper);
    Ok(())
}

/// The thread that opens all targets.
struct Opener(Option<JoinHandle<()>>);

impl Opener {
    fn start(manager: Arc<Manager>) -> Result<Opener> {
        let thread = std::thread::Builder::new()
            .name("opener".into())
            .spawn(move || manager.open_all())
            .map_err(|e| Error::file("starting a thread for", "opening", e))?;
        Ok(Opener(Some(thread)))
    }
}

/// Waits for the targets that are being opened; once the manager stops, no more are begun.
impl Drop for Opener {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that looks for machines that were left running and adopts them (retrying once a second), starts the
/// targets marked `autostart` that are not added only now, and continues reading disks, for each target once it is
/// open.
///
/// It visits each target in a thread of its own, so that a disk that does not respond, or a defect, of one target holds
/// up no other.
pub(crate) struct Caretaker {
    stop: Arc<AtomicBool>,
    begun: Arc<AtomicBool>,
    visits: Arc<Visits>,
    /// The threads that start targets marked `autostart`.
    starting: Starting,
    thread: Option<JoinHandle<()>>,
}

pub(crate) type Starting = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// The targets that are being visited, by the ids of their logs, and why their last visits failed.
#[derive(Default)]
pub(crate) struct Visits {
    now: Mutex<HashMap<[u8; 16], JoinHandle<Result<()>>>>,
    failed: Mutex<HashMap<[u8; 16], String>>,
}

impl Visits {
    /// Whether this target is still being visited.
    fn is_visited(&self, target: &Target) -> bool {
        let mut now = lock(&self.now);
        let log = target.log.id();
        match now.remove(&log) {
            Some(visit) if visit.is_finished() => {
                self.note(target, visit.join().unwrap_or(Ok(())));
                false
            }
            Some(visit) => {
                now.insert(log, visit);
                true
            }
            None => false,
        }
    }

    /// Logs why a visit failed, unless the one before did for the same reason.
    pub(crate) fn note(&self, target: &Target, visited: Result<()>) {
        let mut failed = lock(&self.failed);
        let Err(error) = visited else {
            failed.remove(&target.log.id());
            return;
        };
        let why = error.to_string();
        if failed.insert(target.log.id(), why.clone()).is_none_or(|before| before != why) {
            tracing::error!(target = target.name, %error, "it is not taken care of");
        }
    }

    fn begin(&self, target: &Target, visit: impl Fn() -> Result<()> + Clone + Send + 'static) {
        let own = visit.clone();
        match std::thread::Builder::new().name("care".into()).spawn(own) {
            Ok(thread) => drop(lock(&self.now).insert(target.log.id(), thread)),
            // Others wait for it instead.
            Err(_) => self.note(target, visit()),
        }
    }

    fn are_over(&self) -> bool {
        lock(&self.now).values().all(JoinHandle::is_finished)
    }
}

impl Caretaker {
    pub(crate) fn start(manager: Arc<Manager>, to_run: Option<String>) -> Result<Caretaker> {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopping, has_begun) = (stop.clone(), begun.clone());
        let (visits, starting) = (Arc::<Visits>::default(), Starting::default());
        let (visiting, starting_now) = (visits.clone(), starting.clone());
        let care = move || {
            let mut seen = Seen::default();
            let mut adopt_at = Instant::now();
            while !stopping.load(Ordering::Acquire) {
                let adopts = Instant::now() >= adopt_at;
                for target in manager.served() {
                    if stopping.load(Ordering::Acquire) {
                        return;
                    }
                    if visiting.is_visited(&target) {
                        continue;
                    }
                    // At once when the target is open, then once a second.
                    let look = seen.look(&target);
                    if look.is_new || (adopts && target.is_unsupervised()) {
                        let starts = look.starts && to_run.as_ref() != Some(&target.name);
                        let (manager, starting) = (manager.clone(), starting_now.clone());
                        let own = target.clone();
                        let visit = move || visit(&manager, &own, Look { starts, ..look }, &starting);
                        visiting.begin(&target, visit);
                    }
                    // This thread is the only one that does it.
                    let _ = or_panicked("counting its size", || {
                        target.count_size();
                        Ok(())
                    });
                }
                if adopts {
                    adopt_at = Instant::now() + ADOPT_EVERY;
                }
                has_begun.store(true, Ordering::Release);
                std::thread::sleep(TICK);
            }
        };
        let thread = std::thread::Builder::new()
            .name("caretaker".into())
            .spawn(care)
            .map_err(|e| Error::file("starting a thread for", "taking care", e))?;
        Ok(Caretaker { stop, begun, visits, starting, thread: Some(thread) })
    }

    /// Whether it is still visiting the targets that were open at the first look, or starting some.
    pub(crate) fn is_busy(&self) -> bool {
        !self.begun.load(Ordering::Acquire)
            || !self.visits.are_over()
            || lock(&self.starting).iter().any(|thread| !thread.is_finished())
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // One that does not respond ends with the process. None begins to adopt a machine any more, because the gate for
        // machines is closed; one that has begun may still do it, and leaves the machine to the next manager.
        let end = Instant::now() + CLOSE_MAX;
        while !self.visits.are_over() && Instant::now() < end {
            std::thread::sleep(TICK / 5);
        }
        for thread in lock(&self.starting).drain(..) {
            let _ = thread.join();
        }
    }
}

/// The targets that the caretaker has seen, by the ids of their logs: a name may be another target's by now, and a
/// target may have another name.
#[derive(Default)]
pub(crate) struct Seen(HashMap<[u8; 16], Weak<Target>>);

/// What the caretaker has to do with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// It was opened since the last look.
    pub(crate) is_new: bool,
    /// It starts with the manager: it is marked so, was in the store when the manager started, and was never seen
    /// before.
    pub(crate) starts: bool,
}

impl Seen {
    pub(crate) fn look(&mut self, target: &Arc<Target>) -> Look {
        let before = self.0.insert(target.log.id(), Arc::downgrade(target));
        Look {
            is_new: before.as_ref().is_none_or(|before| !std::ptr::eq(before.as_ptr(), Arc::as_ptr(target))),
            starts: before.is_none() && !target.is_added() && target.config().autostart,
        }
    }
}

/// Does what is to be done for a target.
///
/// # Errors
/// When a defect prevents it.
pub(crate) fn visit(
    manager: &Arc<Manager>,
    target: &Arc<Target>,
    look: Look,
    starting: &Starting,
) -> Result<()> {
    let adopted = or_panicked("taking care of the target", || {
        if target.is_unsupervised() {
            adopt(target);
        }
        Ok(())
    });
    // Also after a defect there: adopting is tried again, and this is not.
    let begun = or_panicked("taking care of the target", || {
        if look.is_new {
            let begun = begin_care(manager, target, look.starts);
            lock(starting).extend(begun);
        }
        Ok(())
    });
    adopted.and(begun)
}

fn adopt(target: &Arc<Target>) {
    if target.has_foreign_machine() {
        // It is never adopted, so nobody has to wait for an attempt: only its end is noted.
        target.look_for_machine();
        return;
    }
    let adopted = match target.begin(Change::Starting, Asked::Run) {
        Ok(Begun::Adopt(op)) => Machine::adopt(&op),
        // It has ended meanwhile, or another request has the turn.
        Ok(Begun::Go(_)) | Err(_) => return,
    };
    if adopted.is_ok() {
        tracing::info!(target = target.name, "adopted the machine that was left running");
    }
}

/// Continues reading the disks of a target that was opened; if it `starts`, also starts it, and returns the thread that
/// does.
fn begin_care(manager: &Arc<Manager>, target: &Arc<Target>, starts: bool) -> Option<JoinHandle<()>> {
    let name = &target.name;
    let mut starting = None;
    if starts && !target.is_running() && !target.is_left_running() {
        // Also if it cannot be determined whether its machine runs: that is found out by the start.
        let run = call::Run { name: name.clone(), at: None, branch: None, display: None };
        let (manager, name) = (manager.clone(), name.clone());
        let start = move || loop {
            match manager.handle(&run, &mut UntilEnding(&manager)) {
                Ok(_) => tracing::info!(target = name, "started"),
                // It is started as soon as that is known, if it does not run.
                Err(Error::MachineUnknown { .. }) if !manager.is_stopping() => {
                    std::thread::sleep(ADOPT_EVERY / 5);
                    continue;
                }
                // The caretaker has adopted it meanwhile.
                Err(Error::TargetRunning(_) | Error::ManagerEnding) => {}
                Err(e) => tracing::error!(target = name, error = %e, "cannot be started"),
            }
            break;
        };
        // In a thread of its own, so that other targets do not wait.
        match std::thread::Builder::new().name("autostart".into()).spawn(start) {
            Ok(thread) => starting = Some(thread),
            Err(error) => tracing::error!(target = target.name, %error, "cannot be started"),
        }
    }
    target.catch_up();
    if let Err(e) = target.read_disks() {
        tracing::warn!(target = name, error = %e, "its disk cannot be read now");
    }
    starting
}

/// Waits for the machines that are being started, and stops all unless they are to be kept. No other machine can start,
/// because the manager ends.
fn stop_all(manager: &Arc<Manager>, keep_targets: bool) {
    let mut stopping = Vec::new();
    for target in manager.served() {
        // In this order: a start puts its machine into the slot before it ends.
        if target.wait_until_started(Duration::ZERO) && !target.is_running() {
            continue;
        }
        let own = target.clone();
        let stop = move || end_machine(&own, keep_targets);
        match std::thread::Builder::new().name("stop".into()).spawn(stop) {
            Ok(thread) => stopping.push(thread),
            // One after the other instead.
            Err(_) => end_machine(&target, keep_targets),
        }
    }
    for thread in stopping {
        let _ = thread.join();
    }
}

fn end_machine(target: &Arc<Target>, keep: bool) {
    let name = &target.name;
    if !target.wait_until_started(STARTED_MAX) {
        tracing::error!(target = name, "it is still being started, and may go on running");
    }
    let Some(machine) = target.machine().filter(|_| !keep) else { return };
    if let Err(e) = stop_machine(target, &machine, false, None, &mut Logged(name)) {
        tracing::error!(target = name, error = %e, "cannot be stopped");
        return;
    }
    // A stop that could not be written was logged.
    let _ = target.wait_ended(&machine, &mut || true);
}

/// Logs the steps of a stop.
struct Logged<'a>(&'a str);

impl Answers for Logged<'_> {
    fn progress(&mut self, _: crate::api::Progress) -> bool {
        true
    }
    fn note(&mut self, text: String) {
        tracing::info!(target = self.0, "{text}");
    }
    fn wanted(&mut self) -> bool {
        true
    }
}

/// How long the end of a manager waits for the last looks at machines that have ended.
const LAST_LOOK_MAX: Duration = Duration::from_secs(10);

/// Closes all targets; the reading of disks is stopped and continues the next time.
fn close(manager: &Manager, keep_targets: bool) {
    for target in manager.served() {
        target.begin_closing();
    }
    let end = Instant::now() + CLOSE_MAX;
    while !keep_targets && manager.is_busy() && Instant::now() < end {
        std::thread::sleep(TICK / 5);
    }
    if !manager.watching().wait_until_idle(LAST_LOOK_MAX) {
        tracing::warn!("what was installed last may not be noted: a look at a disk did not end in time");
    }
    for target in manager.served() {
        if let Err(e) = target.log.flush() {
            tracing::error!(target = target.name, error = %e, "the log could not be flushed");
        }
    }
}

/// Discards all answers.
#[cfg(test)]
pub(crate) struct Nobody;

#[cfg(test)]
impl Answers for Nobody {
    fn progress(&mut self, _: crate::api::Progress) -> bool {
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

#[cfg(test)]
impl<I> Items<I> for Nobody {
    fn item(&mut self, _: I) -> bool {
        true
    }
}

/// Discards all answers; they are wanted until the manager ends.
struct UntilEnding<'a>(&'a Manager);

impl Answers for UntilEnding<'_> {
    fn progress(&mut self, _: crate::api::Progress) -> bool {
        self.wanted()
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.0.is_stopping()
    }
}

impl<I> Items<I> for UntilEnding<'_> {
    fn item(&mut self, _: I) -> bool {
        self.wanted()
    }
}

/// Asks the manager of `store`: the running one, or, if none runs, one in this process for the duration of the call.
/// For calls that need a lasting manager (such as `run`), one is started in the background. A manager that ends and
/// therefore does not begin with the call is waited for, and the next one is asked.
///
/// # Errors
/// The failure of the call, or why no manager can be reached.
pub fn ask<C: Call>(store: &Path, call: &C, answers: &mut dyn Items<C::Item>) -> Result<C::Answer> {
    let paths = StorePaths::new(store);
    paths.check()?;
    let end = Instant::now() + START_MAX;
    loop {
        let refused = match ask_now(&paths, call, answers) {
            Err(e @ (Error::ManagerEnding | Error::Told(Failure::ManagerEnding))) => e,
            answer => return answer,
        };
        if Instant::now() > end {
            return Err(refused);
        }
        if !answers.wanted() {
            return Err(Error::Abandoned);
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn ask_now<C: Call>(paths: &StorePaths, call: &C, answers: &mut dyn Items<C::Item>) -> Result<C::Answer> {
    if let Some(stream) = socket::connect(&paths.api_socket()) {
        return socket::ask(&stream, call, false, answers);
    }
    let request: Request = call.clone().into();
    if needs_manager(paths, &request) || (answers.caller().detached && request.lasts()) {
        start_in_background(paths, &request, &mut || answers.wanted())?;
        let stream = socket::connect(&paths.api_socket()).ok_or(Error::ManagerGone)?;
        return socket::ask(&stream, call, true, answers);
    }
    let manager = match Manager::open(paths) {
        // A manager was started meanwhile.
        Err(e @ Error::StoreLocked { .. }) => {
            let stream = socket::connect(&paths.api_socket()).ok_or(e)?;
            return socket::ask(&stream, call, false, answers);
        }
        opened => opened?,
    };
    if matches!(request, Request::Export(_)) {
        manager.says_it_exports();
    }
    let keeper = Keeper::start(manager.clone())?;
    let mut understood = In::<C>::new(answers);
    let result = manager.answer(&request, &mut understood);
    let result = understood.end(result);
    manager.says_it_ends();
    close(&manager, false);
    drop(keeper);
    result
}

/// Whether a request needs a manager that outlives the command: a machine has to be supervised.
fn needs_manager(paths: &StorePaths, request: &Request) -> bool {
    match request {
        Request::Run(_) => true,
        Request::Stop(call::Stop { name, .. }) | Request::Wait(call::Wait { name }) => {
            let found =
                || Some(bygone_qemu::Running::find(&Places::new(paths.run_dir(name)).ok()?).ok()?.is_some());
            found().unwrap_or(false)
        }
        _ => false,
    }
}

fn start_in_background(
    paths: &StorePaths,
    request: &Request,
    wanted: &mut dyn FnMut() -> bool,
) -> Result<()> {
    let program = std::env::current_exe().map_err(|e| Error::file("finding", "this program", e))?;
    let log_path = paths.manager_log();
    let io = |e| Error::file("writing", &log_path, e);
    if let Some(folder) = log_path.parent() {
        fs::create_dir_all(folder).map_err(io)?;
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(&log_path).map_err(io)?;
    let said_before = log.metadata().map_err(io)?.len();
    let mut command = Command::new(&program);
    command
        .arg("--store")
        .arg(paths.root())
        .args(["serve", "--until-idle"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io)?)
        .stderr(log);
    if let Request::Run(run) = request {
        command.arg("--to-run").arg(&run.name);
    }
    let mut child =
        bygone_sys::detach(&mut command).spawn().map_err(|e| Error::file("starting", &program, e))?;
    let end = Instant::now() + START_MAX;
    while socket::connect(&paths.api_socket()).is_none() {
        let ended = child.try_wait().map_err(io)?.is_some();
        if ended || Instant::now() > end {
            let said = fs::read(&log_path).unwrap_or_default();
            let said = said.get(said_before as usize..).unwrap_or_default();
            return Err(Error::ManagerNotUp(String::from_utf8_lossy(said).trim().to_owned()));
        }
        if !wanted() {
            return Err(Error::Abandoned);
        }
        std::thread::sleep(TICK / 5);
    }
    Ok(())
}

/// The names of a store's targets with those of their disks, as far as they can be read: without a manager, without
/// locking the store, and without opening a target.
///
/// # Errors
/// When there is no store that this program can use, or its folder of targets cannot be read.
pub fn target_names(store: &Path) -> Result<Vec<(String, Vec<String>)>> {
    let paths = StorePaths::new(store);
    paths.check()?;
    let disks = |name: &String| {
        let config = Configs::of(&paths.target_dir(name), name).load_of_any();
        config.map_or(Vec::new(), |config| config.disks.into_iter().map(|disk| disk.id).collect())
    };
    Ok(paths.targets()?.into_iter().map(|name| (name.clone(), disks(&name))).collect())
}

/// Attaches this terminal to the serial console of a target; Ctrl-] detaches and leaves it running.
///
/// # Errors
/// When it does not run, another target's machine runs in its place, or another terminal is attached.
pub fn console(store: &Path, name: &str) -> Result<()> {
    let paths = StorePaths::new(store);
    paths.check()?;
    if !paths.targets()?.iter().any(|target| target == name) {
        return Err(Error::NoTarget(name.to_owned()));
    }
    let places = Places::new(paths.run_dir(name))?;
    let Some((running, _)) = bygone_qemu::Running::find(&places)? else {
        return Err(Error::TargetStopped(name.to_owned()));
    };
    machine::check_own(&paths, name, running.process.pid)?;
    bygone_qemu::console::attach(&places, std::io::stdin(), std::io::stdout())?;
    Ok(())
}
