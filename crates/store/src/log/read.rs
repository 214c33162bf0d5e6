//! Reads the present of an open volume, and any volume as of any moment.
//!
//! Every byte is checked against the checksum it was written with, and every record against the index entry that led
//! to it (I5).

use std::sync::{Arc, PoisonError};

use bygone_model::{Lba, Sectors, Seq, VolumeId};

use super::{Below, Layer, LiveVolume, Log};
use crate::{
    caller::Caller,
    catalog::Lost,
    error::{Error, Result},
    format::page::Page,
    index::{
        Fragment, Lookup,
        checkpoint::{Checkpoint, IndexFiles},
        head::Head,
        tree::{PageRef, PageSource},
    },
    place::{Piece, Wait},
};

/// How many checkpoints stay open.
const OPENED_MAX: usize = 16;
/// Fills a fragment that no layer of the log has.
pub type Unknown<'a, E> = dyn FnMut(&Fragment, &mut [u8]) -> std::result::Result<(), E> + 'a;

/// A run of sectors of the present, and where its content is.
pub type HeadFragment = Fragment;

/// The index pages that are in the cache; reads none.
struct CachedPages<'a>(&'a IndexFiles);

impl PageSource for CachedPages<'_> {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        self.0.cached_page(at).ok_or(Error::WouldBlock)
    }
    fn contradiction(&self, at: PageRef) -> Error {
        self.0.contradiction(at)
    }
}

impl Log {
    /// Starts keeping the head map of a volume, so that its present can be read and written. With [`Below::Device`],
    /// the device below has the versions up to `since`.
    ///
    /// # Errors
    /// When there is no such volume, or the necessary parts of the index cannot be read.
    pub fn open_volume(&self, volume: VolumeId, below: Below, since: Seq) -> Result<()> {
        let parents = Arc::new(self.ancestors(volume, Caller::default())?);
        let mut head = Head::default();
        let covered = || self.heads().base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
        let mut since = if below == Below::Index { Seq::MAX } else { since };
        let sequencer = loop {
            // Versions that a checkpoint covers are read from the segments without the sequencer's lock, because that
            // may take long.
            let known = covered();
            if since < known {
                self.versions_between(volume, since, known, &mut |entry| head.active.insert(entry))?;
                since = known;
            }
            let sequencer = self.sequencer();
            if since >= covered() {
                break sequencer;
            }
        };
        // All later versions are in memory.
        let since = if below == Below::Index { covered() } else { since };
        for entry in sequencer.recent() {
            if entry.volume == volume && entry.seq > since {
                head.active.insert(entry);
            }
        }
        let mut heads = self.heads_mut();
        heads.live.insert(volume, LiveVolume { head, frozen_at: Seq::ZERO, below, parents });
        self.note_held(&sequencer, &heads);
        Ok(())
    }

    /// Stops keeping the head map of a volume.
    pub fn close_volume(&self, volume: VolumeId) {
        let sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        heads.live.remove(&volume);
        self.note_held(&sequencer, &heads);
    }

    /// Where the present of a range is. Fragments for which nothing was found are zeroes or, with [`Below::Device`],
    /// what the device below has.
    ///
    /// # Errors
    /// When the volume is not open, or the index cannot be read.
    pub fn resolve_head(
        &self,
        volume: VolumeId,
        lba: Lba,
        sectors: Sectors,
        wait: Wait,
    ) -> Result<Vec<HeadFragment>> {
        let mut lookup = Lookup::new(lba, sectors);
        let (base, parents) = {
            let heads = self.heads();
            let live = heads.live.get(&volume).ok_or(Error::NoVolume(volume))?;
            live.head.resolve(&mut lookup);
            if lookup.open.is_empty() || live.below == Below::Device {
                return Ok(lookup.finish());
            }
            (heads.base.clone(), live.parents.clone())
        };
        if let Some(base) = base {
            self.resolve_in(&base, volume, Seq::MAX, &mut lookup, wait)?;
        }
        self.resolve_layers(&parents, &mut lookup, wait)?;
        Ok(lookup.finish())
    }

    fn resolve_in(
        &self,
        at: &Checkpoint,
        volume: VolumeId,
        seq: Seq,
        lookup: &mut Lookup,
        wait: Wait,
    ) -> Result<()> {
        match wait {
            Wait::Yes => self.index.resolve(at, volume, seq, lookup),
            Wait::No => {
                let table = |at| self.index.cached_table(at).ok_or(Error::WouldBlock);
                self.index.resolve_with(&CachedPages(&self.index), &table, at, volume, seq, lookup)
            }
        }
    }

