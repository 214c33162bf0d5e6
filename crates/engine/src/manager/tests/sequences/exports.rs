//! Disks and moments that are served while other things are asked for, as the clients of NBD sockets and of `export`
//! have them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bygone_block::Reading;
use jiff::Zoned;

use super::{BLOCK, Which, block_of, byte_of, when::Place, writing};
use crate::{Error, Result, exports::Opened, manager::Manager, target::lock};

/// What is served, by number.
#[derive(Default)]
pub(super) struct Served(Mutex<BTreeMap<u32, Arc<Opened>>>);

impl Served {
    /// Begins to serve something; returns the moment, if it is one.
    pub(super) fn begin(
        &self,
        manager: &Manager,
        name: &str,
        number: u32,
        which: &Which,
    ) -> Result<Option<Place>> {
        let (what, now) = match which {
            Which::Present => (name.to_owned(), Zoned::now()),
            Which::Branch(branch) => (format!("{name}#{branch}"), Zoned::now()),
            Which::Moment(at) => (format!("{name}@{}", at.text), at.now(manager.clock().wall())),
        };
        let opened = manager.open_device(&what, &now)?;
        let moment = opened.moment.as_ref().map(Place::of);
        lock(&self.0).insert(number, Arc::new(opened));
        Ok(moment)
    }

    fn find(&self, number: u32) -> Result<Arc<Opened>> {
        // As of an export that was ended: its socket is gone.
        lock(&self.0).get(&number).cloned().ok_or(Error::Abandoned)
    }

    pub(super) fn read(&self, number: u32, block: usize) -> Result<u8> {
        let mut bytes = [0; BLOCK];
        self.find(number)?.device.read((block * BLOCK) as u64, &mut bytes, Reading::MayWait)?;
        Ok(byte_of(&bytes))
    }

    pub(super) fn write(&self, number: u32, block: usize, byte: u8) -> Result<()> {
        Ok(self.find(number)?.device.write(&[writing(block, &block_of(byte))])?)
    }

    pub(super) fn end(&self, number: u32) -> Result<()> {
        let ended = lock(&self.0).remove(&number);
        ended.map(drop).ok_or(Error::Abandoned)
    }

    pub(super) fn end_all(&self) {
        drop(std::mem::take(&mut *lock(&self.0)));
    }
}
