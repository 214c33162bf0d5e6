//! What a confirmed plan relies on. It is checked again with the turn held, because names can have changed their
//! meaning since.

use std::path::Path;

use bygone_model::BranchId;
use bygone_store::{Log, env::RealDir};

use super::Target;
use crate::{
    api::{Expect, MovedPart},
    error::{Error, Result},
    store_dir::id_text,
};

impl Target {
    /// What a plan is made of that takes history from these branches.
    pub(crate) fn expectation(&self, present: BranchId, loses: &[BranchId]) -> Expect {
        let mut loses: Vec<u32> = loses.iter().map(|branch| branch.0).collect();
        loses.sort_unstable();
        Expect { log: self.log_id(), present: present.0, loses }
    }

    /// Checks that a call which would take history from these branches is still the one that was planned.
    ///
    /// # Errors
    /// [`Error::Outdated`] when it is not.
    pub(crate) fn check_expected(&self, expected: Option<&Expect>, loses: &[BranchId]) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        let found = self.expectation(self.present(), loses);
        let what = if found.log != expected.log {
            MovedPart::Target
        } else if found.present != expected.present {
            MovedPart::Present
        } else if found.loses != expected.loses {
            MovedPart::Branches
        } else {
            return Ok(());
        };
        Err(Error::Outdated { name: self.name.clone(), what })
    }

    /// The id of its log, which no other target has: what tells it and its machine from all others, whatever its name.
    pub(crate) fn log_id(&self) -> String {
        id_text(self.log.id())
    }
}

/// The id of the log in the folder of a target that need not be open; `None` if it cannot be read.
pub(crate) fn log_id_in(dir: &Path) -> Option<String> {
    Log::id_in(&RealDir::new(dir)).ok().flatten().map(id_text)
}
