//! Starts write-back from a thread of its own, because starting it may wait for a commit of the file system's journal,
//! and a writer must not wait for that.
//!
//! Invariant: at most [`WAITING_MAX`] requests wait. A request that comes when there are so many is dropped; the next
//! sync writes its range.

use std::{
    fs::File,
    sync::{
        Arc, OnceLock,
        mpsc::{SyncSender, sync_channel},
    },
};

const WAITING_MAX: usize = 64;

struct Request {
    file: Arc<File>,
    offset: u64,
    len_bytes: u64,
}

/// Requests write-back of a range; the request is dropped if too many wait already.
pub(super) fn begin(file: &Arc<File>, offset: u64, len_bytes: u64) {
    static REQUESTS: OnceLock<Option<SyncSender<Request>>> = OnceLock::new();
    let start = || {
        let (sender, requests) = sync_channel::<Request>(WAITING_MAX);
        let work = move || {
            for request in requests {
                // Only a hint: if it fails, the next sync takes longer.
                let _ = bygone_sys::begin_writing(&request.file, request.offset, request.len_bytes);
            }
        };
        std::thread::Builder::new().name("write-ahead".to_owned()).spawn(work).ok().map(|_| sender)
    };
    if let Some(requests) = REQUESTS.get_or_init(start) {
        let _busy_enough = requests.try_send(Request { file: file.clone(), offset, len_bytes });
    }
}
