//! What a store holds: targets by name, and those that were removed and are kept.

use std::collections::BTreeMap;

use super::model::{Ask, Content, Listed, Model, Round, Said};
use crate::Error;

/// The last one is also what the first removed target of the first name is kept as.
pub(super) const NAMES: [&str; 3] = ["web", "db", "web-1"];

/// A removed target: the name that it had, and the number of its folder.
pub(super) type KeptAs = (usize, u32);

/// See the module's comment.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) targets: [Option<Model>; NAMES.len()],
    /// Each with how many were removed before it.
    pub(super) removed: BTreeMap<KeptAs, (u64, Model)>,
    /// Disks outside, as the target that was removed last with them left them.
    left: BTreeMap<u32, Left>,
    removals: u64,
}

#[derive(Clone, Copy)]
struct Left {
    generation: u32,
    content: Content,
    away: bool,
}

/// What the requests of a round may meet, by name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    pub(super) of: [Round; NAMES.len()],
    /// So many of them change which targets there are.
    pub(super) movers: usize,
}

/// The names that a request may be about.
pub(super) fn touched(which: usize, ask: &Ask) -> Vec<usize> {
    match ask {
        Ask::BringBack(_, Some(to)) => vec![*to],
        Ask::BringBack(asked, None) => meanings(asked).map(|(name, _)| name).collect(),
        _ => vec![which],
    }
}

/// Which removed targets may be meant: that of this number, or the last one of this name.
fn meanings(asked: &str) -> impl Iterator<Item = (usize, Option<u32>)> {
    NAMES.iter().enumerate().filter_map(move |(which, name)| match asked.strip_prefix(name)? {
        "" => Some((which, None)),
        rest => Some((which, Some(rest.strip_prefix('-')?.parse().ok()?))),
    })
}

impl Held {
    /// The removed target that is meant.
    fn find(&self, asked: &str) -> Option<KeptAs> {
        let kept = |which, number| self.removed.contains_key(&(which, number)).then_some((which, number));
        let exact = meanings(asked).find_map(|(which, number)| kept(which, number?));
        exact.or_else(|| {
            let (which, _) = meanings(asked).find(|(_, number)| number.is_none())?;
            self.newest(which).map(|number| (which, number))
        })
    }

    fn newest(&self, which: usize) -> Option<u32> {
        self.removed.keys().filter(|(name, _)| *name == which).map(|(_, number)| *number).max()
    }

    /// A target has this disk outside.
    pub(super) fn has_disk(&self, disk: u32) -> bool {
        self.targets.iter().flatten().any(|target| target.disk == Some(disk))
    }

    /// What is on a disk outside that no target has.
    fn content_of(&self, disk: u32) -> Content {
        self.left.get(&disk).map_or([0; super::BLOCKS], |left| left.content)
    }

    /// Goes on to the state after this answer; false if it is not legal.
    pub(super) fn take(&mut self, which: usize, ask: &Ask, said: &Said, rounds: &Rounds) -> bool {
        let round = rounds.of[which];
        match (ask, said) {
            (_, Said::Refused(Error::Busy { .. })) => {
                touched(which, ask).iter().any(|name| rounds.of[*name].crowded)
            }
            (Ask::Add(made), Said::Refused(Error::DiskTaken { .. })) => {
                made.disk.is_some_and(|disk| self.has_disk(disk))
            }
            (Ask::Add(_), Said::Refused(Error::TargetExists(_))) => self.targets[which].is_some(),
            (Ask::Add(made), Said::Done(_)) => {
                let mut model = Model::clone(made);
                if model.disk.is_some_and(|disk| self.has_disk(disk)) || self.targets[which].is_some() {
                    return false;
                }
                if let Some(disk) = model.disk {
                    model.branches[0].content = self.content_of(disk);
                    // Whoever does not wait for the one who added it meets it while it is read.
                    model.renamed = round.crowded;
                }
                self.targets[which] = Some(model);
                true
            }
            // Whoever has it may be who brought it back.
            (Ask::BringBack(..), Said::Refused(Error::TargetExists(_))) => {
                touched(which, ask).iter().any(|name| self.targets[*name].is_some())
            }
            (Ask::BringBack(asked, to), _) => self.bring_back(asked, *to, said, rounds),
            (Ask::Remove, Said::Removed(number)) => self.remove(which, *number, round.crowded),
            (Ask::Removed, Said::Listed(listed)) => self.lists(listed, rounds.movers),
            (_, Said::Refused(Error::NoTarget(_))) => self.targets[which].is_none(),
            _ => self.targets[which].as_mut().is_some_and(|target| target.take(ask, said, round)),
        }
    }

    fn bring_back(&mut self, asked: &str, to: Option<usize>, said: &Said, rounds: &Rounds) -> bool {
        let Some(kept) = self.find(asked) else {
            return matches!(said, Said::Refused(Error::NotRemoved(_)));
        };
        let which = to.unwrap_or(kept.0);
        let mut model = self.removed[&kept].1.clone();
        let taken = model.disk.is_some_and(|disk| self.has_disk(disk));
        match said {
            Said::Done(_) if !taken && self.targets[which].is_none() => {}
            Said::Refused(Error::DiskTaken { .. }) => return taken,
            // Which one it means has changed since it was asked for.
            Said::Refused(Error::NotRemoved(_)) => return rounds.movers > 1 && meanings(asked).count() > 1,
            _ => return false,
        }
        self.removed.remove(&kept);
        if let Some(left) = model.disk.and_then(|disk| self.left.get(&disk))
            && left.generation != model.generation
        {
            // Another target had its disk meanwhile.
            model.changed = Some(left.content);
            (model.away, model.renamed) = (left.away, true);
        }
        self.targets[which] = Some(model);
        true
    }

    fn remove(&mut self, which: usize, number: u32, crowded: bool) -> bool {
        let newest = self.newest(which).unwrap_or(0);
        let last = if crowded { number > newest } else { number == newest + 1 };
        let Some(model) = self.targets[which].take_if(|model| last && model.may_be_removed()) else {
            return false;
        };
        if let Some(disk) = model.disk {
            let content = model.changed.unwrap_or(model.branches[model.head].content);
            let left = Left { generation: model.generation, content, away: model.away };
            self.left.insert(disk, left);
        }
        self.removals += 1;
        self.removed.insert((which, number), (self.removals, model));
        true
    }

    /// This is what is kept, the one that was removed last at the end.
    pub(super) fn lists(&self, listed: &[Listed], movers: usize) -> bool {
        let known = |i: usize| {
            let (order, model) = self.removed.get(&listed[i].kept_as)?;
            (model.disk == listed[i].disk).then_some((*order, &listed[i].removed))
        };
        let found: Vec<_> = (0..listed.len()).filter_map(known).collect();
        let in_order = found.windows(2).all(|two| two[0].0 < two[1].0 || two[0].1 == two[1].1);
        // What comes and what goes while somebody looks may be seen or not.
        let all = found.len() == listed.len() && found.len() == self.removed.len();
        in_order && (all || movers > 1)
    }

    /// Somebody could be meant by this who is not there, or not alone.
    pub(super) fn names_of_removed(&self) -> Vec<String> {
        let kept = self.removed.keys().map(|(which, number)| format!("{}-{number}", NAMES[*which]));
        kept.chain(NAMES.map(str::to_owned)).collect()
    }
}
