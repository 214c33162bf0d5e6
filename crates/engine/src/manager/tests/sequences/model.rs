//! What a target is, by the plainest means: branches with their content, which is the present, the last change that can
//! be taken back.
//!
//! [`Model::take`] is given what was asked and what was answered. It says whether that answer is legal in this state,
//! and if so goes on to the state after it.

use std::collections::BTreeMap;

use bygone_model::{Grade, Kind};

use super::{
    held::KeptAs,
    when::{At, Meant, Place, why},
};
use crate::{Error, api::MomentInfo, lifecycle};

pub(super) const BLOCKS: usize = 8;
/// What the blocks of a disk are filled with; but for these two, which are blocks with the superblock of a file system.
pub(super) type Content = [u8; BLOCKS];
pub(super) const CLEAN: u8 = 251;
pub(super) const DIRTY: u8 = 252;

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Add(Box<Model>),
    Set,
    Run,
    RunAt(At),
    /// By force, if that is said.
    Stop(bool),
    Guest(Does),
    GuestWrite(usize, u8),
    PresentWrite(usize, u8),
    Promote(String),
    Restore(At, bool),
    Undo,
    Drop(String),
    Remove,
    /// A removed target, as it is named or kept, perhaps under another name.
    BringBack(String, Option<usize>),
    /// Which targets were removed and are kept.
    Removed,
    Point(String, Option<At>),
    /// What a text means, and what was there.
    When(At),
    /// The disk outside fails as soon as it is filled for this.
    Weak(Box<Ask>),
    /// A disk is served from now on, under this number.
    Export(u32, Which),
    /// One block of what is served, …
    ReadExport(u32, usize),
    WriteExport(u32, usize, u8),
    EndExport(u32),
}

/// What a guest does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    ShutsDown,
    /// Its process ends.
    Dies,
    Panics,
    /// It starts over.
    Resets,
}

impl Ask {
    /// Its machine is not there any more afterwards.
    pub(super) fn ends_machine(&self) -> bool {
        matches!(self, Ask::Stop(_)) || matches!(self, Ask::Guest(does) if *does != Does::Resets)
    }

    /// It changes which targets there are.
    pub(super) fn moves_targets(&self) -> bool {
        matches!(self, Ask::Add(_) | Ask::Remove | Ask::BringBack(..))
    }
}

/// What is served.
#[derive(Clone, Debug)]
pub(super) enum Which {
    Present,
    Branch(String),
    Moment(At),
}

/// What an export shows, whatever becomes of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Branch(usize),
    Moment(Content),
}

/// What was made of a moment.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// A branch.
    pub(super) name: String,
    /// The moment, if that was said.
    pub(super) of: Option<Place>,
}

impl Made {
    /// Nothing, at that moment.
    pub(super) fn at(moment: &MomentInfo) -> Made {
        Made { name: String::new(), of: Some(Place::of(moment)) }
    }
}

/// What was answered.
#[derive(Debug)]
pub(super) enum Said {
    /// It was done.
    Done(Option<Made>),
    /// It was done, and the disk outside could not be filled.
    Partly(Option<Made>),
    /// The place that a text means, and what was there, if that is known.
    Meant(Place, Option<Content>),
    /// What was read.
    Block(u8),
    /// It was removed, and is kept under this number.
    Removed(u32),
    Listed(Vec<Listed>),
    Refused(Error),
}

/// A removed target, as it is told of.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) kept_as: KeptAs,
    pub(super) removed: String,
    pub(super) disk: Option<u32>,
}

impl Said {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Said::Refused(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) name: String,
    pub(super) dropped: bool,
    pub(super) content: Content,
    /// Of which moment it was made, …
    pub(super) from: Option<(usize, u64)>,
    /// … and what was there.
    pub(super) first: Content,
}