    fn resolve_layers(&self, layers: &[Layer], lookup: &mut Lookup, wait: Wait) -> Result<()> {
        for layer in layers {
            if lookup.open.is_empty() {
                break;
            }
            self.resolve_layer(layer, lookup, wait)?;
        }
        Ok(())
    }

    fn resolve_layer(&self, layer: &Layer, lookup: &mut Lookup, wait: Wait) -> Result<()> {
        if let Some(recent) = &layer.recent {
            recent.map.resolve(lookup);
        }
        match &layer.checkpoint {
            Some(checkpoint) if !lookup.open.is_empty() => {
                self.resolve_in(checkpoint, layer.volume, layer.seq, lookup, wait)
            }
            _ => Ok(()),
        }
    }

    /// Freezes the head map of a volume, so that the device below can take it. Returns it and the moment that it
    /// shows. A map that was frozen before and not dropped yet is returned again, with its own moment.
    ///
    /// # Errors
    /// When the volume is not open.
    pub fn freeze_head(&self, volume: VolumeId) -> Result<(Arc<crate::index::head::HeadMap>, Seq)> {
        let sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        let live = heads.live.get_mut(&volume).ok_or(Error::NoVolume(volume))?;
        if live.head.frozen.is_none() {
            live.frozen_at = sequencer.head;
        }
        Ok((live.head.freeze(), live.frozen_at))
    }

    /// Drops the frozen head map of a volume: the device below has it.
    pub fn drop_frozen_head(&self, volume: VolumeId) {
        let sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        if let Some(live) = heads.live.get_mut(&volume) {
            live.head.drop_frozen();
        }
        self.note_held(&sequencer, &heads);
    }

    /// The number of runs in the head map of a volume: what a device below has not taken yet.
    #[must_use]
    pub fn head_runs(&self, volume: VolumeId) -> usize {
        let heads = self.heads();
        heads.live.get(&volume).map_or(0, |live| live.head.runs())
    }

    /// The volumes that a volume descends from, nearest first, each at the moment at which the one above it began.
    fn ancestors(&self, volume: VolumeId, caller: Caller<'_>) -> Result<Vec<Layer>> {
        let catalog = self.catalog();
        let mut out = Vec::new();
        let mut at = catalog.volume(volume)?;
        let mut seq = Seq::MAX;
        while let Some((parent, from)) = at.parent {
            // A parent's id is smaller; checked so that a damaged catalog cannot make this loop.
            if parent >= at.id {
                return Err(Error::NoVolume(parent));
            }
            seq = seq.min(from);
            out.extend(Some(self.layer(parent, seq, caller)?).filter(Layer::may_have_versions));
            at = catalog.volume(parent)?;
        }
        Ok(out)
    }

    /// A volume as of `seq`, without its ancestors.
    fn layer(&self, volume: VolumeId, seq: Seq, caller: Caller<'_>) -> Result<Layer> {
        // Reading writes a checkpoint only if that saves memory: otherwise a client that keeps asking for the present
        // would leave one each time.
        if let Some(layer) = self.layer_in_memory(volume, seq, self.options.view_versions_max()) {
            return Ok(layer);
        }
        let lost_upto = self.catalog().lost_upto(volume, seq);
        match self.checkpoint_holding(seq, caller) {
            Ok(checkpoint) => return Ok(Layer { volume, seq, recent: None, checkpoint, lost_upto }),
            Err(gone @ Error::Abandoned) => return Err(gone),
            // Reading must need no room, no right to write, and nothing else that only writing a checkpoint needs.
            Err(_) => {}
        }
        match self.layer_in_memory(volume, seq, usize::MAX) {
            Some(layer) => Ok(layer),
            // A checkpoint was written after all, a moment later.
            None => match self.checkpoint_holding(seq, caller) {
                Ok(checkpoint) => Ok(Layer { volume, seq, recent: None, checkpoint, lost_upto }),
                Err(error) if error.is_index_damage() => self.layer_from_log(volume, seq, &error),
                Err(error) => Err(error),
            },
        }
    }

