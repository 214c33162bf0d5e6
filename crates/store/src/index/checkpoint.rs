//! Reads checkpoint files, and keeps track of which ones are still needed.

use std::sync::{Arc, OnceLock, PoisonError, Weak, atomic::Ordering};

use bygone_model::{Seq, VolumeId};

use super::{
    Lookup,
    cache::PageCache,
    mended::{Mended, StripeId},
    tree::{self, PageRef, PageSource},
};
use crate::{
    env::{Dir, File, read_exact_at},
    error::{Damage, Error, Result},
    files::FileCache,
    format::{
        VERSION,
        checkpoint::{
            self, FRAME_BYTES, Footer, Name, Row, StoredEvent, TABLE_STRIPES, Table, TableRef, Trailer,
            TreeRef,
        },
        crc32c,
        events::EventBlock,
        page::{self, PAGE_BYTES_MAX, Page, STRIPE_SECTORS},
        segment,
    },
    sync::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard},
};

/// The longest valid footer or block of events.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// An open checkpoint: the immutable index of every moment of its span.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its number, its end and its writer's term.
    pub name: Name,
    /// Everything besides its trees.
    pub footer: Footer,
    /// Pins its own file and those that it is built on.
    pub(crate) _keep: Arc<Keep>,
}

/// A pinned generation of checkpoint files: none of them is removed while this is held.
#[derive(Debug)]
pub(crate) struct Keep {
    /// Ranges of numbers, in order.
    files: Vec<(u32, u32)>,
}

impl Keep {
    fn has(&self, number: u32) -> bool {
        let at = self.files.partition_point(|range| range.1 < number);
        self.files.get(at).is_some_and(|range| range.0 <= number)
    }
}

/// The checkpoints that existed at one time. Their files are pinned while this is held.
pub struct Snapshot {
    /// Their names, oldest first.
    pub names: Vec<Name>,
    _keep: Arc<Keep>,
}

impl Snapshot {
    /// The oldest checkpoint that covers everything up to `seq`.
    #[must_use]
    pub fn name_for(&self, seq: Seq) -> Option<Name> {
        self.names.get(self.names.partition_point(|name| name.end < seq)).copied()
    }
}

impl Checkpoint {
    /// The tables of a volume; empty if it has none.
    #[must_use]
    pub fn tables(&self, volume: VolumeId) -> &[TableRef] {
        let volumes = &self.footer.volumes;
        let at = volumes.binary_search_by_key(&volume.0, |tables| tables.0);
        at.map_or(&[], |at| volumes[at].1.as_slice())
    }
}

/// Which files are pinned, and which are retired.
#[derive(Default)]
struct Generations {
    live: Vec<Weak<Keep>>,
    /// Checkpoints that no new reader gets; their files are removed once they are not pinned any more.
    retired: Vec<Name>,
}

/// The checkpoint files of one log.
pub struct IndexFiles {
    pub(super) dir: Arc<dyn Dir>,
    pub(super) log_id: [u8; 16],
    cache: Arc<PageCache>,
    cache_key: u32,
    files: FileCache,
    names: RwLock<Vec<Name>>,
    /// The highest number of a file that was passed over.
    passed_over: AtomicU64,
    passed_end: AtomicU64,
    generations: Mutex<Generations>,
    pub(crate) mended: Mended,
    /// The checkpoints in which earlier lives of the log rebuilt damaged stripes; known once it was asked for.
    mended_before: OnceLock<Vec<Name>>,
}

