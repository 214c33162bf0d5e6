//! Cancellation of calls that may take long.

use std::fmt;

use crate::error::{Error, Result};

/// Whether a call's answer is still wanted. The call asks between pieces of its work, each of which takes a few
/// milliseconds of computing and one or two waits for the medium.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a>(Option<&'a dyn Fn() -> bool>);

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.0.map(|_| "may go")).finish()
    }
}

impl<'a> Caller<'a> {
    /// A caller that waits as long as `wants` returns true. [`Caller::default`] never cancels.
    #[must_use]
    pub fn who(wants: &'a dyn Fn() -> bool) -> Caller<'a> {
        Caller(Some(wants))
    }

    /// Whether the call can be cancelled.
    pub(crate) fn may_go(self) -> bool {
        self.0.is_some()
    }

    /// Fails with [`Error::Abandoned`] once the answer is not wanted any more.
    pub(crate) fn check(self) -> Result<()> {
        if self.0.is_none_or(|wants| wants()) { Ok(()) } else { Err(Error::Abandoned) }
    }
}
