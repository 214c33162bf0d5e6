//! Serves a raw file over NBD, for measuring the front end alone: `nbd_file FILE (SOCKET | HOST:PORT) SECONDS`.
//! The peer to compare with is `qemu-nbd -f raw -t -k SOCKET FILE`.

use std::{
    error::Error,
    fs::{File, OpenOptions},
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bygone_block::{
    BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing,
    nbd::{ExportInfo, Exports, Limits, OpenError, Scope, Server},
};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, ReadWriteFlags, preadv2},
};

struct RawFile {
    file: File,
    size_bytes: u64,
}

impl BlockDevice for RawFile {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size_bytes, block_bytes: 512, read_only: false, can_trim: true }
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        if reading == Reading::MayWait {
            return Ok(self.file.read_exact_at(buf, offset)?);
        }
        let wanted = buf.len();
        match preadv2(&self.file, &mut [IoSliceMut::new(&mut *buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(len) if len == wanted => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(IoError::WouldBlock),
            // The file system cannot say whether a read would wait (`RWF_NOWAIT`).
            Err(Errno::OPNOTSUPP) => Ok(self.file.read_exact_at(buf, offset)?),
            Err(error) => Err(IoError::Medium(error.into())),
        }
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        for writing in writings {
            match writing.change {
                Change::Data(data) => self.file.write_all_at(data, writing.offset)?,
                Change::Zero { len_bytes } => {
                    let flags = FallocateFlags::ZERO_RANGE;
                    fallocate(&self.file, flags, writing.offset, len_bytes).map_err(io::Error::from)?;
                }
                Change::Trim { len_bytes } => {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&self.file, flags, writing.offset, len_bytes).map_err(io::Error::from)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(self.file.sync_data()?)
    }

    fn extents(
        &self,
        _offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        each(Extent { len_bytes, zero: false, hole: false });
        Ok(())
    }

    fn prefetch(&self, _offset: u64, _len_bytes: u64) {}
}

struct One(Arc<RawFile>);

impl Exports for One {
    fn list(&self) -> Vec<ExportInfo> {
        vec![ExportInfo { name: String::new(), description: "a raw file".to_owned() }]
    }

    fn open(&self, _name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        Ok(Arc::clone(&self.0) as Arc<dyn BlockDevice>)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, address, seconds] = args.as_slice() else {
        return Err("usage: nbd_file FILE (SOCKET | HOST:PORT) SECONDS".into());
    };
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size_bytes = file.metadata()?.len() & !511;
    let server = Server::new(Limits::default());
    let scope = Scope::new(Arc::new(One(Arc::new(RawFile { file, size_bytes }))));
    let serving = match address.parse() {
        Ok(tcp) => server.serve_tcp(tcp, scope)?,
        Err(_) => server.serve_unix(Path::new(address), scope)?,
    };
    std::thread::sleep(Duration::from_secs(seconds.parse()?));
    serving.stop(Duration::from_secs(2));
    Ok(())
}