    /// The same from the newest checkpoint and the later versions, which are in memory. `None`: a checkpoint covers
    /// `seq`, or more than `max` versions are in memory.
    fn layer_in_memory(&self, volume: VolumeId, seq: Seq, max: usize) -> Option<Layer> {
        let sequencer = self.sequencer();
        let checkpoint = self.heads().base.clone();
        let covered = checkpoint.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
        if covered >= seq || sequencer.recent_entries > max {
            return None;
        }
        let versions =
            || sequencer.recent().filter(|e| e.volume == volume && e.seq > covered && e.seq <= seq);
        let recent = self.recents.get((volume, covered), &self.share, &versions);
        let lost_upto = sequencer.catalog.lost_upto(volume, seq);
        Some(Layer { volume, seq, recent: Some(recent), checkpoint, lost_upto })
    }

    /// The checkpoint whose span contains `seq`; writes one if none does yet.
    fn checkpoint_holding(&self, seq: Seq, caller: Caller<'_>) -> Result<Option<Arc<Checkpoint>>> {
        if seq == Seq::ZERO {
            return Ok(None);
        }
        if self.index.end() < seq {
            self.checkpoint_for(caller)?;
        }
        // Which one it is may change until the snapshot keeps its files.
        let snapshot = self.index.snapshot();
        let head = self.head_seq();
        let name = snapshot.name_for(seq).ok_or(Error::InTheFuture { asked: seq, head })?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = opened.iter().position(|c| c.name == name) {
            let checkpoint = opened.remove(i);
            opened.push(checkpoint.clone());
            return Ok(Some(checkpoint));
        }
        let checkpoint = Arc::new(self.open_checkpoint(name)?);
        if self.index.has(name) {
            if opened.len() == OPENED_MAX {
                opened.remove(0);
            }
            opened.push(checkpoint.clone());
        }
        Ok(Some(checkpoint))
    }

    /// Whether a view of the newest moment would have to write a checkpoint first, because too many versions are in none
    /// yet.
    #[must_use]
    pub fn view_needs_checkpoint(&self) -> bool {
        self.sequencer().recent_entries > self.options.view_versions_max()
    }

    /// A volume as it was after the record `seq`.
    ///
    /// # Errors
    /// When there is no such volume or moment, or the index cannot be read or brought up to that moment.
    pub fn view(self: &Arc<Self>, volume: VolumeId, seq: Seq) -> Result<View> {
        self.view_for(volume, seq, Caller::default())
    }

    /// The same for a caller that may go meanwhile: a checkpoint may have to be written first.
    ///
    /// # Errors
    /// As [`Log::view`], or when `caller` has gone.
    pub fn view_for(self: &Arc<Self>, volume: VolumeId, seq: Seq, caller: Caller<'_>) -> Result<View> {
        let head = self.head_seq();
        if seq > head {
            return Err(Error::InTheFuture { asked: seq, head });
        }
        let catalog = self.catalog();
        let (made, sectors) = (catalog.volume(volume)?.made, catalog.disk_of(volume)?.sectors);
        let first = catalog.volume(volume)?.parent.map_or(made, |_| Seq::ZERO);
        if seq < first {
            return Err(Error::BeforeHistory { asked: seq, first });
        }
        let mut layers = vec![self.layer(volume, seq, caller)?];
        for ancestor in self.ancestors(volume, caller)? {
            let earlier = ancestor.seq <= seq;
            layers.push(if earlier { ancestor } else { self.layer(ancestor.volume, seq, caller)? });
        }
        Ok(View { log: self.clone(), seq, sectors, layers })
    }

