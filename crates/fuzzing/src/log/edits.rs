//! Damage to a log's files, from a fuzzer's bytes: changed bytes, files truncated, lost, renamed and mixed up, and
//! repaired checksums.

use crate::{formats::repair, input::Input, memory::Files};

/// No file grows beyond this.
const FILE_BYTES_MAX: usize = 1 << 20;
const EDITS_MAX: usize = 32;

/// What was damaged.
#[derive(Clone, Copy, Default)]
pub(super) struct Damage {
    /// A checksum was repaired, so damaged bytes may pass for written ones.
    pub(super) forged: bool,
    /// More than the index was damaged.
    pub(super) log: bool,
}

/// Applies edits until the input ends.
pub(super) fn apply(input: &mut Input<'_>, files: &mut Files) -> Damage {
    let mut damage = Damage::default();
    for _ in 0..EDITS_MAX {
        if input.is_empty() || files.is_empty() {
            break;
        }
        let names: Vec<String> = files.keys().cloned().collect();
        let (op, name) = (input.u8(), names[input.below(names.len())].clone());
        let Some(bytes) = files.get_mut(&name) else { continue };
        damage.log |= name.starts_with("log/");
        match op % 12 {
            0 | 1 => {
                let at = place(input, bytes.len());
                let (front, len) = (input.u8(), bytes.len());
                if let Some(byte) = bytes.get_mut(at.min(len.saturating_sub(1))) {
                    *byte ^= front.max(1);
                }
            }
            2 => {
                let (at, len) = (place(input, bytes.len()), usize::from(input.u8()));
                let new = input.bytes(len);
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            3 => bytes.truncate(place(input, bytes.len())),
            4 => {
                let at = place(input, bytes.len());
                let end = (at + 1 + input.below(8192)).min(bytes.len());
                bytes[at..end].fill(input.u8());
            }
            5 => bytes.resize((bytes.len() + input.below(4096)).min(FILE_BYTES_MAX), input.u8()),
            6 => drop(files.remove(&name)),
            7 => {
                let other = names[input.below(names.len())].clone();
                let content = bytes.clone();
                damage.log |= other.starts_with("log/");
                files.insert(other, content);
            }
            8 => {
                if let Some(content) = files.remove(&name) {
                    files.insert(renamed(input, &name), content);
                }
            }
            9 => {
                // A piece of another file, or of this one.
                let other = files[&names[input.below(names.len())]].clone();
                let from = place(input, other.len());
                let piece = other[from..(from + input.below(8192)).min(other.len())].to_vec();
                let bytes = files.entry(name).or_default();
                let at = place(input, bytes.len());
                let end = (at + piece.len()).min(FILE_BYTES_MAX);
                bytes.resize(bytes.len().max(end), 0);
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
            _ => {
                let at = place(input, bytes.len());
                damage.forged |= repair::file(&name, bytes, at);
            }
        }
    }
    damage
}

/// An offset in a file; about half the time one where a structure begins.
fn place(input: &mut Input<'_>, len: usize) -> usize {
    let how = input.u8();
    let n = input.below(1 << 16);
    let at = match how % 4 {
        0 => n,
        1 => n * 8,
        2 => len.saturating_sub(n % 512),
        _ => 4096 + n % 64 * 8,
    };
    if len == 0 { 0 } else { at % (len + 1) }
}

/// Another name, with a number that may exist or that nothing expects.
fn renamed(input: &mut Input<'_>, name: &str) -> String {
    let number = match input.u8() % 4 {
        0 => u32::MAX - u32::from(input.u8() % 4),
        1 => input.u32(),
        _ => u32::from(input.u8() % 40),
    };
    let how = input.u8() % 8;
    let plus = if how == 0 { "+" } else { "" };
    let digits = format!("{plus}{number:0width$}", width = 10 - plus.len());
    match name.split_once('-') {
        // As if another holder had made it.
        Some(_) if name.starts_with("log/") && how == 1 => format!("log/{digits}-00000002.seg"),
        Some((_, rest)) if name.starts_with("log/") => format!("log/{digits}-{rest}"),
        Some((_, rest)) => format!("index/{digits}-{rest}"),
        None => format!("index/{digits}"),
    }
}
