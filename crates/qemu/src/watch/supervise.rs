//! The thread that watches one machine.
//!
//! Invariants: it waits only in one `poll`, on the process, the monitor and its owner's signals, so nothing that QEMU
//! does or omits can block it. It ends with the machine or when its owner is dropped, and in the latter case leaves the
//! machine alone.

use std::{
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Shared, firmware, missed,
    report::{By, Happening, Reason, Report, Story},
};
use crate::{
    console,
    deadline::Deadline,
    error::Error,
    places::Places,
    process::{Exit, Process},
    qmp::{
        self, Answer, Event, Incoming, Notice, Qmp, QueryStatus, RebootAction, RingbufRead, RunState,
        SetAction,
    },
    spec::{FIRMWARE_LOG, FIRMWARE_LOG_BYTES},
};

/// The first and the longest delay between attempts to connect to the monitor.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often the sizes of the logs are checked.
const LOGS_EVERY: Duration = Duration::from_secs(10);
/// When the connection ends, the process usually ends as well. This is how long to wait for that before reporting a
/// lost connection.
const EXIT_FOLLOWS_MAX: Duration = Duration::from_millis(500);
/// How many bytes of QEMU's own output go into the last report.
const LAST_WORDS_BYTES_MAX: u64 = 2000;

pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) process: Arc<Process>,
    pub(super) places: Places,
    pub(super) signal: UnixStream,
    pub(super) reports: SyncSender<Report>,
    pub(super) story: Story,
    pub(super) question: Option<Question>,
}

/// The initiator of a reset is queried from QEMU, and reports are queued until the answer.
#[derive(Debug)]
pub(super) struct Question {
    said: Answer<RingbufRead>,
    waiting: Vec<Report>,
}

/// The connection to the monitor, as this thread uses it.
struct Link {
    incoming: Incoming,
    qmp: Qmp,
    ready: bool,
    /// A pending query of the state, with the time of the event that caused it.
    status: Option<(Answer<QueryStatus>, Option<bygone_model::Micros>)>,
}

/// The connection to the monitor, or when the next attempt to connect is due.
struct Connection {
    link: Option<Link>,
    /// It was there before, which has been reported.
    lost: bool,
    retry: Duration,
    retry_at: Deadline,
}

impl Connection {
    /// When something has to be done although nothing arrives.
    fn until(&self, logs_at: Deadline) -> Deadline {
        if self.link.is_none() { logs_at.min(self.retry_at) } else { logs_at }
    }
}

impl Supervisor {
    pub(super) fn run(mut self) {
        let retry_at = Deadline::after(Duration::ZERO);
        let mut connection = Connection { link: None, lost: false, retry: RETRY_MIN, retry_at };
        let mut logs_at = Deadline::after(LOGS_EVERY);
        loop {
            self.connect(&mut connection);
            let awake = self.poll(connection.link.as_ref(), connection.until(logs_at));
            if self.shared.lock().stopping {
                return;
            }
            if awake.monitor
                && let Some(exit) = self.listen(&mut connection)
            {
                return self.exited(exit);
            }
            if awake.exited
                && let Some(exit) = self.ended(Deadline::after(Duration::ZERO))
            {
                // The last messages on the monitor are handled before the end.
                while let Some(open) = &mut connection.link {
                    if self.receive(open).is_err() {
                        connection.link = None;
                    }
                }
                self.answer_question(false);
                return self.exited(exit);
            }
            if logs_at.passed() {
                console::bound_logs(&self.places);
                logs_at = Deadline::after(LOGS_EVERY);
            }
        }
    }

    /// Connects to the monitor, if that is due.
    fn connect(&self, connection: &mut Connection) {
        if connection.link.is_some() || !connection.retry_at.passed() {
            return;
        }
        // Not listening yet, or busy with a connection that is about to end: both are retried.
        let connected = qmp::connect(&self.places.qmp_socket()).ok();
        connection.link = connected.map(|(qmp, incoming)| Link { incoming, qmp, ready: false, status: None });
        connection.retry = (connection.retry * 2).min(RETRY_MAX);
        connection.retry_at = Deadline::after(connection.retry);
    }

    /// Handles what has arrived on the monitor; returns how QEMU ended, if it has.
    fn listen(&mut self, connection: &mut Connection) -> Option<Exit> {
        let open = connection.link.as_mut()?;
        let received = self.receive(open);
        let is_ready = open.ready;
        let Err(error) = received else {
            if is_ready {
                connection.retry = RETRY_MIN;
                if std::mem::take(&mut connection.lost) {
                    self.tell(None, Happening::ConnectionBack);
                }
            }
            return None;
        };
        connection.link = None;
        self.shared.set_qmp(None);
        self.answer_question(false);
        if let Some(exit) = self.ended(Deadline::after(EXIT_FOLLOWS_MAX)) {
            return Some(exit);
        }
        if !matches!(error, Error::NotConnected) {
            tracing::warn!(dir = %self.places.dir().display(), %error, "the connection to QEMU broke");
            connection.retry = RETRY_MAX;
        }
        connection.retry_at = Deadline::after(connection.retry);
        if is_ready && !std::mem::replace(&mut connection.lost, true) {
            self.tell(None, Happening::ConnectionLost);
        }
        None
    }

