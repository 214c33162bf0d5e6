//! Reading: the present of a volume that is in use, and any volume as of any moment.
//!
//! Every byte is checked against the checksum it was written with, and every record against the index entry that
//! led to it (I5).

use std::{
    io::IoSliceMut,
    sync::{Arc, PoisonError},
};

use bygone_model::{Lba, SECTOR_BYTES, Sectors, Seq, VolumeId};

use super::{Below, Layer, LiveVolume, Log};
use crate::{
    env::File,
    error::{Damage, Error, Result},
    format::{
        crc32c,
        page::Page,
        record::{
            self, GRANULE_BYTES, HEADER_BYTES, Header, Op, granule_crc_offset, header_crc, record_bytes,
        },
        segment::{self, Location},
    },
    index::{
        Fragment, Lookup,
        checkpoint::{Checkpoint, IndexFiles},
        head::{Head, HeadMap},
        tree::{PageRef, PageSource},
    },
};

/// Checkpoints that stay open.
const OPENED_MAX: usize = 16;
/// One read fetches a whole record of one granule.
const SMALL_BYTES: usize = record_bytes(GRANULE_BYTES);

/// May a read wait for the medium?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes.
    Yes,
    /// No: [`Error::WouldBlock`] instead.
    No,
}

/// A run of sectors of the present, and what knows it.
pub type HeadFragment = Fragment;

