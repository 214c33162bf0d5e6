//! A write that is larger than the receive buffer, applied part by part.
//!
//! Invariant: it is answered once, with its last part. After a part has failed, no later one is applied.

use std::sync::{Arc, Mutex};

use super::socket::lock;
use crate::device::IoError;

/// One part of such a write.
pub(super) struct Part {
    failure: Arc<Mutex<Option<IoError>>>,
    last: bool,
}

impl Part {
    /// All parts of a write share `failure`, which holds the error of the first one that failed.
    pub(super) fn new(failure: &Arc<Mutex<Option<IoError>>>, last: bool) -> Self {
        Self { failure: Arc::clone(failure), last }
    }

    /// An earlier part has failed.
    pub(super) fn is_spoiled(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// Notes the result of this part; returns the result of the whole write if it was the last.
    pub(super) fn end(&self, result: Result<(), IoError>) -> Option<Result<(), IoError>> {
        let mut failure = lock(&self.failure);
        if let Err(error) = result {
            failure.get_or_insert(error);
        }
        self.last.then(|| failure.take().map_or(Ok(()), Err))
    }
}
