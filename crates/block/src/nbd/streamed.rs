//! A write that is larger than the receive buffer, made part by part.
//!
//! Invariant: it is answered once, with its last part; after a part has failed no later one is made.

use std::sync::{Arc, Mutex};

use super::socket::lock;
use crate::device::IoError;

/// One part of such a write.
pub(super) struct Part {
    failure: Arc<Mutex<Option<IoError>>>,
    last: bool,
}

impl Part {
    /// The part of a write that has failed, if it did, as `failure` says.
    pub(super) fn new(failure: &Arc<Mutex<Option<IoError>>>, last: bool) -> Self {
        Self { failure: Arc::clone(failure), last }
    }

    /// An earlier part has failed.
    pub(super) fn is_spoiled(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// The part was made, or not; the outcome of the whole if it was the last.
    pub(super) fn end(&self, result: Result<(), IoError>) -> Option<Result<(), IoError>> {
        let mut failure = lock(&self.failure);
        if let Err(error) = result {
            failure.get_or_insert(error);
        }
        self.last.then(|| failure.take().map_or(Ok(()), Err))
    }
}