/// Index pages that are in memory only.
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
    /// Begins to keep the head map of a volume, so that its present can be read and written.
    /// With [`Below::Device`], `since` says which versions the device below already has.
    ///
    /// # Errors
    /// When there is no such volume, or what is needed of the index cannot be read.
    pub fn open_volume(&self, volume: VolumeId, below: Below, since: Seq) -> Result<()> {
        let parents = Arc::new(self.ancestors(volume)?);
        let mut head = Head::default();
        let sequencer = self.sequencer();
        let covered = self.heads().base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
        let since = if below == Below::Index { covered } else { since };
        if since < covered {
            self.entries_between(since, covered, &mut |entry| {
                if entry.volume == volume {
                    head.active.insert(entry);
                }
            })?;
        }
        for entry in sequencer.recent() {
            if entry.volume == volume && entry.seq > since.max(covered) {
                head.active.insert(entry);
            }
        }
        self.heads_mut().live.insert(volume, LiveVolume { head, frozen_at: Seq::ZERO, below, parents });
        Ok(())
    }

    /// Stops keeping the head map of a volume.
    pub fn close_volume(&self, volume: VolumeId) {
        self.heads_mut().live.remove(&volume);
    }

    /// Where the present of a range is. Fragments that nothing was found for are zeroes, or ([`Below::Device`]) what the
    /// device below has.
    ///
    /// # Errors
    /// When the volume was not opened, the range does not fit, or the index cannot be read.
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
            if let Some(recent) = &layer.recent {
                recent.resolve(lookup);
            }
            if let Some(checkpoint) = &layer.checkpoint
                && !lookup.open.is_empty()
            {
                self.resolve_in(checkpoint, layer.volume, layer.seq, lookup, wait)?;
            }
        }
        Ok(())
    }

    /// Freezes what was written to a volume, so that the device below can take it; returns it and the moment it is. What
    /// was frozen and not dropped yet comes again, with its own moment.
    pub fn freeze_head(&self, volume: VolumeId) -> Result<(Arc<crate::index::head::HeadMap>, Seq)> {
        let sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        let live = heads.live.get_mut(&volume).ok_or(Error::NoVolume(volume))?;
        if live.head.frozen.is_none() {
            live.frozen_at = sequencer.head;
        }
        Ok((live.head.freeze(), live.frozen_at))
    }

    /// The device below has what was frozen.
    pub fn drop_frozen_head(&self, volume: VolumeId) {
        if let Some(live) = self.heads_mut().live.get_mut(&volume) {
            live.head.drop_frozen();
        }
    }

    /// Runs in the head map of a volume: what a device below has not taken yet.
    #[must_use]
    pub fn head_runs(&self, volume: VolumeId) -> usize {
        let heads = self.heads();
        let frozen = |head: &Head| head.frozen.as_ref().map_or(0, |frozen| frozen.len());
        heads.live.get(&volume).map_or(0, |live| live.head.active.len() + frozen(&live.head))
    }

    /// The volumes below a volume, nearest first, each at the moment at which the one above began.
    fn ancestors(&self, volume: VolumeId) -> Result<Vec<Layer>> {
        let catalog = self.catalog();
        let mut out = Vec::new();
        let mut at = catalog.volume(volume)?;
        let mut seq = Seq::MAX;
        while let Some((parent, from)) = at.parent {
            // Numbers only ever fall on the way down, whatever a damaged catalog says.
            if parent >= at.id {
                return Err(Error::NoVolume(parent));
            }
            seq = seq.min(from);
            out.push(self.layer(parent, seq)?);
            at = catalog.volume(parent)?;
        }
        Ok(out)
    }

    /// A volume as of `seq`, without those below it.
    fn layer(&self, volume: VolumeId, seq: Seq) -> Result<Layer> {
        match self.checkpoint_holding(seq) {
            Ok(checkpoint) => return Ok(Layer { volume, seq, recent: None, checkpoint }),
            Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        // Reading never needs room: what no checkpoint has yet is in memory, and is looked up there.
        let sequencer = self.sequencer();
        let checkpoint = self.heads().base.clone();
        let covered = checkpoint.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
        if covered >= seq {
            // There was room after all, a moment later.
            drop(sequencer);
            return Ok(Layer { volume, seq, recent: None, checkpoint: self.checkpoint_holding(seq)? });
        }
        let mut recent = HeadMap::default();
        for entry in sequencer.recent().filter(|e| e.volume == volume && e.seq > covered && e.seq <= seq) {
            recent.insert(entry);
        }
        Ok(Layer { volume, seq, recent: Some(Arc::new(recent)), checkpoint })
    }

    /// The checkpoint in whose span `seq` lies; writes one if there is none yet.
    fn checkpoint_holding(&self, seq: Seq) -> Result<Option<Arc<Checkpoint>>> {
        if seq == Seq::ZERO {
            return Ok(None);
        }
        let name = match self.index.name_for(seq) {
            Some(name) => name,
            None => {
                self.checkpoint()?;
                let head = self.head_seq();
                self.index.name_for(seq).ok_or(Error::InTheFuture { asked: seq, head })?
            }
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = opened.iter().position(|c| c.name == name) {
            let checkpoint = opened.remove(i);
            opened.push(checkpoint.clone());
            return Ok(Some(checkpoint));
        }
        let checkpoint = Arc::new(self.index.open(name)?);
        if opened.len() == OPENED_MAX {
            opened.remove(0);
        }
        opened.push(checkpoint.clone());
        Ok(Some(checkpoint))
    }

    /// A volume as it was after the record `seq`.
    ///
    /// # Errors
    /// When there is no such volume or moment, or the index cannot be read or brought up to that moment.
    pub fn view(self: &Arc<Self>, volume: VolumeId, seq: Seq) -> Result<View> {
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
        let mut layers = vec![self.layer(volume, seq)?];
        for ancestor in self.ancestors(volume)? {
            let earlier = ancestor.seq <= seq;
            layers.push(if earlier { ancestor } else { self.layer(ancestor.volume, seq)? });
        }
        Ok(View { log: self.clone(), seq, sectors, layers })
    }

    /// Fills `buf` with the content of `fragment` (which must have been found).
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read_fragment(&self, volume_of: &Fragment, buf: &mut [u8], wait: Wait) -> Result<()> {
        match volume_of.found {
            Some((seq, at)) if !at.is_zero() => self.read_record(at, seq, volume_of.lba, buf, wait),
            _ => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    pub(super) fn segment_file(&self, number: u32) -> Result<Arc<dyn File>> {
        self.segments.get(number, || Ok(segment::file_name(number)))
    }

    /// Reads all of a record of one granule, by far the most frequent kind, straight to where it is wanted. False: this is
    /// another kind of record, or not as it should be, and `buf` holds anything.
    fn read_granule(
        &self,
        file: &dyn File,
        at: Location,
        seq: Seq,
        lba: Lba,
        buf: &mut [u8],
        wait: Wait,
    ) -> Result<bool> {
        let (mut head, mut crcs) = ([0; HEADER_BYTES], [0; SMALL_BYTES - HEADER_BYTES - GRANULE_BYTES]);
        let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(buf), IoSliceMut::new(&mut crcs)];
        let got = file
            .read_parts_at(&mut parts, u64::from(at.offset), wait == Wait::No)
            .map_err(|e| Error::io("reading", &segment::file_name(at.segment), e))?;
        let Some((header, crc)) = Header::decode(&head).filter(|_| got == SMALL_BYTES) else {
            return Ok(false);
        };
        let is_it = (header.op, header.seq, header.lba) == (Op::Write, seq, lba)
            && header.payload_bytes as usize == GRANULE_BYTES;
        Ok(is_it && header_crc(&self.id, &head[8..], &crcs) == crc && crc32c(buf).to_le_bytes() == crcs[..4])
    }

    /// Reads sectors from `lba` on out of the record at `at`, which must be the record `seq`.
    fn read_record(&self, at: Location, seq: Seq, lba: Lba, buf: &mut [u8], wait: Wait) -> Result<()> {
        let file = self.segment_file(at.segment)?;
        if buf.len() == GRANULE_BYTES && self.read_granule(&*file, at, seq, lba, buf, wait)? {
            return Ok(());
        }
        let read = |buf: &mut [u8], offset: u64| match wait {
            Wait::Yes => file.read_at(buf, offset),
            Wait::No => file.read_cached_at(buf, offset),
        };
        let io = |e| Error::io("reading", &segment::file_name(at.segment), e);
        let damaged = |offset: u64, damage| {
            Error::damaged(&segment::file_name(at.segment), u64::from(at.offset) + offset, damage)
        };
        let start = u64::from(at.offset);

        let mut small = [0; SMALL_BYTES];
        let want = if buf.len() <= GRANULE_BYTES { SMALL_BYTES } else { HEADER_BYTES };
        let got = read(&mut small[..want], start).map_err(io)?;
        let (header, crc) = Header::decode(&small[..got]).ok_or_else(|| damaged(0, Damage::Magic))?;
        let skip = lba.0.checked_sub(header.lba.0).map(|sectors| sectors * SECTOR_BYTES);
        let inside = |skip: u64| skip + buf.len() as u64 <= u64::from(header.payload_bytes);
        let Some(skip) = skip.filter(|&skip| header.op == Op::Write && header.seq == seq && inside(skip))
        else {
            return Err(damaged(0, Damage::Misplaced));
        };
        let (payload_bytes, skip) = (header.payload_bytes as usize, skip as usize);

        if payload_bytes <= GRANULE_BYTES && got >= record_bytes(payload_bytes) {
            let crcs = &small[granule_crc_offset(payload_bytes, 0)..record_bytes(payload_bytes)];
            let payload = &small[HEADER_BYTES..HEADER_BYTES + payload_bytes];
            if header_crc(&self.id, &small[8..HEADER_BYTES], crcs) != crc {
                return Err(damaged(0, Damage::Checksum));
            }
            if crc32c(payload).to_le_bytes() != crcs[..4] {
                return Err(damaged(HEADER_BYTES as u64, Damage::Checksum));
            }
            buf.copy_from_slice(&payload[skip..skip + buf.len()]);
            return Ok(());
        }

        let first = skip / GRANULE_BYTES;
        let end = (skip + buf.len()).div_ceil(GRANULE_BYTES);
        let (from, to) = (first * GRANULE_BYTES, (end * GRANULE_BYTES).min(payload_bytes));
        // All of them, because the header's checksum covers all of them, and only that says that the header is right.
        let mut crcs = vec![0; record_bytes(payload_bytes) - granule_crc_offset(payload_bytes, 0)];
        if read(&mut crcs, start + granule_crc_offset(payload_bytes, 0) as u64).map_err(io)? != crcs.len() {
            return Err(damaged(0, Damage::Truncated));
        }
        if header_crc(&self.id, &small[8..HEADER_BYTES], &crcs) != crc {
            return Err(damaged(0, Damage::Checksum));
        }
        let crcs = &crcs[first * 4..end * 4];
        let whole_granules = from == skip && to == skip + buf.len();
        let mut fetched = Vec::new();
        let granules: &mut [u8] = if whole_granules {
            &mut *buf
        } else {
            fetched.resize(to - from, 0);
            &mut fetched
        };
        let payload_at = start + (HEADER_BYTES + from) as u64;
        if read(granules, payload_at).map_err(io)? != granules.len() {
            return Err(damaged(HEADER_BYTES as u64, Damage::Truncated));
        }
        for (i, (granule, crc)) in granules.chunks(GRANULE_BYTES).zip(crcs.chunks(4)).enumerate() {
            if crc32c(granule).to_le_bytes() != crc {
                return Err(damaged((HEADER_BYTES + from + i * GRANULE_BYTES) as u64, Damage::Checksum));
            }
        }
        if !whole_granules {
            buf.copy_from_slice(&fetched[skip - from..skip - from + buf.len()]);
        }
        Ok(())
    }

    /// Asks for the content of a fragment to be brought into memory soon.
    pub fn prefetch_fragment(&self, fragment: &Fragment) {
        if let Some((_, at)) = fragment.found
            && !at.is_zero()
            && let Ok(file) = self.segment_file(at.segment)
        {
            file.prefetch(u64::from(at.offset), record::HEADER_BYTES as u64 + fragment.sectors.bytes());
        }
    }
}

/// A volume at a moment. It never changes, whatever is written meanwhile.
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

    /// Where the content of a range is; fragments that nothing was found for are zeroes.
    ///
    /// # Errors
    /// When the range does not fit, or the index cannot be read or is damaged.
    pub fn resolve(&self, lba: Lba, sectors: Sectors, wait: Wait) -> Result<Vec<Fragment>> {
        if lba.0.checked_add(sectors.0).is_none_or(|end| end > self.sectors.0) {
            let volume = self.layers.first().map_or(VolumeId(0), |layer| layer.volume);
            return Err(Error::OutOfRange { volume, lba, sectors });
        }
        let mut lookup = Lookup::new(lba, sectors);
        self.log.resolve_layers(&self.layers, &mut lookup, wait)?;
        Ok(lookup.finish())
    }

    /// Fills `buf` (whole sectors) from sector `lba` on.
    ///
    /// # Errors
    /// As [`View::resolve`], or when the content cannot be read or is damaged.
    pub fn read(&self, lba: Lba, buf: &mut [u8], wait: Wait) -> Result<()> {
        let fragments = self.resolve(lba, Sectors::of_bytes(buf.len() as u64), wait)?;
        let mut rest = buf;
        for fragment in &fragments {
            let (part, later) = rest.split_at_mut((fragment.sectors.bytes() as usize).min(rest.len()));
            self.log.read_fragment(fragment, part, wait)?;
            rest = later;
        }
        Ok(())
    }

    /// Asks for a range to be brought into memory soon.
    pub fn prefetch(&self, lba: Lba, sectors: Sectors) {
        if let Ok(fragments) = self.resolve(lba, sectors, Wait::Yes) {
            fragments.iter().for_each(|fragment| self.log.prefetch_fragment(fragment));
        }
    }
}