impl IndexFiles {
    /// Lists the checkpoint files of the log in `dir`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn new(dir: Arc<dyn Dir>, log_id: [u8; 16], cache: Arc<PageCache>) -> Result<IndexFiles> {
        let folder = checkpoint::folder();
        let files = dir.list(folder).map_err(|e| Error::io("listing", folder, e))?;
        let mut names: Vec<Name> = files.iter().filter_map(|name| Name::parse(name)).collect();
        names.sort_unstable_by_key(|name| name.number);
        let cache_key = cache.register();
        let files = FileCache::new();
        Ok(IndexFiles {
            dir,
            log_id,
            cache,
            cache_key,
            files,
            names: RwLock::new(names),
            passed_over: 0.into(),
            passed_end: 0.into(),
            generations: Mutex::default(),
            mended: Mended::default(),
            mended_before: OnceLock::new(),
        })
    }

    /// The checkpoints that exist now, pinned.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // The names stay locked until the files are pinned, so that none of them is retired in between.
        let names = self.read_names();
        let files = names.iter().map(|name| (name.number, name.number)).collect();
        Snapshot { names: names.clone(), _keep: self.keep_files(files) }
    }

    /// Pins the file of a checkpoint and those that it is built on.
    pub(crate) fn keep(&self, name: &Name, footer: &Footer) -> Arc<Keep> {
        self.keep_files(footer.upon_with(name.number))
    }

    fn keep_files(&self, files: Vec<(u32, u32)>) -> Arc<Keep> {
        let keep = Arc::new(Keep { files });
        let mut generations = self.generations();
        generations.live.retain(|keep| keep.strong_count() > 0);
        generations.live.push(Arc::downgrade(&keep));
        keep
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Retires checkpoints: no new reader gets them, because `by` answers for their moments. Their files are removed
    /// once they are not pinned any more.
    pub(crate) fn retire(&self, names: &[Name], by: Name) {
        let mut known = self.names.write().unwrap_or_else(PoisonError::into_inner);
        assert!(
            names.iter().all(|name| name.number < by.number && name.end <= by.end),
            "retired by an older one"
        );
        known.retain(|name| !names.contains(name));
        self.generations().retired.extend(names);
    }

    /// Removes the files of retired checkpoints that are not pinned any more; returns whether there were any. `may` is
    /// called before the first is removed.
    ///
    /// # Errors
    /// The error of `may`, or if a file cannot be removed. Those that are left are removed by a later call.
    pub(crate) fn remove_retired(&self, may: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let unneeded: Vec<Name> = {
            let generations = self.generations();
            let live: Vec<Arc<Keep>> = generations.live.iter().filter_map(Weak::upgrade).collect();
            let needed = |name: &&Name| live.iter().any(|keep| keep.has(name.number));
            generations.retired.iter().filter(|name| !needed(name)).copied().collect()
        };
        if !unneeded.is_empty() {
            may()?;
        }
        for name in &unneeded {
            let file_name = name.file_name();
            match self.dir.remove(&file_name) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", &file_name, e));
                }
                _ => {}
            }
            self.files.forget(name.number);
            self.generations().retired.retain(|retired| retired != name);
        }
        Ok(!unneeded.is_empty())
    }

    fn read_names(&self) -> RwLockReadGuard<'_, Vec<Name>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number for the next file.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        let passed_over = self.passed_over.load(Ordering::Relaxed) as u32;
        let last = self.read_names().last().map_or(0, |name| name.number);
        last.max(passed_over).saturating_add(1)
    }

    /// Notes that a checkpoint was added.
    pub fn add(&self, name: Name) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    /// Forgets a checkpoint that turned out to be unusable.
    pub fn forget(&self, name: Name) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).retain(|n| *n != name);
    }

    /// Forgets a checkpoint whose file stays, so that its number is not used again.
    pub(crate) fn pass_over(&self, name: Name) {
        self.passed_over.fetch_max(u64::from(name.number), Ordering::Relaxed);
        self.passed_end.fetch_max(name.end.0, Ordering::Relaxed);
        self.forget(name);
    }

    /// Drops the open file of a checkpoint that was written again.
    pub(super) fn forget_file(&self, number: u32) {
        self.files.forget(number);
    }

    /// Removes what was left of checkpoints that were being written again, by holders up to `term`. One that cannot be
    /// removed does no harm.
    pub(crate) fn remove_parts(&self, term: u32) {
        let folder = checkpoint::folder();
        for name in self.dir.list(folder).unwrap_or_default() {
            if Name::parse_part(&name).is_some_and(|part| part <= term) {
                let _ = self.dir.remove(&format!("{folder}/{name}"));
            }
        }
    }

    /// The highest end of the checkpoints that were passed over. The log was durable up to there before the file was
    /// made, so it is known from the name.
    pub(crate) fn passed_end(&self) -> Seq {
        Seq(self.passed_end.load(Ordering::Relaxed))
    }

    /// The end of the newest checkpoint.
    pub(crate) fn end(&self) -> Seq {
        self.read_names().last().map_or(Seq::ZERO, |name| name.end)
    }

    /// Whether a checkpoint is known and not retired.
    pub(crate) fn has(&self, name: Name) -> bool {
        self.read_names().contains(&name)
    }

    fn file_name(&self, number: u32) -> Result<String> {
        let names = self.read_names();
        match names.binary_search_by_key(&number, |name| name.number) {
            Ok(i) => Ok(names[i].file_name()),
            Err(_) => match self.generations().retired.iter().find(|name| name.number == number) {
                Some(name) => Ok(name.file_name()),
                None => Err(Error::damaged(&format!("index/{number:010}"), 0, Damage::Missing)),
            },
        }
    }

    fn file(&self, number: u32) -> Result<Arc<dyn File>> {
        self.files.get(number, || {
            let name = self.file_name(number)?;
            self.dir.open(&name).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::damaged(&name, 0, Damage::Missing),
                _ => Error::unread(&name, 0, e),
            })
        })
    }

    /// Opens a checkpoint.
    ///
    /// # Errors
    /// If it is damaged, of a newer version, or cannot be read.
    pub fn open(&self, name: Name) -> Result<Checkpoint> {
        let file_name = name.file_name();
        let io = |e| Error::io("reading", &file_name, e);
        let damaged = |offset, damage| Error::damaged(&file_name, offset, damage);
        let unread = |offset, e| Error::unread(&file_name, offset, e);
        let file = self.dir.open(&file_name).map_err(|e| unread(0, e))?;
        let len_bytes = file.len_bytes().map_err(io)?;
        let mut frame = [0; FRAME_BYTES];
        if len_bytes < 2 * FRAME_BYTES as u64 {
            return Err(damaged(0, Damage::Truncated));
        }
        read_exact_at(&*file, &mut frame, 0).map_err(|e| unread(0, e))?;
        match checkpoint::check_header(&frame, name.number, &self.log_id) {
            Ok(term) if term == name.term => {}
            Ok(_) => return Err(damaged(0, Damage::Misplaced)),
            Err(0) => return Err(damaged(0, Damage::Magic)),
            Err(found) => return Err(Error::NewerVersion { name: file_name, found, known: VERSION }),
        }
        let trailer_at = len_bytes - FRAME_BYTES as u64;
        read_exact_at(&*file, &mut frame, trailer_at).map_err(|e| unread(trailer_at, e))?;
        let trailer =
            Trailer::decode(&frame, len_bytes).ok_or_else(|| damaged(trailer_at, Damage::Checksum))?;
        let block =
            checkpoint::Block { offset: trailer.offset, len_bytes: trailer.len_bytes, crc: trailer.crc };
        let footer: Footer = self.read_json(&*file, &file_name, block)?;
        let numbers = footer.segments.iter().map(|start| start.0);
        if footer.end != name.end
            || !footer.upon_holds(name.number)
            || footer.start > footer.end
            || !numbers.clone().is_sorted_by(|a, b| a < b)
            || !footer.volumes.is_sorted_by(|a, b| a.0 < b.0)
            || !numbers.into_iter().all(segment::is_number)
        {
            return Err(damaged(trailer.offset, Damage::Inconsistent));
        }
        Ok(Checkpoint { name, _keep: self.keep(&name, &footer), footer })
    }

    fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        file: &dyn File,
        name: &str,
        at: checkpoint::Block,
    ) -> Result<T> {
        let damaged = |damage| Error::damaged(name, at.offset, damage);
        let len_bytes = file.len_bytes().map_err(|e| Error::io("reading", name, e))?;
        let inside = at.offset.checked_add(u64::from(at.len_bytes)).is_some_and(|end| end <= len_bytes);
        if !inside || at.len_bytes > BLOCK_BYTES_MAX {
            return Err(damaged(Damage::Inconsistent));
        }
        let mut bytes = vec![0; at.len_bytes as usize];
        read_exact_at(file, &mut bytes, at.offset).map_err(|e| Error::unread(name, at.offset, e))?;
        if crc32c(&bytes) != at.crc {
            return Err(damaged(Damage::Checksum));
        }
        serde_json::from_slice(&bytes).map_err(|_| damaged(Damage::Inconsistent))
    }

    /// The events of one block of a checkpoint.
    ///
    /// # Errors
    /// If they cannot be read or are damaged.
    pub fn event_block(&self, name: Name, block: &EventBlock) -> Result<Vec<StoredEvent>> {
        let file = self.file(name.number)?;
        self.read_json(&*file, &name.file_name(), block.block)
    }

    /// Reads the bytes of a page or a table and compares their crc with the reference.
    fn read_block(&self, at: PageRef, max: usize) -> Result<Vec<u8>> {
        let file = self.file(at.file)?;
        let name = || self.file_name(at.file);
        if at.len_bytes as usize > max {
            return Err(Error::damaged(&name()?, at.offset, Damage::Inconsistent));
        }
        let mut bytes = vec![0; at.len_bytes as usize];
        match read_exact_at(&*file, &mut bytes, at.offset) {
            // A stale or misplaced page may be valid in itself.
            Ok(()) if page::place_of(&bytes, at.file, at.offset) != at => {
                Err(Error::damaged(&name()?, at.offset, Damage::Misplaced))
            }
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::damaged(&name()?, at.offset, Damage::Truncated))
            }
            Err(e) => Err(Error::unread(&name()?, at.offset, e)),
        }
    }

    /// The table at `at`.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn table(&self, at: PageRef) -> Result<Arc<Table>> {
        if let Some(table) = self.cache.table(self.cache_key, at) {
            return Ok(table);
        }
        let table = self.read_table(at)?;
        self.cache.insert_table(self.cache_key, at, table.clone());
        Ok(table)
    }

    /// Like [`IndexFiles::table`], but always from the medium.
    pub(crate) fn read_table(&self, at: PageRef) -> Result<Arc<Table>> {
        let bytes = self.read_block(at, TABLE_STRIPES as usize * 4096)?;
        match Table::decode(&bytes, at.file) {
            Some(table) => Ok(Arc::new(table)),
            None => Err(Error::damaged(&self.file_name(at.file)?, at.offset, Damage::Checksum)),
        }
    }

    /// Looks up the open parts of `lookup` on `volume` as of `seq`, which must not lie before the span of `checkpoint`;
    /// a later `seq` counts as its end. Where trees are damaged, rebuilt ones are used, or the stripe is reported.
    ///
    /// # Errors
    /// If index pages cannot be read or are damaged.
    pub fn resolve(
        &self,
        checkpoint: &Checkpoint,
        volume: VolumeId,
        seq: Seq,
        lookup: &mut Lookup,
    ) -> Result<()> {
        self.resolve_with(self, &|at| self.table(at), checkpoint, volume, seq, lookup)
    }

    /// Like [`IndexFiles::resolve`], with pages from `source` and tables from `table`.
    pub(crate) fn resolve_with(
        &self,
        source: &dyn PageSource,
        table: &dyn Fn(PageRef) -> Result<Arc<Table>>,
        checkpoint: &Checkpoint,
        volume: VolumeId,
        seq: Seq,
        lookup: &mut Lookup,
    ) -> Result<()> {
        let tables = checkpoint.tables(volume);
        let mut open = std::mem::take(&mut lookup.open).into_iter().peekable();
        let mut here = Lookup::default();
        while let Some(&(first, _)) = open.peek() {
            let stripe = first / STRIPE_SECTORS;
            let base = stripe * STRIPE_SECTORS;
            here.open.clear();
            // A range that reaches beyond the stripe is cut there; the rest is left for the next round.
            while let Some(range) = open.peek_mut().filter(|range| range.0 < base + STRIPE_SECTORS) {
                let end = range.1.min(base + STRIPE_SECTORS);
                here.open.push((range.0, end));
                range.0 = end;
                if range.0 == range.1 {
                    open.next();
                }
            }
            let stripe = u32::try_from(stripe).unwrap_or(u32::MAX);
            let asked = here.open.clone();
            let resolved = (|| {
                let Ok(i) = tables.binary_search_by_key(&(stripe / TABLE_STRIPES), |table| table.0) else {
                    return Ok(());
                };
                let table = table(tables[i].1)?;
                let trees = table.row(stripe).into_iter().flat_map(|row| layers(row, seq));
                trees.into_iter().try_for_each(|tree| tree::lookup(source, tree.root, base, seq, &mut here))
            })();
            match resolved {
                Err(error) if error.is_index_damage() => {
                    here = Lookup { found: Vec::new(), open: asked };
                    let seq = seq.min(checkpoint.footer.end);
                    let instead = match self.rebuilt_tree((volume, stripe), seq) {
                        Some((Some(tree), _)) => tree::lookup(source, tree, base, seq, &mut here),
                        Some((None, _)) => Ok(()),
                        None => Err(error),
                    };
                    instead.inspect_err(|error| {
                        if error.is_index_damage() {
                            self.mended.report((volume, stripe));
                        }
                    })?;
                }
                resolved => resolved?,
            }
            lookup.found.append(&mut here.found);
            here.open.drain(..).for_each(|(first, end)| lookup.leave(first, end));
        }
        Ok(())
    }
}

