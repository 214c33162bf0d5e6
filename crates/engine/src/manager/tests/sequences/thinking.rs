//! What clients ask for: by chance, and likely to make sense.

use bygone_store::env::Clock as _;

use super::{
    EXPORTS_MAX, Play, Random, bytes_of,
    held::NAMES,
    model::{Ask, BLOCKS, CLEAN, DIRTY, Does, Machine, Model, Which},
    when::{At, Meant},
};

/// What may be asked of a target.
#[derive(Clone, Copy)]
enum Kind {
    Run,
    Stop,
    Guest,
    GuestWrite,
    PresentWrite,
    Point,
    Restore,
    RunAt,
    Promote,
    Undo,
    Drop,
    Remove,
    Add,
    BringBack,
    Removed,
    When,
    Export,
    UseExport,
    Weak,
    Set,
}

/// What a block may be filled with.
pub(super) fn a_byte(block: usize, random: &mut Random) -> u8 {
    match (block, random.below(4)) {
        (0, 0) => CLEAN,
        (0, 1) => DIRTY,
        _ => (random.below(250) + 1) as u8,
    }
}

impl Play {
    /// Something to ask, likely to make sense; nobody else asks at the same time if it is asked `alone`.
    pub(super) fn think(&mut self, which: usize, random: &mut Random, alone: bool) -> Ask {
        let Some(model) = &self.held.targets[which] else {
            return match random.below(7) {
                0 => Ask::Run,
                1 => Ask::Removed,
                2..=4 if !self.held.removed.is_empty() => self.bring_back(which, random),
                _ => self.add(which, random),
            };
        };
        let points: Vec<String> = model.points.keys().cloned().collect();
        let branches: Vec<String> = model.live().map(|(_, branch)| branch.name.clone()).collect();
        let branch = random.pick(&branches).cloned().unwrap_or_default();
        let others: Vec<String> =
            branches.iter().filter(|name| **name != model.branches[model.head].name).cloned().collect();
        let point = random.pick(&points).map(|label| At::point(label, model));
        let text = self
            .pasts
            .get(&model.generation)
            .and_then(|past| past.text(model, random, alone, self.clock.wall()));
        // What is asked of the manager is asked now, and of what is known.
        let known = |at: &At| at.now.is_none() && (at.meant.is_exact() || matches!(at.meant, Meant::None(_)));
        let moment = text.clone().filter(known).filter(|_| random.one_in(2)).or(point);
        let exports: Vec<u32> = model.exports.keys().copied().collect();
        let block = random.below(BLOCKS);
        let byte = a_byte(block, random);
        let runs_on = match model.machine {
            Machine::Running(branch) if branch != model.head => Some(model.branches[branch].name.clone()),
            _ => None,
        };
        let (stopped, left) = (model.machine == Machine::Stopped, matches!(model.machine, Machine::Left(_)));
        let several = branches.len() > 1;
        let may = |sensible: bool, often: usize| if sensible { often } else { 1 };
        let weights = [
            (Kind::Run, may(stopped || left, 6)),
            (Kind::Stop, may(!stopped, 6)),
            (Kind::Guest, may(!stopped && !left, 4)),
            (Kind::GuestWrite, may(!stopped && !left, 8)),
            (Kind::PresentWrite, 4),
            (Kind::Point, 4),
            (Kind::Restore, may(stopped, 8)),
            (Kind::RunAt, may(stopped, 6)),
            (Kind::Promote, may(several, 6)),
            (Kind::Undo, may(model.last.is_some(), 8)),
            (Kind::Drop, may(several, 5)),
            (Kind::Remove, may(model.may_be_removed(), 4)),
            (Kind::Add, 1),
            (Kind::BringBack, 1),
            (Kind::Removed, 1),
            (Kind::When, 6),
            (Kind::Export, if exports.len() < EXPORTS_MAX { 4 } else { 0 }),
            (Kind::UseExport, if exports.is_empty() { 0 } else { 8 }),
            (Kind::Weak, if alone && stopped && model.disk.is_some() && !model.away { 16 } else { 0 }),
            (Kind::Set, 2),
        ];
        match random.weighted(&weights) {
            Kind::Run => Ask::Run,
            Kind::Stop => Ask::Stop(random.one_in(3)),
            Kind::Guest => Ask::Guest(match random.below(if alone { 4 } else { 3 }) {
                0 => Does::ShutsDown,
                1 => Does::Dies,
                2 => Does::Panics,
                // Others would find it in between.
                _ => Does::Resets,
            }),
            Kind::GuestWrite => Ask::GuestWrite(block, byte),
            Kind::PresentWrite => Ask::PresentWrite(block, byte),
            Kind::Point if model.changed.is_some() => Ask::Run,
            Kind::Point => {
                self.labels += 1;
                Ask::Point(format!("p{}", self.labels), moment.filter(|_| random.one_in(3)))
            }
            Kind::Restore => moment.map_or(Ask::Set, |at| Ask::Restore(at, random.one_in(3))),
            Kind::RunAt => moment.map_or(Ask::Run, Ask::RunAt),
            Kind::Promote => Ask::Promote(runs_on.filter(|_| random.one_in(2)).unwrap_or(branch)),
            Kind::Undo => Ask::Undo,
            Kind::Drop => Ask::Drop(branch),
            Kind::Remove => Ask::Remove,
            Kind::Add => self.add(which, random),
            Kind::BringBack => self.bring_back(which, random),
            Kind::Removed => Ask::Removed,
            Kind::When => text.map_or(Ask::Undo, Ask::When),
            Kind::Export => {
                let which = match (random.below(3), moment) {
                    (0, _) => Which::Present,
                    (1, Some(at)) => Which::Moment(at),
                    _ => Which::Branch(branch),
                };
                self.numbers += 1;
                Ask::Export(self.numbers, which)
            }
            Kind::UseExport => match (random.pick(&exports).copied().unwrap_or(0), random.below(3)) {
                (number, 0) => Ask::ReadExport(number, block),
                (number, 1) => Ask::WriteExport(number, block, byte),
                (number, _) => Ask::EndExport(number),
            },
            Kind::Weak => {
                let moved = match (random.below(3), moment) {
                    (0, _) => Ask::Undo,
                    (1, Some(at)) => Ask::Restore(at, random.one_in(3)),
                    _ => Ask::Promote(others.first().cloned().unwrap_or(branch)),
                };
                Ask::Weak(Box::new(moved))
            }
            Kind::Set => Ask::Set,
        }
    }

