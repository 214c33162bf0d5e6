//! The commands we use, with the form of their answers (QEMU's `qapi/*.json`).

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A command and the form of its answer.
pub trait Command {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What QEMU answers; fields we do not use are skipped.
    type Answer: DeserializeOwned;

    /// Its arguments: a JSON object.
    fn arguments(&self) -> Value {
        json!({})
    }
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $wire:literal -> $answer:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Command for $name {
            const NAME: &'static str = $wire;
            type Answer = $answer;
        }
    )*};
}

plain! {
    /// In which state is the machine?
    QueryStatus = "query-status" -> Status;
    /// Presses the power button.
    SystemPowerdown = "system_powerdown" -> Nothing;
    /// Presses the reset button. Under `reboot=shutdown` this is a shutdown; see [`SetAction`].
    SystemReset = "system_reset" -> Nothing;
    /// Holds the machine still.
    Stop = "stop" -> Nothing;
    /// Lets it go on. Refused in the states [`RunState::Shutdown`] and [`RunState::InternalError`] until after a reset.
    Cont = "cont" -> Nothing;
    /// Ends QEMU, after the requests to its disks that are under way.
    Quit = "quit" -> Nothing;
    /// Which disks are there, and are they well?
    QueryBlock = "query-block" -> Vec<Drive>;
    /// Which consoles are there, and is anybody attached?
    QueryChardev = "query-chardev" -> Vec<Chardev>;
}

/// Says what happens on a reset, by the guest or by [`SystemReset`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SetAction {
    /// That.
    pub reboot: RebootAction,
}

impl Command for SetAction {
    const NAME: &'static str = "set-action";
    type Answer = Nothing;

    fn arguments(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|_| json!({}))
    }
}

/// Takes what a ring buffer holds out of it, as base64: as text it would end at the first zero byte.
#[derive(Clone, Copy, Debug)]
pub struct RingbufRead {
    /// The name of its character device.
    pub device: &'static str,
    /// How much of it, in bytes, oldest first.
    pub size: u32,
}

impl Command for RingbufRead {
    const NAME: &'static str = "ringbuf-read";
    type Answer = String;

    fn arguments(&self) -> Value {
        json!({ "device": self.device, "size": self.size, "format": "base64" })
    }
}

/// What a reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The machine starts over at once.
    Reset,
    /// It counts as a shutdown.
    Shutdown,
}

/// An answer without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Nothing {}

/// The answer to [`QueryStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Do the processors run?
    pub running: bool,
    /// In which state is it?
    #[serde(rename = "status")]
    pub state: RunState,
}

/// The states of a machine (`RunState` in `qapi/run-state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It runs.
    Running,
    /// Somebody paused it.
    Paused,
    /// It was made, or reset while held, and has not started.
    Prelaunch,
    /// It was shut down and held still.
    Shutdown,
    /// Its operating system gave up, and it was held still.
    GuestPanicked,
    /// A disk failed, and it was held still.
    IoError,
    /// The hypervisor cannot run it any further.
    InternalError,
    /// It sleeps (ACPI S3).
    Suspended,
    /// Its watchdog barked, and it was held still.
    Watchdog,
    /// Any other.
    #[serde(untagged)]
    Other(String),
}

impl RunState {
    /// Does [`Cont`] need a reset first?
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        matches!(self, RunState::Shutdown | RunState::InternalError)
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Prelaunch => "prelaunch",
            RunState::Shutdown => "shutdown",
            RunState::GuestPanicked => "guest-panicked",
            RunState::IoError => "io-error",
            RunState::InternalError => "internal-error",
            RunState::Suspended => "suspended",
            RunState::Watchdog => "watchdog",
            RunState::Other(word) => word,
        })
    }
}

/// One disk, as [`QueryBlock`] tells of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Drive {
    /// Where it is in QEMU's tree of objects; ours are `/machine/peripheral/virtio-DISK/virtio-backend`.
    pub qdev: Option<String>,
    /// `ok`, `failed` or `nospace`; only where the machine holds still on errors.
    pub io_status: Option<String>,
    /// What is behind it.
    pub inserted: Option<Inserted>,
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inserted {
    /// The node; ours are `disk-DISK`.
    pub node_name: Option<String>,
    /// May the guest not write?
    #[serde(rename = "ro")]
    pub read_only: bool,
    /// How large is it, and where?
    pub image: Image,
}

/// How large a disk is, and where.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// The size the guest sees, in bytes.
    pub virtual_size: u64,
    /// A URI, such as `nbd+unix:///NAME/DISK?socket=PATH`.
    pub filename: String,
}

/// One console or monitor, as [`QueryChardev`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Chardev {
    /// Its name; ours are `console` and `qmp`.
    pub label: String,
    /// Where it is; starts with `disconnected:` when nobody is attached.
    pub filename: String,
}