impl IndexFiles {
    /// If a stripe was rebuilt, in this life of the log or before: the tree that answers for it at `seq` (`None`: nothing
    /// was ever written there), and the last moment for which it does.
    pub(crate) fn rebuilt_tree(&self, stripe: StripeId, seq: Seq) -> Option<(Option<PageRef>, Seq)> {
        let known = self.mended.tree_of(stripe, seq);
        // What waits to be rebuilt was looked for already.
        if known.is_some() || self.mended.is_reported(stripe) {
            return known;
        }
        let delta = self.mended_before().iter().rev().filter(|name| name.end >= seq).find_map(|&name| {
            let row = self.row(&self.open(name).ok()?, stripe)?;
            // A delta of everything since the beginning needs no other tree.
            let answers = |delta: &&TreeRef| delta.low == Seq::ZERO && delta.high >= seq;
            row.deltas.iter().find(answers).copied()
        })?;
        self.mended.add(stripe, Some(delta.root), delta.high);
        Some((Some(delta.root), delta.high))
    }

    /// Whether a damaged tree of a checkpoint is not needed any more, because the stripe was rebuilt since: its pages are
    /// whole, and no later checkpoint that it does not answer for was made upon the damaged tree.
    pub(crate) fn is_replaced(&self, stripe: StripeId, tree: PageRef, end: Seq) -> bool {
        let Some((rebuilt, high)) = self.rebuilt_tree(stripe, end) else { return false };
        let is_whole = |rebuilt: PageRef| {
            rebuilt.file != tree.file && tree::versions(self, rebuilt, &(0..u32::MAX), &mut |_| {}).is_ok()
        };
        // A tree that a checkpoint does not have any more is in no later one either.
        let is_used = |later: &Name| match self.open(*later) {
            Ok(later) => self.row(&later, stripe).is_none_or(|row| row.trees().any(|used| used.root == tree)),
            Err(_) => true,
        };
        rebuilt.is_none_or(is_whole)
            && !self.snapshot().names.iter().find(|later| later.end > high).is_some_and(is_used)
    }

