//! The exports of a server under test, all backed by one device.

use std::sync::{Arc, Mutex, PoisonError};

use bygone_block::{
    BlockDevice, Extent, Geometry, IoError, Reading, Writing,
    nbd::{ExportInfo, Exports, OpenError},
};

/// Some exports, with the device that was last put there.
pub(super) struct Shop(Mutex<Option<Arc<dyn BlockDevice>>>);

impl Shop {
    /// The exports that can be opened.
    pub(super) const NAMES: [&'static str; 3] = ["", "a", "web/vda#höhe"];

    pub(super) fn empty() -> Shop {
        Shop(Mutex::new(None))
    }

    /// With a device of this shape that does nothing.
    pub(super) fn of_shape(geometry: Geometry) -> Shop {
        let shop = Shop::empty();
        shop.put(Some(Arc::new(Idle(geometry))));
        shop
    }

    pub(super) fn put(&self, device: Option<Arc<dyn BlockDevice>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = device;
    }
}

impl Exports for Shop {
    fn list(&self) -> Vec<ExportInfo> {
        let export = |name: &str| ExportInfo { name: name.to_owned(), description: format!("export {name}") };
        Shop::NAMES.map(export).into()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        let unknown = || OpenError::Unknown { hint: "ask for the list".to_owned() };
        match name {
            "policy" => Err(OpenError::Refused { why: "not now".to_owned() }),
            "closing" => Err(OpenError::Closing),
            "failing" => Err(OpenError::Failed(Arc::new(std::io::Error::other("damaged")))),
            _ if Shop::NAMES.contains(&name) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }
}

/// A device for handshakes only.
struct Idle(Geometry);

impl BlockDevice for Idle {
    fn geometry(&self) -> Geometry {
        self.0
    }
    fn read(&self, _: u64, _: &mut [u8], _: Reading) -> Result<(), IoError> {
        Err(IoError::Full)
    }
    fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
        Err(IoError::Full)
    }
    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
    fn extents(&self, _: u64, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<(), IoError> {
        Ok(())
    }
    fn prefetch(&self, _: u64, _: u64) {}
}
