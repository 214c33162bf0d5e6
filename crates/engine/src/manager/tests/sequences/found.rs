//! What is found of a target, and what the model says.

use std::collections::BTreeMap;

use bygone_model::{BranchId, Grade, Kind, Micros, Seq};
use bygone_store::Wait;

use super::{
    BLOCK, Play,
    model::{BLOCKS, Content, Happened, Machine, Model},
    to_content,
};
use crate::{manager::tests::wait_for, target::Target};

/// What is found of a target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    head: String,
    branches: Vec<String>,
    machine: Option<(bool, String)>,
    pub(super) disk: Option<Content>,
    points: BTreeMap<String, Content>,
    /// What would be taken back: the present before, what was dropped, what was brought back.
    last: Option<(String, Option<String>, Option<String>)>,
    /// All branches there ever were, in their order, and what they held in the end.
    ever: Vec<(String, Content)>,
}

pub(super) fn expected(model: &Model) -> Found {
    let name = |branch: usize| model.branches[branch].name.clone();
    Found {
        head: name(model.head),
        branches: model.live().map(|(_, branch)| branch.name.clone()).collect(),
        machine: match model.machine {
            Machine::Stopped => None,
            Machine::Running(branch) => Some((true, name(branch))),
            Machine::Left(branch) => Some((false, name(branch))),
        },
        disk: (model.disk.is_some() && !model.away && !model.is_open())
            .then(|| model.changed.unwrap_or(model.branches[model.head].content)),
        points: model.points.iter().map(|(label, point)| (label.clone(), point.content)).collect(),
        last: model.last.map(|last| (name(last.head), last.dropped.map(name), last.revived.map(name))),
        ever: model.branches.iter().map(|branch| (branch.name.clone(), branch.content)).collect(),
    }
}

impl Play {
    pub(super) fn found(&self, name: &str, model: Option<&Model>) -> Option<Found> {
        let target = self.manager().target(name).ok()?;
        assert_eq!(target.config().name, name);
        wait_for("the target to be quiet", || target.is_quiet());
        let catalog = target.log.catalog();
        let (mut ever, mut bytes) = (Vec::new(), vec![0; BLOCKS * BLOCK]);
        let mut points = BTreeMap::new();
        for (label, branch, seq) in points_of(&target) {
            let view = target.log.view(target.volume(branch, None).unwrap(), seq).unwrap();
            view.read(bygone_model::Lba(0), &mut bytes, Wait::Yes).unwrap();
            points.insert(label, to_content(&bytes));
        }
        for branch in &catalog.branches {
            let volume = target.volume(branch.id, None).unwrap();
            let end = branch.dropped.unwrap_or_else(|| target.log.head_seq());
            let view = target.log.view(volume, end).unwrap();
            view.read(bygone_model::Lba(0), &mut bytes, Wait::Yes).unwrap();
            ever.push((branch.name.clone(), to_content(&bytes)));
        }
        let live = catalog.branches.iter().filter(|branch| branch.dropped.is_none());
        let name_of = |id: BranchId| catalog.branch(id).unwrap().name.clone();
        Some(Found {
            head: name_of(catalog.head),
            branches: live.map(|branch| branch.name.clone()).collect(),
            machine: target.running_branch().map(|branch| (target.is_running(), name_of(branch))),
            disk: model
                .filter(|model| !model.away && !model.is_open())
                .and_then(|model| model.disk)
                .map(|disk| to_content(&std::fs::read(self.disk(disk)).unwrap())),
            points,
            last: catalog
                .acts
                .last()
                .map(|act| (name_of(act.head_before), act.dropped.map(name_of), act.revived.map(name_of))),
            ever,
        })
    }
}

/// Named moments: label, branch, place.
pub(super) fn points_of(target: &Target) -> Vec<(String, BranchId, Seq)> {
    let mut points = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        if event.event.kind == Kind::Point {
            let place = event.place();
            points.push((event.event.label.clone(), place.branch, place.seq));
        }
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    points
}

/// What happened to a machine, as the log says it.
#[derive(Debug)]
pub(super) struct Seen {
    kind: Kind,
    grade: Grade,
    branch: usize,
    pub(super) lived: bool,
    /// If all of it is known.
    pub(super) content: Option<Content>,
    pub(super) seq: u64,
    pub(super) time: Micros,
}

impl Seen {
    /// It is what the model says; `crowded`: what others do at the same time may come between a panic and the end.
    fn is(&self, event: &Happened, crowded: bool) -> bool {
        let between = crowded && event.kind == Kind::Panic;
        let content = match self.content {
            None => !event.exact,
            Some(content) => content == event.content || between,
        };
        let same = (&self.kind, self.grade, self.branch) == (&event.kind, event.grade, event.branch);
        same && content && (self.lived == event.lived || between)
    }
}

/// Nothing else happened to the machine since that record than what the model says.
pub(super) fn are_events(target: &Target, model: &Model, since: u64, crowded: bool) -> Result<(), String> {
    let new: Vec<_> = model.events.iter().filter(|event| event.seq.is_none_or(|seq| seq > since)).collect();
    let seen = happened(target, since);
    let fits = new.len() == seen.len() && seen.iter().zip(&new).all(|(seen, event)| seen.is(event, crowded));
    fits.then_some(()).ok_or_else(|| format!("it happened {seen:?}\nand should {new:?}"))
}

/// What happened to its machine since that record.
pub(super) fn happened(target: &Target, since: u64) -> Vec<Seen> {
    let (catalog, mut bytes) = (target.log.catalog(), vec![0; BLOCKS * BLOCK]);
    let mut events = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        if matches!(event.event.kind, Kind::Boot | Kind::Shutdown | Kind::Reset | Kind::Panic) {
            events.push(event.clone());
        }
        true
    };
    target.log.events(Seq(since), target.log.head_seq(), &mut each).unwrap();
    let mut seen = |event: bygone_store::Event| {
        let place = event.place();
        let volume = target.volume(place.branch, None).unwrap();
        let content = catalog.is_exact(volume, place.seq).then(|| {
            let view = target.log.view(volume, place.seq).unwrap();
            view.read(bygone_model::Lba(0), &mut bytes, Wait::Yes).unwrap();
            to_content(&bytes)
        });
        Seen {
            time: event.time_told(),
            kind: event.event.kind,
            grade: event.event.grade,
            branch: place.branch.0 as usize,
            lived: catalog.present_at(place.seq) == place.branch,
            content,
            seq: place.seq.0,
        }
    };
    events.into_iter().map(&mut seen).collect()
}