    /// The row of a stripe, if it can be read.
    fn row(&self, checkpoint: &Checkpoint, (volume, stripe): StripeId) -> Option<Row> {
        let tables = checkpoint.tables(volume);
        let i = tables.binary_search_by_key(&(stripe / TABLE_STRIPES), |table| table.0).ok()?;
        self.table(tables[i].1).ok()?.row(stripe).cloned()
    }

    fn mended_before(&self) -> &[Name] {
        self.mended_before.get_or_init(|| {
            let names = self.snapshot().names;
            let is_one = |name: &Name| self.open(*name).is_ok_and(|checkpoint| checkpoint.footer.mended);
            names.into_iter().filter(is_one).collect()
        })
    }
}

/// The trees to search for a stripe at a moment, newest first.
pub(crate) fn layers(row: &Row, seq: Seq) -> impl Iterator<Item = &TreeRef> {
    let after = row.after.as_ref().filter(|image| image.high <= seq);
    let deltas = if after.is_some() { &[] } else { row.deltas.as_slice() };
    let before = if after.is_some() { None } else { row.before.as_ref() };
    after.into_iter().chain(deltas.iter().filter(move |delta| delta.low < seq)).chain(before)
}

impl IndexFiles {
    /// A table, if it is in memory.
    pub(crate) fn cached_table(&self, at: PageRef) -> Option<Arc<Table>> {
        self.cache.table(self.cache_key, at)
    }

    /// A page, if it is in memory.
    pub(crate) fn cached_page(&self, at: PageRef) -> Option<Arc<Page>> {
        self.cache.get(self.cache_key, at)
    }

    /// A page from the medium.
    pub(crate) fn read_page(&self, at: PageRef) -> Result<Arc<Page>> {
        let bytes = self.read_block(at, PAGE_BYTES_MAX)?;
        match page::decode(&bytes, at.file) {
            Some(page) => Ok(Arc::new(page)),
            None => Err(Error::damaged(&self.file_name(at.file)?, at.offset, Damage::Checksum)),
        }
    }
}

impl PageSource for IndexFiles {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        if let Some(page) = self.cache.get(self.cache_key, at) {
            return Ok(page);
        }
        let page = self.read_page(at)?;
        self.cache.insert(self.cache_key, at, page.clone());
        Ok(page)
    }

    fn contradiction(&self, at: PageRef) -> Error {
        let name = self.file_name(at.file).unwrap_or_default();
        Error::damaged(&name, at.offset, Damage::Inconsistent)
    }
}
