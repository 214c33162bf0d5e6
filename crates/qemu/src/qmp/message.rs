//! QMP's messages as data. Pure: bytes in, messages or errors out.
//!
//! Invariants: no input panics; a line is never longer than [`LINE_BYTES_MAX`], and no more than that is buffered.

use bygone_model::Micros;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ProtocolError;

/// The longest line accepted from a peer. QEMU's own are far shorter (a few KiB).
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// An event from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data.
    pub data: Map<String, Value>,
    /// When it happened, by QEMU's clock (the wall clock of this computer).
    pub time: Micros,
}

/// A version of QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version {
    /// The 10 of 10.0.2.
    pub major: u32,
    /// The 0 of 10.0.2.
    pub minor: u32,
    /// The 2 of 10.0.2.
    pub micro: u32,
}

/// QEMU's error in answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub class: String,
    #[serde(default)]
    pub desc: String,
}

/// One line from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Greeting(Version),
    /// The answer to the command with this id; `None` when it has no id (QEMU could not parse the command).
    Answer(Option<u64>, Result<Value, Refusal>),
    Event(Event),
}

impl Message {
    /// Parses one line, without its line end.
    pub(crate) fn parse(line: &[u8]) -> Result<Message, ProtocolError> {
        #[derive(Deserialize)]
        struct Timestamp {
            seconds: i64,
            microseconds: i64,
        }
        #[derive(Deserialize)]
        struct Versions {
            qemu: Version,
        }
        #[derive(Deserialize)]
        struct Greeting {
            version: Versions,
        }
        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "QMP")]
            greeting: Option<Greeting>,
            id: Option<u64>,
            // An answer can be `null`, which differs from no answer.
            #[serde(default, rename = "return", deserialize_with = "present")]
            answer: Option<Value>,
            error: Option<Refusal>,
            event: Option<String>,
            data: Option<Map<String, Value>>,
            timestamp: Option<Timestamp>,
        }
        fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
            Value::deserialize(from).map(Some)
        }

        let line: Line = serde_json::from_slice(line).map_err(ProtocolError::NotJson)?;
        if let Some(greeting) = line.greeting {
            return Ok(Message::Greeting(greeting.version.qemu));
        }
        if let Some(name) = line.event {
            // QEMU sets both to -1 when it does not know the time.
            let time = line.timestamp.map_or(0, |t| {
                t.seconds.saturating_mul(1_000_000).saturating_add(t.microseconds.clamp(0, 999_999))
            });
            let data = line.data.unwrap_or_default();
            return Ok(Message::Event(Event { name, data, time: Micros(time.max(0)) }));
        }
        match (line.answer, line.error) {
            (_, Some(refusal)) => Ok(Message::Answer(line.id, Err(refusal))),
            (Some(value), None) => Ok(Message::Answer(line.id, Ok(value))),
            (None, None) => Err(ProtocolError::UnknownMessage),
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// No line end before this position.
    searched: usize,
}

impl Lines {
    /// Adds received bytes and calls `each` with every line that they complete.
    pub(crate) fn feed<E: From<ProtocolError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
            let end = self.searched + at;
            self.searched = end + 1;
            let line = self.buffer[start..end].trim_ascii();
            start = end + 1;
            if !line.is_empty() {
                each(line)?;
            }
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(ProtocolError::LineTooLong { max: LINE_BYTES_MAX }.into());
        }
        Ok(())
    }
}
