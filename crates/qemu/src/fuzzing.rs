//! An entry point for a fuzz target: QEMU's side of QMP, without a QEMU.

use serde_json::Value;

use crate::{
    ProtocolError,
    qmp::{Event, Lines, Message, Version},
};

/// A line from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The greeting.
    Greeting(Version),
    /// The answer to the command with this id; or the class and description of a refusal.
    Answer(Option<u64>, Result<Value, (String, String)>),
    /// An event.
    Event(Event),
}

/// Parses what a QEMU sends, in the pieces in which it arrives, up to the first error. Returns the messages, and
/// whether there was an error.
pub fn qmp(pieces: &[&[u8]]) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    let mut lines = Lines::default();
    for piece in pieces {
        let fed = lines.feed(piece, |line| {
            said.push(match Message::parse(line)? {
                Message::Greeting(version) => Said::Greeting(version),
                Message::Answer(id, verdict) => {
                    Said::Answer(id, verdict.map_err(|refusal| (refusal.class, refusal.desc)))
                }
                Message::Event(event) => Said::Event(event),
            });
            Ok::<(), ProtocolError>(())
        });
        if fed.is_err() {
            return (said, true);
        }
    }
    (said, false)
}
