//! The QMP commands in use, with the types of their answers (QEMU's `qapi/*.json`).

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A command and the type of its answer.
pub trait Command {
    /// Its name on the wire.
    const NAME: &'static str;
    /// QEMU's answer; unused fields are skipped.
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
    /// Queries the state of the machine.
    QueryStatus = "query-status" -> Status;
    /// Presses the power button.
    SystemPowerdown = "system_powerdown" -> Nothing;
    /// Presses the reset button. Under `reboot=shutdown` QEMU treats it as a shutdown; see [`SetAction`].
    SystemReset = "system_reset" -> Nothing;
    /// Pauses the machine.
    Stop = "stop" -> Nothing;
    /// Resumes the machine. Refused in the states [`RunState::Shutdown`] and [`RunState::InternalError`] until after a
    /// reset.
    Cont = "cont" -> Nothing;
    /// Ends QEMU once its disk requests in flight are done.
    Quit = "quit" -> Nothing;
    /// Lists the disks and their I/O status.
    QueryBlock = "query-block" -> Vec<Drive>;
    /// Lists the character devices and whether they are connected.
    QueryChardev = "query-chardev" -> Vec<Chardev>;
}

/// Sets what happens on a reset, by the guest or by [`SystemReset`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SetAction {
    /// The action on a reset.
    pub reboot: RebootAction,
}

impl Command for SetAction {
    const NAME: &'static str = "set-action";
    type Answer = Nothing;

    fn arguments(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|_| json!({}))
    }
}

/// Drains a ring buffer, as base64: as text it would end at the first zero byte.
#[derive(Clone, Copy, Debug)]
pub struct RingbufRead {
    /// The name of its character device.
    pub device: &'static str,
    /// How many bytes, oldest first.
    pub size: u32,
}

impl Command for RingbufRead {
    const NAME: &'static str = "ringbuf-read";
    type Answer = String;

    fn arguments(&self) -> Value {
        json!({ "device": self.device, "size": self.size, "format": "base64" })
    }
}

/// What happens on a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The machine starts over at once.
    Reset,
    /// It is treated as a shutdown.
    Shutdown,
}

/// An answer without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Nothing {}

/// The answer to [`QueryStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the processors run.
    pub running: bool,
    /// The state of the machine.
    #[serde(rename = "status")]
    pub state: RunState,
}

/// The states of a machine (`RunState` in `qapi/run-state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It runs.
    Running,
    /// It was paused by a command.
    Paused,
    /// It was created, or reset while paused, and has not started.
    Prelaunch,
    /// It was shut down and is paused.
    Shutdown,
    /// Its operating system panicked, and it is paused.
    GuestPanicked,
    /// A disk failed, and it is paused.
    IoError,
    /// The hypervisor cannot run it any further.
    InternalError,
    /// It is suspended (ACPI S3).
    Suspended,
    /// Its watchdog expired, and it is paused.
    Watchdog,
    /// Any other.
    #[serde(untagged)]
    Other(String),
}

impl RunState {
    /// Whether [`Cont`] needs a reset first.
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

/// One disk in the answer to [`QueryBlock`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Drive {
    /// Its path in QEMU's object tree; Bygone's are `/machine/peripheral/virtio-DISK/virtio-backend`.
    pub qdev: Option<String>,
    /// `ok`, `failed` or `nospace`; present only where the machine stops on errors.
    pub io_status: Option<String>,
    /// Its block node.
    pub inserted: Option<Inserted>,
}

/// The block node of a disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inserted {
    /// The node's name; Bygone's are `disk-DISK`.
    pub node_name: Option<String>,
    /// Whether it is read-only.
    #[serde(rename = "ro")]
    pub read_only: bool,
    /// Its size and location.
    pub image: Image,
}

/// The size and location of a disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// The size the guest sees, in bytes.
    pub virtual_size: u64,
    /// A URI, such as `nbd+unix:///NAME/DISK?socket=PATH`.
    pub filename: String,
}

/// One console or monitor in the answer to [`QueryChardev`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Chardev {
    /// Its name; Bygone's are `console` and `qmp`.
    pub label: String,
    /// Its address; starts with `disconnected:` when no client is connected.
    pub filename: String,
}