    /// Fills `buf` with the content of `fragment` (which must have been found).
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read_fragment(&self, fragment: &Fragment, buf: &mut [u8], wait: Wait) -> Result<()> {
        match piece_of(fragment) {
            Some(piece) => self.places.read(piece, buf, wait),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Fills `buf` with the content of `fragments`, which are adjacent. `unknown` fills those for which nothing was
    /// found.
    ///
    /// # Errors
    /// As [`Log::read_fragment`], or what `unknown` returns.
    pub fn read_fragments<E: From<Error>>(
        &self,
        fragments: &[Fragment],
        mut buf: &mut [u8],
        wait: Wait,
        unknown: &mut Unknown<'_, E>,
    ) -> std::result::Result<(), E> {
        for fragment in fragments {
            let len = (fragment.sectors.bytes() as usize).min(buf.len());
            let (part, rest) = std::mem::take(&mut buf).split_at_mut(len);
            match fragment.found {
                Some(_) => self.read_fragment(fragment, part, wait)?,
                None => unknown(fragment, part)?,
            }
            buf = rest;
        }
        Ok(())
    }

    /// Hints that the content of a fragment will be read soon.
    pub fn prefetch_fragment(&self, fragment: &Fragment) {
        if let Some(piece) = piece_of(fragment) {
            self.places.prefetch(piece, fragment.sectors.bytes());
        }
    }
}

/// The part of a record that a fragment is; `None` for zeroes.
fn piece_of(fragment: &Fragment) -> Option<Piece> {
    let (seq, name) = fragment.found.filter(|(_, name)| !name.is_zero())?;
    Some(Piece { name, seq, lba: fragment.lba })
}

/// A volume at a moment. It never changes, whatever is written later.
#[derive(Clone)]
pub struct View {
    log: Arc<Log>,
    seq: Seq,
    sectors: Sectors,
    layers: Vec<Layer>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({})", self.seq)
    }
}

impl View {
    /// The moment.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The size of the volume.
    #[must_use]
    pub fn sectors(&self) -> Sectors {
        self.sectors
    }

    /// Where the content of a range is. Fragments for which nothing was found are zeroes.
    ///
    /// # Errors
    /// When the range does not fit, or the index cannot be read or is damaged.
    pub fn resolve(&self, lba: Lba, sectors: Sectors, wait: Wait) -> Result<Vec<Fragment>> {
        self.check_range(lba, sectors)?;
        let mut lookup = Lookup::new(lba, sectors);
        self.log.resolve_layers(&self.layers, &mut lookup, wait)?;
        Ok(lookup.finish())
    }

    /// The records that are lost and whose places no index knows, of those that this moment lies behind. What was
    /// written before them, and nowhere else, may show older content than it should.
    #[must_use]
    pub fn lost(&self) -> Vec<Lost> {
        let volume = self.layers.first().map_or(VolumeId(0), |layer| layer.volume);
        self.log.catalog().lost_before(volume, self.seq)
    }

    /// How much of a range may show older content than it should, because [lost](View::lost) records may have
    /// overwritten it.
    ///
    /// # Errors
    /// As [`View::resolve`].
    pub fn uncertain(&self, lba: Lba, sectors: Sectors) -> Result<Sectors> {
        self.check_range(lba, sectors)?;
        let mut lookup = Lookup::new(lba, sectors);
        let mut uncertain = 0;
        for layer in &self.layers {
            let before = lookup.found.len();
            self.log.resolve_layer(layer, &mut lookup, Wait::Yes)?;
            let is_older = |found: &&Fragment| found.found.is_some_and(|(seq, _)| seq < layer.lost_upto);
            uncertain += lookup.found[before..].iter().filter(is_older).map(|f| f.sectors.0).sum::<u64>();
            if layer.lost_upto > Seq::ZERO {
                // Where nothing is known of it, a lost record may have written for the first time.
                return Ok(Sectors(
                    uncertain + lookup.open.iter().map(|(first, end)| end - first).sum::<u64>(),
                ));
            }
        }
        Ok(Sectors(uncertain))
    }

    fn check_range(&self, lba: Lba, sectors: Sectors) -> Result<()> {
        if lba.0.checked_add(sectors.0).is_none_or(|end| end > self.sectors.0) {
            let volume = self.layers.first().map_or(VolumeId(0), |layer| layer.volume);
            return Err(Error::OutOfRange { volume, lba, sectors });
        }
        Ok(())
    }

    /// Fills `buf` (whole sectors) from sector `lba` on.
    ///
    /// # Errors
    /// As [`View::resolve`], or when the content cannot be read or is damaged.
    pub fn read(&self, lba: Lba, buf: &mut [u8], wait: Wait) -> Result<()> {
        let fragments = self.resolve(lba, Sectors::of_bytes(buf.len() as u64), wait)?;
        self.log.read_fragments(&fragments, buf, wait, &mut |_, part| {
            part.fill(0);
            Ok(())
        })
    }

    /// Hints that a range will be read soon.
    pub fn prefetch(&self, lba: Lba, sectors: Sectors) {
        if let Ok(fragments) = self.resolve(lba, sectors, Wait::Yes) {
            fragments.iter().for_each(|fragment| self.log.prefetch_fragment(fragment));
        }
    }
}

#[cfg(test)]
mod tests;