    fn poll(&mut self, link: Option<&Link>, until: Deadline) -> Awake {
        let mut fds =
            vec![PollFd::new(&self.process, PollFlags::IN), PollFd::new(&self.signal, PollFlags::IN)];
        fds.extend(link.map(|link| PollFd::from_borrowed_fd(link.incoming.as_fd(), PollFlags::IN)));
        // A failed poll was interrupted by a signal; the loop comes back here.
        let _ = poll(&mut fds, Some(&until.timeout()));
        let [exited, signal, monitor] =
            [0, 1, 2].map(|at| fds.get(at).is_some_and(|fd| !fd.revents().is_empty()));
        if signal {
            let mut bytes = [0; 64];
            // Only the wake-up matters.
            let _ = self.signal.read(&mut bytes);
        }
        Awake { exited, monitor }
    }

    fn receive(&mut self, link: &mut Link) -> Result<(), Error> {
        let Link { incoming, qmp, ready, status } = link;
        let result = incoming.receive(|notice| {
            // An answer that has arrived was sent before this notice.
            self.take_status(qmp, status);
            self.take_question();
            match notice {
                Notice::Ready(_) => {
                    *ready = true;
                    self.shared.set_qmp(Some(qmp.clone()));
                    *status = qmp.start(&QueryStatus).ok().map(|answer| (answer, None));
                    // An earlier supervisor may have died before restoring this. If it fails, the broken connection is
                    // reported.
                    let _ = qmp.start(&SetAction { reboot: RebootAction::Shutdown });
                }
                Notice::Event(event) => {
                    if self.story.is_unexplained_stop(&event) {
                        *status = qmp.start(&QueryStatus).ok().map(|answer| (answer, Some(event.time)));
                    } else {
                        self.take_event(qmp, &event);
                    }
                }
            }
        });
        self.take_status(qmp, status);
        self.take_question();
        result
    }

    fn take_event(&mut self, qmp: &Qmp, event: &Event) {
        let told = self.story.event(event);
        let by_guest = |what: &Happening| {
            matches!(what, Happening::Reset { reason: Reason::GuestReset, held: true, .. })
        };
        if self.question.is_none() && told.iter().any(by_guest) {
            // If the query failed or timed out, the reset counts as the guest's.
            let read = RingbufRead { device: FIRMWARE_LOG, size: FIRMWARE_LOG_BYTES };
            let asked = qmp.start(&read).ok();
            self.question = asked.map(|said| Question { said, waiting: Vec::new() });
        }
        for what in told {
            self.tell(Some(event.time), what);
        }
    }

    fn take_question(&mut self) {
        let Some(question) = &mut self.question else { return };
        let Some(said) = question.said.take() else { return };
        match said {
            Ok(said) => self.answer_question(firmware::reset_itself(&said)),
            Err(error) => {
                tracing::warn!(dir = %self.places.dir().display(), %error, "QEMU does not say what its firmware did");
                self.answer_question(false);
            }
        }
    }

    /// Sends the reports that were queued for the answer.
    fn answer_question(&mut self, by_firmware: bool) {
        let waiting = self.question.take().map(|question| question.waiting);
        for mut report in waiting.into_iter().flatten() {
            if let Happening::Reset { by, reason: Reason::GuestReset, .. } = &mut report.what
                && by_firmware
            {
                *by = By::Firmware;
            }
            self.send(report);
        }
    }

    fn take_status(
        &mut self,
        qmp: &Qmp,
        status: &mut Option<(Answer<QueryStatus>, Option<bygone_model::Micros>)>,
    ) {
        let Some((answer, time)) = status else { return };
        let Some(answered) = answer.take() else { return };
        let time = *time;
        *status = None;
        match answered {
            Ok(answered) => {
                if answered.state == RunState::Shutdown
                    && !self.story.is_held()
                    && let Some(event) = missed::stop(&self.places)
                {
                    self.take_event(qmp, &event);
                }
                for what in self.story.status(&answered) {
                    self.tell(time, what);
                }
            }
            Err(error) => {
                tracing::warn!(dir = %self.places.dir().display(), %error, "QEMU does not say its state");
            }
        }
    }

    fn ended(&self, deadline: Deadline) -> Option<Exit> {
        self.process.wait(deadline).unwrap_or_else(|error| {
            tracing::warn!(dir = %self.places.dir().display(), %error, "QEMU's end cannot be told");
            Some(Exit::Unknown)
        })
    }

    fn exited(&mut self, exit: Exit) {
        self.story.exited(exit);
        self.shared.set_qmp(None);
        let last_words = self.places.last_words(LAST_WORDS_BYTES_MAX);
        self.tell(None, Happening::Exited { exit, last_words });
    }

    /// Reports something, now or after the queued reports.
    fn tell(&mut self, time: Option<bygone_model::Micros>, what: Happening) {
        let report = Report { time, what };
        match &mut self.question {
            Some(question) => question.waiting.push(report),
            None => self.send(report),
        }
    }

    /// Sends a report. Blocks while the receiver's queue is full, but only as long as the owner exists.
    fn send(&self, mut report: Report) {
        self.shared.set_phase(self.story.phase());
        loop {
            match self.reports.try_send(report) {
                // Nothing receives reports; callers that wait for a phase still have to be woken.
                Ok(()) | Err(TrySendError::Disconnected(_)) => break,
                Err(TrySendError::Full(back)) => report = back,
            }
            if self.shared.lock().stopping {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Awake {
    exited: bool,
    monitor: bool,
}
