//! Writes a checkpoint again under its own name, because its events or its frame are damaged.
//!
//! What the old file has stays where it is, because later checkpoints refer to its pages; everything that is made anew
//! follows behind it. The new file takes the name once it is whole and durable, so a reader finds one of the two.

use std::{collections::BTreeMap, collections::BTreeSet, io, io::IoSlice, sync::Arc};

use super::{Contents, Damaged, History, Writer, create, write_body, write_events};
use crate::{
    caller::Caller,
    env::{File, read_exact_at},
    error::{Error, Result, is_unreadable},
    format::{
        checkpoint::{self, FRAME_BYTES, Footer, Name, StoredEvent},
        page::BLOCK_ALIGN_BYTES,
    },
    index::checkpoint::{Checkpoint, IndexFiles},
};

/// How much of the old file is copied at a time, …
const CHUNK_BYTES: u64 = 1 << 20;
/// … and how much of it where a larger piece cannot be read.
const PIECE_BYTES: u64 = 4096;

/// What is made anew.
pub(crate) enum Again<'a> {
    /// The events. Everything else that the footer says is known.
    Events(&'a Footer, &'a [StoredEvent]),
    /// All of the checkpoint after this one.
    All(Option<&'a Checkpoint>, Contents, &'a dyn History),
}

/// Writes the checkpoint `name` again, for the holder in `term`. With `holes`, what cannot be read of the old file is left
/// out; otherwise that is an error. `look` fails if another holder has taken the log over.
///
/// # Errors
/// As [`super::write`]. The file is what it was before.
pub(crate) fn write_again(
    index: &IndexFiles,
    (name, term): (Name, u32),
    again: Again<'_>,
    holes: bool,
    look: &dyn Fn() -> Result<()>,
) -> Result<Checkpoint> {
    let (dir, file_name, part) = (&*index.dir, name.file_name(), name.part_name(term));
    look()?;
    let file = create(dir, &part)?;
    let written = (|| {
        let header = checkpoint::encode_header(name.number, &index.log_id, name.term);
        let written = keep(index, &name, &*file, holes)?;
        file.write_at(&mut [IoSlice::new(&header)], 0).map_err(|e| Error::io("writing", &part, e))?;
        let mut out = Writer {
            file: file.clone(),
            name: part.clone(),
            number: name.number,
            buffer: Vec::new(),
            written,
            page_entries_max: usize::MAX,
            caller: Caller::default(),
            look,
        };
        let (footer, mended) = match again {
            Again::Events(footer, events) => {
                let footer = Footer { events: write_events(&mut out, events)?, ..footer.clone() };
                out.finish(&footer)?;
                (footer, BTreeMap::new())
            }
            Again::All(previous, mut contents, history) => {
                contents.versions.sort();
                out.page_entries_max = contents.page_entries_max;
                let (known, history, stripes) = (&index.mended, Some(history), BTreeSet::new());
                let (mended, aside) = (BTreeMap::new(), BTreeMap::new());
                let mut damaged = Damaged { history, known, stripes, mended, aside, lost: None };
                let footer = write_body(&mut out, index, previous, &contents, &mut damaged)?;
                (footer, damaged.mended)
            }
        };
        look()?;
        dir.replace(&part, &file_name).map_err(|e| Error::io("writing anew", &file_name, e))?;
        Ok((footer, mended))
    })();
    let (footer, mended) = written.inspect_err(|_| drop(dir.remove(&part)))?;
    index.forget_file(name.number);
    dir.sync(checkpoint::folder()).map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
    for (stripe, tree) in mended {
        index.mended.add(stripe, tree, name.end);
    }
    Ok(Checkpoint { name, _keep: index.keep(&name, &footer), footer })
}

/// Copies all that the file of a checkpoint has behind its header; returns where what is new may begin.
fn keep(index: &IndexFiles, name: &Name, to: &dyn File, holes: bool) -> Result<u64> {
    let file_name = name.file_name();
    let from: Arc<dyn File> = match index.dir.open(&file_name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(FRAME_BYTES as u64),
        opened => opened.map_err(|e| Error::unread(&file_name, 0, e))?,
    };
    let end = from.len_bytes().map_err(|e| Error::io("reading", &file_name, e))?;
    let (mut at, mut chunk) = (FRAME_BYTES as u64, Vec::new());
    let mut step = CHUNK_BYTES;
    while at < end {
        // A piece ends where a block of the medium does, so that a bad one costs nothing beside it.
        let next = (at + 1).next_multiple_of(step).min(end);
        chunk.clear();
        chunk.resize((next - at) as usize, 0);
        match read_exact_at(&*from, &mut chunk, at) {
            Err(e) if is_unreadable(&e) && step > PIECE_BYTES => {
                step = PIECE_BYTES;
                continue;
            }
            // Left out.
            Err(e) if is_unreadable(&e) && holes => {}
            Err(e) => return Err(Error::unread(&file_name, at, e)),
            Ok(()) => to
                .write_at(&mut [IoSlice::new(&chunk)], at)
                .map_err(|e| Error::io("writing", &name.file_name(), e))?,
        }
        at = next;
        if at.is_multiple_of(CHUNK_BYTES) {
            step = CHUNK_BYTES;
        }
    }
    Ok(end.max(FRAME_BYTES as u64).next_multiple_of(BLOCK_ALIGN_BYTES))
}
