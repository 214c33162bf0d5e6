//! What verifying a target found: a small file in its folder, so that damage stays known until a later verification finds the place
//! whole. It is no part of the history; without it nothing is known.

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

    /// What is known from verifying it; `None` if it never was.
    pub(crate) fn verified(&self) -> Option<Verification> {
        serde_json::from_slice(&fs::read(self.verified_file()).ok()?).ok()
    }

    /// Notes what was found now: each damaged place and what is wrong with it. What was known before stays known unless all was read.
    ///
    /// # Errors
    /// When it cannot be written, or the target was removed meanwhile.
    pub(crate) fn note_verified(&self, time: &str, complete: bool, found: &[(String, String)]) -> Result<()> {
        // Its folder may be another target's by now.
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