/// Something happened to a machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happened {
    pub(super) kind: Kind,
    pub(super) grade: Grade,
    pub(super) branch: usize,
    /// That branch was the present.
    pub(super) lived: bool,
    pub(super) content: Content,
    /// All of that is known to the store.
    pub(super) exact: bool,
    /// Where that is, once it is known.
    pub(super) seq: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Stopped,
    Running(usize),
    Left(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inverse {
    pub(super) head: usize,
    pub(super) dropped: Option<usize>,
    pub(super) revived: Option<usize>,
}

/// A named moment, and what the disk held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) branch: usize,
    pub(super) seq: u64,
    pub(super) content: Content,
}

/// A target.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) branches: Vec<Branch>,
    pub(super) head: usize,
    pub(super) machine: Machine,
    pub(super) points: BTreeMap<String, Point>,
    pub(super) events: Vec<Happened>,
    pub(super) last: Option<Inverse>,
    /// What is served to others than its machine.
    pub(super) exports: BTreeMap<u32, Shown>,
    /// A branch was discarded while the disk outside was being read: what it held in the end may not be known.
    pub(super) given_up: bool,
    /// Its disk is this one outside the store, …
    pub(super) disk: Option<u32>,
    /// … which is not there, …
    pub(super) away: bool,
    /// It was renamed since it was last opened: it is read again then, and until it is, no moment of it is given out.
    pub(super) renamed: bool,
    /// … or was changed without anybody having noticed.
    pub(super) changed: Option<Content>,
    /// It was not filled to its end, so it may be served from the store while it is away.
    pub(super) unfilled: bool,
    /// The branch of a machine that has ended in this round: whoever began before names moments of it still.
    pub(super) ended_on: Option<usize>,
    pub(super) generation: u32,
}

/// What all requests of a round may meet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Another request for the same target is made at the same time.
    pub(super) crowded: bool,
    /// One of them has a disk or a moment open.
    pub(super) served: bool,
    /// The disk is not known to be what it was, so it is read again by whoever opens it.
    pub(super) unread: bool,
    /// So many of them stop it.
    pub(super) stops: usize,
}

