//! The page cache: decoded index pages and tables of all logs of a store, in a bounded amount of memory.

use std::sync::Arc;

use quick_cache::{Weighter, sync};
use rustc_hash::FxBuildHasher;

use super::tree::PageRef;
use crate::format::{checkpoint::Table, page::Page};

/// The log ([`PageCache::register`]) and the page or table.
type Key = (u32, PageRef);

#[derive(Clone)]
struct PageBytes;

impl Weighter<Key, Arc<Page>> for PageBytes {
    fn weight(&self, _: &Key, page: &Arc<Page>) -> u64 {
        page.weight_bytes() as u64
    }
}

impl Weighter<Key, Arc<Table>> for PageBytes {
    fn weight(&self, _: &Key, table: &Arc<Table>) -> u64 {
        table.rows.iter().map(|row| 160 + row.deltas.len() as u64 * 32).sum::<u64>() + 96
    }
}

/// Tables get one part in so many of the cache.
const TABLES_PART: u64 = 8;

/// See the module's comment.
pub struct PageCache {
    pages: sync::Cache<Key, Arc<Page>, PageBytes, FxBuildHasher>,
    tables: sync::Cache<Key, Arc<Table>, PageBytes, FxBuildHasher>,
    logs: std::sync::atomic::AtomicU32,
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageCache")
            .field("pages", &self.pages.len())
            .field("bytes", &self.pages.weight())
            .finish()
    }
}

impl PageCache {
    /// A cache that holds at most `capacity_bytes` of pages and tables.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Arc<PageCache> {
        const PAGE_BYTES_TYPICAL: u64 = 4096;
        let items = (capacity_bytes / PAGE_BYTES_TYPICAL).clamp(64, 1 << 24) as usize;
        let tables_bytes = capacity_bytes / TABLES_PART;
        let pages_bytes = capacity_bytes - tables_bytes;
        Arc::new(PageCache {
            pages: sync::Cache::with(items, pages_bytes, PageBytes, FxBuildHasher, Default::default()),
            tables: sync::Cache::with(items, tables_bytes, PageBytes, FxBuildHasher, Default::default()),
            logs: 0.into(),
        })
    }

    /// A new log's number among the logs that use this cache.
    pub(crate) fn register(&self) -> u32 {
        self.logs.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn get(&self, log: u32, at: PageRef) -> Option<Arc<Page>> {
        self.pages.get(&(log, at))
    }

    pub(crate) fn insert(&self, log: u32, at: PageRef, page: Arc<Page>) {
        self.pages.insert((log, at), page);
    }

    pub(crate) fn table(&self, log: u32, at: PageRef) -> Option<Arc<Table>> {
        self.tables.get(&(log, at))
    }

    pub(crate) fn insert_table(&self, log: u32, at: PageRef, table: Arc<Table>) {
        self.tables.insert((log, at), table);
    }
}
