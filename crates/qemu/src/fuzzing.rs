//! An entry point for a fuzz target: what a QEMU says, without one.

use serde_json::Value;

use crate::{
    ProtocolError,
    qmp::{Event, Lines, Message, Version},
};

/// A line from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The first one.
    Greeting(Version),
    /// The answer to the command of a number; or the class and words of a refusal.
    Answer(Option<u64>, Result<Value, (String, String)>),
    /// Something that it tells by itself.
    Event(Event),
}

/// Takes what a QEMU sends, in the pieces in which it comes, up to the first mistake; the messages, and whether there was one.
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