impl Model {
    pub(super) fn new(disk: Option<u32>, generation: u32) -> Model {
        let zeroes = [0; BLOCKS];
        let main = Branch { name: "main".into(), dropped: false, content: zeroes, from: None, first: zeroes };
        Model {
            branches: vec![main],
            head: 0,
            machine: Machine::Stopped,
            points: BTreeMap::new(),
            events: Vec::new(),
            last: None,
            exports: BTreeMap::new(),
            given_up: false,
            disk,
            away: false,
            renamed: false,
            changed: None,
            unfilled: false,
            ended_on: None,
            generation,
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (usize, &Branch)> {
        self.branches.iter().enumerate().filter(|(_, branch)| !branch.dropped)
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.live().find(|(_, branch)| branch.name == name).map(|(id, _)| id)
    }

    /// No machine runs, and nobody reads from it.
    pub(super) fn may_be_removed(&self) -> bool {
        self.machine == Machine::Stopped && self.exports.is_empty()
    }

    /// A branch of this name, also one that was dropped.
    fn ever(&self, name: &str) -> Option<usize> {
        self.branches.iter().position(|branch| branch.name == name)
    }

    /// The place that a text means, and what was there; nothing if another one was answered.
    fn moment(&self, at: &At, made: Option<&Made>) -> Option<(usize, u64, Content)> {
        let Meant::Place { branch, seqs, .. } = &at.meant else { return None };
        let (branch, seq) = match made.and_then(|made| made.of.as_ref()) {
            Some(place) => {
                let branch = self.ever(&place.branch)?;
                let content = at.meant.content(branch, place.seq);
                (self.is_graded(branch, place, content).then_some(branch)?, place.seq)
            }
            None => (branch.unwrap_or(0), seqs.0),
        };
        Some((branch, seq, at.meant.content(branch, seq)?))
    }

    /// The branch that was made of a moment.
    fn branch_at(&mut self, at: &At, made: Option<&Made>) -> Option<usize> {
        let (parent, seq, content) = self.moment(at, made)?;
        let name = made.map_or_else(String::new, |made| made.name.clone());
        let from = Some((parent, seq));
        self.branches.push(Branch { name, dropped: false, content, from, first: content });
        Some(self.branches.len() - 1)
    }

    /// A machine was started or stopped; `exact`: the store knows what its disk holds.
    fn happened(&mut self, kind: Kind, grade: Grade, branch: usize, exact: bool, seq: Option<u64>) {
        let content = self.branches[branch].content;
        let lived = branch == self.head;
        self.events.push(Happened { kind, grade, branch, lived, content, exact, seq });
    }

    /// The machine on this branch has ended; in an orderly way, if its guest shut down and nobody forced it.
    pub(super) fn ended(&mut self, branch: usize, orderly: bool, said: Option<&Place>) -> bool {
        let grade = match (orderly, self.branches[branch].content[0]) {
            (_, DIRTY) => Grade::Crash,
            (true, _) => Grade::Stopped,
            (false, CLEAN) => Grade::Clean,
            (false, _) => Grade::Crash,
        };
        self.ended_as(branch, grade, said)
    }

    fn ended_as(&mut self, branch: usize, grade: Grade, said: Option<&Place>) -> bool {
        let exact = !self.is_unread(branch);
        self.machine = Machine::Stopped;
        self.ended_on = Some(branch);
        self.happened(Kind::Shutdown, grade, branch, exact, said.map(|said| said.seq));
        let Branch { name, content, .. } = &self.branches[branch];
        // It may have written nothing since a better one.
        said.is_none_or(|said| said.branch == *name && self.is_graded(branch, said, Some(*content)))
    }

    /// Whether a place can have the grade that it was given: at least that of what happened there, and no better than
    /// something that happened on its line before, when the disk held the same.
    fn is_graded(&self, branch: usize, place: &Place, content: Option<Content>) -> bool {
        let (mut on, mut upto) = (branch, place.seq);
        let mut is_given = place.grade == Grade::Crash;
        loop {
            for event in self.events.iter().filter(|event| event.branch == on) {
                if on == branch && event.seq == Some(place.seq) && event.grade > place.grade {
                    return false;
                }
                let same = !event.exact || content.is_none_or(|content| content == event.content);
                is_given |= event.grade == place.grade && same && event.seq.is_none_or(|seq| seq <= upto);
            }
            match self.branches[on].from {
                Some((parent, at)) => (on, upto) = (parent, at.min(upto)),
                None => return is_given,
            }
        }
    }

    /// What the disk outside holds is not what the store knows, or nobody knows whether it is.
    fn is_unread(&self, branch: usize) -> bool {
        branch == self.head && (self.changed.is_some() || self.renamed)
    }

    /// Whoever opened the disk outside found what was changed there.
    pub(super) fn notice(&mut self) {
        if let Some(content) = self.changed.take() {
            self.branches[self.head].content = content;
        }
    }

    /// Somebody else than the machine has this branch open for writing.
    pub(super) fn is_served(&self, branch: usize) -> bool {
        self.exports.values().any(|shown| *shown == Shown::Branch(branch))
    }

    /// The disk of the present may be open, so the file outside need not show it, and is not opened anew.
    pub(super) fn is_open(&self) -> bool {
        self.machine != Machine::Stopped || self.is_served(self.head)
    }

    /// The disk of the present cannot be opened.
    fn unreachable(&self) -> bool {
        let open = matches!(self.machine, Machine::Running(branch) if branch == self.head);
        self.disk.is_some() && self.away && !open && !self.is_served(self.head) && !self.unfilled
    }

    fn decide(&self, request: lifecycle::Request) -> lifecycle::Verdict {
        let machine = match self.machine {
            Machine::Stopped => lifecycle::Machine::Stopped,
            Machine::Running(_) => lifecycle::Machine::Running,
            Machine::Left(_) => lifecycle::Machine::LeftRunning,
        };
        lifecycle::decide(None, machine, request)
    }

    /// Another branch becomes the present; false if that is not legal.
    fn may_move_to(&self, branch: Option<usize>) -> bool {
        let stays = matches!(self.machine, Machine::Running(on) if Some(on) == branch);
        let request = if stays { lifecycle::Request::MoveToRunning } else { lifecycle::Request::Move };
        let moves = branch != Some(self.head);
        self.decide(request) == lifecycle::Verdict::Go
            && !(moves && (self.disk.is_some() && self.away || self.is_served(self.head)))
    }

    /// Goes on to the state after this answer; false if it is not legal.
    pub(super) fn take(&mut self, ask: &Ask, said: &Said, round: Round) -> bool {
        match said {
            Said::Refused(Error::Busy { .. }) => round.crowded,
            // Whoever stops what is being stopped waits along.
            Said::Done(_) if ask.ends_machine() && round.stops > 1 && self.machine == Machine::Stopped => {
                true
            }
            // Whoever opened it since may have filled it.
            Said::Refused(Error::DiskAway { .. }) if self.unfilled => self.away,
            Said::Refused(Error::BaseIncomplete { .. }) if round.unread || self.given_up => true,
            Said::Refused(Error::TargetStopping(_)) if round.stops > 0 => true,
            Said::Refused(Error::Served(_) | Error::Moved(_) | Error::BranchUsed(_)) if round.served => true,
            Said::Refused(Error::Partly { .. }) => false,
            Said::Refused(error) => match ask {
                Ask::When(At { meant: Meant::None(none), .. }) => why(error) == *none,
                _ => !self.clone().done(ask, None),
            },
            Said::Partly(made) => {
                let fills = self.disk.is_some() && self.machine == Machine::Stopped;
                // What is on the disk is nobody's change.
                (self.renamed, self.unfilled) = (true, true);
                matches!(ask, Ask::Weak(_)) && fills && self.done(ask, made.as_ref())
            }
            Said::Meant(place, content) => match ask {
                Ask::When(at) => {
                    let branch = self.ever(&place.branch).filter(|branch| {
                        self.is_graded(*branch, place, at.meant.content(*branch, place.seq))
                    });
                    match (branch.and_then(|id| at.meant.content(id, place.seq)), content) {
                        (Some(wanted), Some(found)) => wanted == *found,
                        (Some(_), None) => round.unread || self.given_up || !at.meant.is_exact(),
                        (None, _) => false,
                    }
                }
                _ => false,
            },
            Said::Block(byte) => match ask {
                Ask::ReadExport(number, block) => self.shows(*number, *block) == Some(*byte),
                _ => false,
            },
            Said::Removed(_) | Said::Listed(_) => false,
            Said::Done(made) if matches!(ask, Ask::Weak(_)) && self.disk.is_some() => {
                // It was written to all the same, by whoever made it weak.
                self.done(ask, made.as_ref()) && {
                    self.renamed = true;
                    true
                }
            }
            Said::Done(made) => {
                let left = (ask, self.machine, round.stops);
                // Whoever stops a machine that was left running adopts it first; until it is down all goes on as with
                // others.
                match left {
                    (Ask::GuestWrite(block, byte), Machine::Left(branch), 1..) => {
                        self.branches[branch].content[*block] = *byte;
                        return true;
                    }
                    (Ask::PresentWrite(block, byte), Machine::Left(_), 1..) if !self.unreachable() => {
                        self.notice();
                        self.branches[self.head].content[*block] = *byte;
                        return true;
                    }
                    (Ask::Guest(does), Machine::Left(branch), 2..) => {
                        return self.guest_does(*does, branch, made.as_ref());
                    }
                    _ => {}
                }
                self.done(ask, made.as_ref())
            }
        }
    }

    /// What is served, if that may be; the disk of the present is opened with it.
    fn export(&mut self, which: &Which, made: Option<&Made>) -> Option<Shown> {
        let branch = match which {
            Which::Moment(at) => return Some(Shown::Moment(self.moment(at, made)?.2)),
            Which::Present => self.head,
            Which::Branch(name) => self.named(name)?,
        };
        let present = branch == self.head;
        if self.decide(lifecycle::Request::Serve) != lifecycle::Verdict::Go || (present && self.unreachable())
        {
            return None;
        }
        if present {
            self.notice();
        }
        Some(Shown::Branch(branch))
    }

    /// What an export shows in this block.
    fn shows(&self, number: u32, block: usize) -> Option<u8> {
        Some(match *self.exports.get(&number)? {
            Shown::Branch(branch) => self.branches[branch].content[block],
            Shown::Moment(content) => content[block],
        })
    }

    fn guest_does(&mut self, does: Does, branch: usize, made: Option<&Made>) -> bool {
        let (exact, said) = (!self.is_unread(branch), made.and_then(|made| made.of.as_ref()));
        match does {
            Does::ShutsDown => self.ended(branch, true, said),
            Does::Dies => self.ended(branch, false, said),
            Does::Panics => {
                self.happened(Kind::Panic, Grade::Crash, branch, exact, None);
                self.ended(branch, false, said)
            }
            Does::Resets => {
                self.happened(Kind::Reset, Grade::Crash, branch, exact, None);
                self.happened(Kind::Boot, Grade::Crash, branch, exact, None);
                true
            }
        }
    }

    /// It was done; false if it could not have been.
    fn done(&mut self, ask: &Ask, made: Option<&Made>) -> bool {
        use lifecycle::Verdict;
        match ask {
            Ask::Add(_) | Ask::BringBack(..) => return false,
            Ask::Set | Ask::Removed => {}
            Ask::Run => match (self.decide(lifecycle::Request::Run), self.machine) {
                (Verdict::Go, _) if !self.unreachable() => {
                    let exact = !self.is_unread(self.head);
                    self.notice();
                    self.machine = Machine::Running(self.head);
                    self.happened(Kind::Boot, Grade::Crash, self.head, exact, None);
                }
                (Verdict::Adopt, Machine::Left(branch)) => {
                    if branch == self.head && self.unreachable() {
                        return false;
                    }
                    self.machine = Machine::Running(branch);
                }
                _ => return false,
            },
            Ask::RunAt(at) => {
                if self.decide(lifecycle::Request::Run) != Verdict::Go {
                    return false;
                }
                let Some(branch) = self.branch_at(at, made) else { return false };
                self.machine = Machine::Running(branch);
                self.happened(Kind::Boot, Grade::Crash, branch, true, None);
            }
            Ask::Stop(force) => match self.machine {
                Machine::Stopped => return false,
                // It cannot be adopted, but it can be ended by its process; its end is graded by what the store has.
                Machine::Left(branch) if branch == self.head && self.unreachable() => {
                    let said = made.and_then(|made| made.of.as_ref());
                    return *force && self.ended(branch, false, said);
                }
                Machine::Left(branch) | Machine::Running(branch) => {
                    return self.ended(branch, !force, made.and_then(|made| made.of.as_ref()));
                }
            },
            Ask::Guest(does) => {
                let Machine::Running(branch) = self.machine else { return false };
                return self.guest_does(*does, branch, made);
            }
            Ask::GuestWrite(block, byte) => {
                let Machine::Running(branch) = self.machine else { return false };
                self.branches[branch].content[*block] = *byte;
            }
            Ask::PresentWrite(block, byte) => {
                if self.decide(lifecycle::Request::Serve) != Verdict::Go || self.unreachable() {
                    return false;
                }
                self.notice();
                self.branches[self.head].content[*block] = *byte;
            }
            Ask::Promote(name) => {
                let Some(branch) = self.named(name) else { return false };
                if !self.may_move_to(Some(branch)) {
                    return false;
                }
                if branch != self.head {
                    self.notice();
                    self.last = Some(Inverse { head: self.head, dropped: None, revived: None });
                    self.head = branch;
                }
            }
            Ask::Restore(at, discard) => {
                if !self.may_move_to(None) {
                    return false;
                }
                if *discard {
                    self.given_up |= self.is_unread(self.head);
                    self.changed = None;
                } else {
                    self.notice();
                }
                let Some(branch) = self.branch_at(at, made) else { return false };
                let dropped = discard.then_some(self.head);
                self.last = Some(Inverse { head: self.head, dropped, revived: None });
                if let Some(old) = dropped {
                    self.branches[old].dropped = true;
                }
                self.head = branch;
            }
            Ask::Undo => {
                let Some(Inverse { head, dropped, revived }) = self.last else { return false };
                let moves = head != self.head;
                if moves && !self.may_move_to(Some(head)) {
                    return false;
                }
                let runs_on = match self.machine {
                    Machine::Stopped => None,
                    Machine::Running(branch) | Machine::Left(branch) => Some(branch),
                };
                if revived.is_some_and(|gone| Some(gone) == runs_on || self.is_served(gone)) {
                    return false;
                }
                if moves {
                    self.notice();
                }
                if let Some(back) = dropped {
                    let name = self.branches[back].name.clone();
                    let names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
                    let free = names.into_iter().find(|name| self.named(name).is_none()).unwrap();
                    self.branches[back].name = free;
                    self.branches[back].dropped = false;
                }
                if let Some(gone) = revived {
                    self.branches[gone].dropped = true;
                }
                self.last = Some(Inverse { head: self.head, dropped: revived, revived: dropped });
                self.head = head;
            }
            Ask::Drop(name) => {
                let Some(branch) = self.named(name) else { return false };
                let runs_on = match self.machine {
                    Machine::Stopped => None,
                    Machine::Running(branch) | Machine::Left(branch) => Some(branch),
                };
                if branch == self.head || runs_on == Some(branch) || self.is_served(branch) {
                    return false;
                }
                self.branches[branch].dropped = true;
                self.last = Some(Inverse { head: self.head, dropped: Some(branch), revived: None });
            }
            // Who removes a target is asked for by the world: the model goes with it.
            Ask::Remove => return self.may_be_removed(),
            Ask::Point(label, at) => {
                if self.points.contains_key(label) {
                    return false;
                }
                // Without a moment it is where the machine is.
                let here = match self.machine {
                    Machine::Running(branch) | Machine::Left(branch) => branch,
                    Machine::Stopped => {
                        let said = made.and_then(|made| made.of.as_ref());
                        let is_said =
                            |on: &usize| said.is_some_and(|said| self.ever(&said.branch) == Some(*on));
                        self.ended_on.filter(is_said).unwrap_or(self.head)
                    }
                };
                let content = self.branches[here].content;
                let unknown = || here == self.head && self.changed.is_some_and(|found| found != content);
                let point = match at {
                    Some(at) => self.moment(at, made),
                    None if unknown() => None,
                    None => match made.and_then(|made| made.of.as_ref()) {
                        Some(place)
                            if self.ever(&place.branch) != Some(here)
                                || !self.is_graded(here, place, Some(content)) =>
                        {
                            None
                        }
                        place => Some((here, place.map_or(0, |p| p.seq), content)),
                    },
                };
                let Some((branch, seq, content)) = point else { return false };
                self.points.insert(label.clone(), Point { branch, seq, content });
            }
            Ask::When(at) => return matches!(at.meant, Meant::Place { .. }),
            Ask::Weak(ask) => return self.done(ask, made),
            Ask::Export(number, which) => {
                let Some(shown) = self.export(which, made) else { return false };
                self.exports.insert(*number, shown);
            }
            // What was read is said: see `Said::Block`.
            Ask::ReadExport(number, _) => return self.exports.contains_key(number),
            Ask::WriteExport(number, block, byte) => {
                let Some(Shown::Branch(branch)) = self.exports.get(number) else { return false };
                self.branches[*branch].content[*block] = *byte;
            }
            Ask::EndExport(number) => return self.exports.remove(number).is_some(),
        }
        true
    }
}
