//! The findings of `verify`, in a small file in the target's folder: damage stays known until a later verification
//! finds the place intact. The file is no part of the history; if it is missing, nothing is known.

use std::{collections::HashMap, fs, path::PathBuf};

use super::{Target, lock};
use crate::{
    api::{KNOWN_MAX, KnownDamage, Verification},
    error::{Error, Result},
    store_dir::write_over,
};

impl Target {
    fn verified_file(&self) -> PathBuf {
        self.dir.join("verified.json")
    }

    /// The findings of earlier verifications; `None` if it was never verified.
    pub(crate) fn verified(&self) -> Option<Verification> {
        serde_json::from_slice(&fs::read(self.verified_file()).ok()?).ok()
    }

    /// Writes the findings of a verification: each damaged place and its detail. If it was not complete, places known
    /// to be damaged before stay known.
    ///
    /// # Errors
    /// When they cannot be written, or the target was removed meanwhile.
    pub(crate) fn note_verified(&self, time: &str, complete: bool, found: &[(String, String)]) -> Result<()> {
        // Another target may have the folder by now.
        let _not_removed_meanwhile = lock(&self.config);
        if self.is_gone() {
            return Err(Error::NoTarget(self.name.clone()));
        }
        let before = self.verified().map(|before| before.damaged).unwrap_or_default();
        let since: HashMap<&str, &str> = before.iter().map(|at| (&*at.place, &*at.since)).collect();
        let mut damaged: Vec<KnownDamage> = found
            .iter()
            .map(|(place, detail)| KnownDamage {
                place: place.clone(),
                detail: detail.clone(),
                since: (*since.get(place.as_str()).unwrap_or(&time)).to_owned(),
            })
            .collect();
        if !complete {
            let unseen = before.iter().filter(|at| found.iter().all(|(place, _)| *place != at.place));
            damaged.extend(unseen.cloned());
        }
        damaged.truncate(KNOWN_MAX);
        write_over(&self.verified_file(), &Verification { time: time.to_owned(), complete, damaged })
    }
}