    /// A target is added, perhaps on a disk that was or is another one's.
    fn add(&mut self, which: usize, random: &mut Random) -> Ask {
        let used = random.below(self.disks as usize + 1) as u32;
        let disk = match which {
            1 => None,
            _ if used > 0 && random.one_in(4) && self.disk(used).exists() => Some(used),
            2 if random.one_in(2) => None,
            _ => {
                self.disks += 1;
                std::fs::write(self.disk(self.disks), bytes_of([0; BLOCKS])).unwrap();
                Some(self.disks)
            }
        };
        self.generations += 1;
        Ask::Add(Box::new(Model::new(disk, self.generations)))
    }

    fn bring_back(&self, which: usize, random: &mut Random) -> Ask {
        let asked = match random.below(3) {
            0 => NAMES[which].to_owned(),
            _ => random.pick(&self.held.names_of_removed()).cloned().unwrap_or_default(),
        };
        Ask::BringBack(asked, (!random.one_in(3)).then_some(which))
    }

    /// What several clients ask for at the same time, mostly of one target.
    pub(super) fn think_together(
        &mut self,
        which: usize,
        clients: usize,
        random: &mut Random,
    ) -> Vec<(usize, Ask)> {
        let mut asks = Vec::new();
        for client in 0..clients {
            let which = if client > 0 && random.one_in(6) { random.below(NAMES.len()) } else { which };
            asks.push((which, self.think(which, random, clients == 1)));
        }
        // What was done to a target that is removed at the same time could not be seen.
        let others = asks.iter().any(|(_, ask)| matches!(ask, Ask::Add(_) | Ask::BringBack(..)));
        let removed = |asks: &[(usize, Ask)], which| {
            asks.iter().any(|(name, ask)| *name == which && matches!(ask, Ask::Remove))
        };
        let ends = asks.iter().any(|(_, ask)| ask.ends_machine());
        for i in 0..asks.len() {
            // Whoever has opened it before a machine ends may write to it later, though nobody could open it then.
            let away = ends && self.held.targets[asks[i].0].as_ref().is_some_and(|target| target.away);
            if away && matches!(asks[i].1, Ask::PresentWrite(..)) {
                asks[i].1 = Ask::Set;
            }
            // The grade of an end is that of what was there when it was looked at, which others may change before it is
            // written.
            let marks = matches!(asks[i].1, Ask::PresentWrite(0, _) | Ask::WriteExport(_, 0, _));
            if ends && marks {
                asks[i].1 = Ask::Set;
            }
            let seen = match &asks[i].1 {
                Ask::Remove | Ask::Run | Ask::Stop(_) | Ask::Set | Ask::EndExport(_) => true,
                ask if ask.moves_targets() => true,
                // Nor could what a text means, if it is asked of another target.
                Ask::When(_) | Ask::Export(..) | Ask::ReadExport(..) => !others,
                _ => false,
            };
            if !seen && removed(&asks, asks[i].0) {
                asks[i].1 = Ask::Set;
            }
        }
        asks
    }
}
