//! Rebuilds a stripe whose index is damaged from the log itself.
//!
//! The result is one delta of all versions that there ever were and an image of the end. It answers for every moment on
//! its own and needs none of the damaged trees. The log is read once for each slice of the stripe, so that memory stays
//! bounded however many versions there are (I8).

use std::collections::BTreeSet;

use bygone_model::{Seq, VolumeId};

use super::{Contents, Version, Versions, Writer, row};
use crate::{
    error::Result,
    format::{
        checkpoint::{Row, TABLE_STRIPES, TreeRef},
        page::STRIPE_SECTORS,
        segment::Entry,
    },
    index::{
        mended::{Lost, StripeId},
        tree::{self, DeltaBuilder, ImageBuilder},
    },
};

/// The least number of versions in memory at a time, because each slice costs a walk through the log.
const AT_ONCE: usize = 1 << 19;

/// All versions that were ever written, read from the log.
pub trait History {
    /// Calls `each` with every version of a volume up to and including record `upto`, in order of seq.
    ///
    /// # Errors
    /// If they cannot be read, or some may be missing.
    fn versions(&self, volume: VolumeId, upto: Seq, each: &mut dyn FnMut(&Entry)) -> Result<()>;
}

/// The stripes of a table that were written up to record `upto`.
pub(super) fn stripes_of(
    history: &dyn History,
    volume: VolumeId,
    table: u32,
    upto: Seq,
) -> Result<impl Iterator<Item = u32>> {
    let (first, end) = (u64::from(table * TABLE_STRIPES), (u64::from(table) + 1) * u64::from(TABLE_STRIPES));
    let mut stripes = BTreeSet::new();
    history.versions(volume, upto, &mut |entry| {
        let last = entry.end().0.saturating_sub(1) / STRIPE_SECTORS;
        let reaches = (entry.lba.0 / STRIPE_SECTORS).max(first)..(last + 1).min(end);
        stripes.extend(reaches.map(|stripe| stripe as u32));
    })?;
    Ok(stripes.into_iter())
}

/// Writes the trees of a stripe. `new` are its versions within the checkpoint's own span. [`Lost`]: not all older ones can
/// be read; nothing was written.
pub(super) fn row(
    out: &mut Writer<'_>,
    history: &dyn History,
    (volume, stripe): StripeId,
    new: &[Version],
    contents: &Contents,
) -> Result<std::result::Result<Row, Lost>> {
    let each_old = |each: &mut dyn FnMut(&Version)| {
        let mut parts = Versions::default();
        history.versions(volume, contents.start, &mut |entry| {
            parts.add(entry);
            parts.0.drain(..).filter(|version| version.1 == stripe).for_each(|version| each(&version));
        })
    };
    let mut old = 0;
    // Whatever the reason: a checkpoint must not wait for a segment that may never be read again.
    if let Err(error) = each_old(&mut |_| old += 1) {
        return Ok(Err(Lost::by(&error)));
    }
    let (mut delta, mut image) = (DeltaBuilder::default(), ImageBuilder::default());
    let mut entries = 0;
    for slice in row::slices(old + new.len() as u64, contents.at_once.max(AT_ONCE)) {
        let mut versions = Vec::new();
        each_old(&mut |version| versions.extend(tree::clipped(&version.2, &slice)))?;
        versions.extend(row::inside(new, &slice));
        entries += versions.len();
        delta.slice(out, &slice, &[], &versions)?;
        image.add(out, &tree::current_runs(&versions))?;
    }
    let mut made = Row { stripe, ..Row::default() };
    if let (Some(delta), (Some(image), runs)) = (delta.finish(out)?, image.finish(out)?) {
        let (entries, high) = (u32::try_from(entries).unwrap_or(u32::MAX), contents.end);
        made.deltas = vec![TreeRef { root: delta, entries, low: Seq::ZERO, high }];
        made.after = Some(TreeRef { root: image, entries: runs, low: high, high });
    }
    Ok(Ok(made))
}
