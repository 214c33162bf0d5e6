//! A real folder with hooks, so that a test can intervene in one kind of operation.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use bygone_store::env::{Dir, File, FileId, RealDir};

/// The hooks; by default they do nothing.
pub(crate) trait Watch: Send + Sync + 'static {
    fn before_create(&self, _name: &str) {}
    fn before_remove(&self, _name: &str) {}
    /// Also called for the folder of what is published, once it is there.
    fn before_sync_folder(&self, _folder: &str) {}
    /// Called before and after each step that changes something, and each listing.
    fn between(&self) {}
    /// Replaces reads from files that were opened, not created.
    fn read(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buf, offset)
    }
    /// An error makes the read of a file fail.
    fn before_read(&self, _name: &str, _offset: u64, _len_bytes: usize) -> io::Result<()> {
        Ok(())
    }
    /// Called when a file was opened, before whoever opened it has it.
    fn after_open(&self, _name: &str) {}
    /// An error takes the place of the success of publishing a file.
    fn after_publish(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
    fn before_write(&self) {}
    /// Called before a folder is listed.
    fn before_list(&self, _folder: &str) {}
    /// Called before a segment or checkpoint is made, written or cut.
    fn before_change(&self, _name: &str) {}
    /// An error makes the sync of a file fail.
    fn before_sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// See the module's comment.
pub(crate) struct Watched<W> {
    inner: RealDir,
    watch: Arc<W>,
}

impl<W: Watch> Watched<W> {
    pub(crate) fn new(folder: &Path, watch: W) -> Arc<Watched<W>> {
        Arc::new(Watched { inner: RealDir::new(folder), watch: Arc::new(watch) })
    }

    fn wrap(&self, name: &str, inner: Arc<dyn File>, was_made: bool) -> Arc<dyn File> {
        Arc::new(WatchedFile { name: name.to_owned(), inner, was_made, watch: self.watch.clone() })
    }
}

impl<W: Watch> Watched<W> {
    fn step<T>(&self, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.watch.between();
        let done = step();
        self.watch.between();
        done
    }
}

impl<W: Watch> Dir for Watched<W> {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.watch.before_create(name);
        self.watch.before_change(name);
        self.step(|| self.inner.create(name)).map(|file| self.wrap(name, file, true))
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.watch.before_create(name);
        self.watch.before_sync()?;
        self.step(|| self.inner.publish(name, bytes))?;
        self.watch.after_publish(name)?;
        self.watch.before_sync_folder(name.rsplit_once('/').map_or("", |(folder, _)| folder));
        Ok(())
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.inner.open(name)?;
        self.watch.after_open(name);
        Ok(self.wrap(name, file, false))
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.watch.before_list(folder);
        self.step(|| self.inner.list(folder))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.watch.before_remove(name);
        self.step(|| self.inner.remove(name))
    }
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(|| self.inner.replace(from, to))
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.watch.before_sync_folder(folder);
        self.step(|| self.inner.sync(folder))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

struct WatchedFile<W> {
    name: String,
    inner: Arc<dyn File>,
    was_made: bool,
    watch: Arc<W>,
}

impl<W: Watch> WatchedFile<W> {
    fn step<T>(&self, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.watch.between();
        let done = step();
        self.watch.between();
        done
    }
}

impl<W: Watch> File for WatchedFile<W> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.watch.before_read(&self.name, offset, buf.len())?;
        if self.was_made {
            return self.inner.read_at(buf, offset);
        }
        self.watch.read(&*self.inner, buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.watch.before_write();
        self.watch.before_change(&self.name);
        self.step(|| self.inner.write_at(parts, offset))
    }
    fn begin_writing(&self, offset: u64, len_bytes: u64) {
        self.inner.begin_writing(offset, len_bytes);
    }
    fn sync(&self) -> io::Result<()> {
        self.watch.before_sync()?;
        self.step(|| self.inner.sync())
    }
    fn id(&self) -> io::Result<Option<FileId>> {
        self.inner.id()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.watch.before_change(&self.name);
        self.step(|| self.inner.set_len(len_bytes))
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.watch.before_change(&self.name);
        self.inner.reserve(len_bytes)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.inner.prefetch(offset, len_bytes);
    }
}
