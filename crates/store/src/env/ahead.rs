//! Has the medium begin with what was written, from a thread of its own: asking may have to wait for a commit of the file
//! system's journal, and whoever writes must not.
//!
//! Invariant: at most [`WAITING_MAX`] requests wait; what comes then is dropped, and left to the next sync.

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

/// Asks for it, unless that is of no use.
pub(super) fn begin(file: &Arc<File>, offset: u64, len_bytes: u64) {
    static REQUESTS: OnceLock<Option<SyncSender<Request>>> = OnceLock::new();
    let start = || {
        let (sender, requests) = sync_channel::<Request>(WAITING_MAX);
        let work = move || {
            for request in requests {
                // A refusal costs nothing but time.
                let _ = bygone_sys::begin_writing(&request.file, request.offset, request.len_bytes);
            }
        };
        std::thread::Builder::new().name("write-ahead".to_owned()).spawn(work).ok().map(|_| sender)
    };
    if let Some(requests) = REQUESTS.get_or_init(start) {
        let _busy_enough = requests.try_send(Request { file: file.clone(), offset, len_bytes });
    }
}
