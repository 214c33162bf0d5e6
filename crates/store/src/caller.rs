//! Whoever asks for something that may take long, and may go meanwhile.

use std::fmt;

use crate::error::{Error, Result};

/// Who waits for an answer. It is asked between pieces of the work, each a few milliseconds of computing and one or two waits for the
/// medium, whether the answer is still wanted.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a>(Option<&'a dyn Fn() -> bool>);

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.0.map(|_| "may go")).finish()
    }
}

impl<'a> Caller<'a> {
    /// One who waits as long as `wants` says so. Without one ([`Caller::default`]) whoever asks waits for ever.
    #[must_use]
    pub fn who(wants: &'a dyn Fn() -> bool) -> Caller<'a> {
        Caller(Some(wants))
    }

    /// It may go.
    pub(crate) fn may_go(self) -> bool {
        self.0.is_some()
    }

    /// Refuses once it has gone.
    pub(crate) fn check(self) -> Result<()> {
        if self.0.is_none_or(|wants| wants()) { Ok(()) } else { Err(Error::Abandoned) }
    }
}
