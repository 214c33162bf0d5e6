//! Entry points for fuzz targets: what a disk and a QEMU say, without either.

use serde_json::Value;

use crate::{
    fs_state,
    qemu::{
        ProtocolError,
        qmp::{Event, Lines, Message, Version},
    },
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

/// The file systems that are found on a disk: kind, place, and whether each is clean.
pub fn file_systems(
    size_bytes: u64,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<(&'static str, u64, bool)> {
    let found = fs_state::find(size_bytes, read);
    found.into_iter().map(|state| (state.kind, state.offset, state.clean)).collect()
}
