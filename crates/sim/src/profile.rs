//! Profiles: which steps happen, and how often.

/// One kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Changes of blocks.
    Append,
    /// A flush.
    Flush,
    /// An event.
    Event,
    /// One piece of upkeep.
    Maintain,
    /// All upkeep there is to do.
    MaintainAll,
    /// A checkpoint.
    Checkpoint,
    /// A disk is added.
    AddDisk,
    /// A branch is added.
    AddBranch,
    /// A branch is dropped.
    DropBranch,
    /// Another branch becomes the present.
    Promote,
    /// A volume is opened, or closed.
    OpenOrClose,
    /// The present is read.
    ReadPresent,
    /// The past is read.
    ReadPast,
    /// Times are resolved to moments.
    Times,
    /// Events are read.
    ReadEvents,
    /// A tapped disk is destaged to.
    Tap,
    /// A follower resumes.
    Follow,
    /// The process is killed.
    Kill,
    /// The power is cut.
    PowerCut,
    /// Another holder takes the log over while the previous one still has it open.
    TakeOver,
    /// The same, and the previous one goes on writing for some time.
    Overrun,
    /// Another program removes or replaces the file of a segment that is open.
    Displace,
    /// The machine will die in the middle of an operation.
    Doom,
    /// Space runs out, and is freed again.
    Full,
    /// Syncs fail.
    FailSync,
    /// Reads fail for a while.
    FailReads,
    /// Bits rot while the log is closed.
    Rot,
    /// Index files are lost.
    LoseIndex,
    /// Bits of index files rot while the log is in use.
    RotIndex,
    /// Bits of segments that have no index yet rot, while the log is in use or between two lives.
    RotNewest,
    /// The clock jumps.
    Jump,
    /// Everything is verified.
    Verify,
    /// Everything is compared.
    CompareAll,
}

use Step::*;

/// A weighted mixture of steps.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Steps and their weights.
    pub steps: &'static [(Step, u32)],
    /// Disks with many stripes, large writes.
    pub wide: bool,
}

const CALM: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 40),
    (Event, 20),
    (Maintain, 60),
    (MaintainAll, 20),
    (Checkpoint, 10),
    (AddDisk, 2),
    (AddBranch, 8),
    (DropBranch, 2),
    (Promote, 3),
    (OpenOrClose, 20),
    (ReadPresent, 80),
    (ReadPast, 60),
    (Times, 30),
    (ReadEvents, 10),
    (Tap, 15),
    (Kill, 8),
    (Jump, 4),
    (Verify, 3),
    (CompareAll, 3),
    (TakeOver, 4),
];

const CRASH: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 30),
    (Event, 20),
    (Maintain, 60),
    (MaintainAll, 10),
    (Checkpoint, 8),
    (AddDisk, 2),
    (AddBranch, 6),
    (DropBranch, 2),
    (Promote, 3),
    (OpenOrClose, 15),
    (ReadPresent, 60),
    (ReadPast, 20),
    (Times, 15),
    (ReadEvents, 5),
    (Tap, 10),
    (Kill, 15),
    (PowerCut, 15),
    (Doom, 30),
    (Jump, 4),
    (Verify, 4),
    (CompareAll, 3),
    (TakeOver, 4),
];

const FULL: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 30),
    (Event, 15),
    (Maintain, 60),
    (MaintainAll, 10),
    (Checkpoint, 10),
    (AddDisk, 2),
    (AddBranch, 5),
    (Promote, 3),
    (OpenOrClose, 10),
    (ReadPresent, 60),
    (ReadPast, 20),
    (Times, 15),
    (ReadEvents, 5),
    (Tap, 5),
    (Kill, 12),
    (PowerCut, 8),
    (Doom, 10),
    (Full, 40),
    (Jump, 6),
    (Verify, 3),
    (CompareAll, 3),
];

const SYNC: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 40),
    (Event, 10),
    (Maintain, 80),
    (Checkpoint, 10),
    (AddBranch, 5),
    (OpenOrClose, 10),
    (ReadPresent, 50),
    (ReadPast, 20),
    (Times, 10),
    (Tap, 5),
    (Kill, 12),
    (PowerCut, 12),
    (Doom, 10),
    (FailSync, 30),
    (FailReads, 10),
    (Verify, 2),
    (CompareAll, 2),
];

const ROT: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 30),
    (Event, 15),
    (Maintain, 80),
    (MaintainAll, 20),
    (Checkpoint, 15),
    (AddBranch, 5),
    (Promote, 2),
    (OpenOrClose, 10),
    (ReadPresent, 20),
    (ReadPast, 20),
    (Times, 10),
    (ReadEvents, 5),
    (Tap, 5),
    (Kill, 8),
    (PowerCut, 3),
    (Rot, 30),
    (LoseIndex, 12),
    (Verify, 3),
    (CompareAll, 1),
];

const INDEX: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 20),
    (Event, 10),
    (Maintain, 80),
    (MaintainAll, 20),
    (Checkpoint, 15),
    (AddDisk, 2),
    (AddBranch, 6),
    (Promote, 2),
    (OpenOrClose, 20),
    (ReadPresent, 80),
    (ReadPast, 40),
    (Times, 10),
    (ReadEvents, 5),
    (Tap, 8),
    (Kill, 4),
    (PowerCut, 2),
    (RotIndex, 30),
    (CompareAll, 4),
];

const NEWEST: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 40),
    (Event, 20),
    (Maintain, 40),
    (Checkpoint, 4),
    (AddDisk, 2),
    (AddBranch, 5),
    (Promote, 2),
    (OpenOrClose, 15),
    (ReadPresent, 60),
    (ReadPast, 40),
    (Times, 15),
    (ReadEvents, 10),
    (Kill, 10),
    (PowerCut, 10),
    (Doom, 8),
    (Jump, 3),
    (RotNewest, 50),
    (Verify, 10),
    (CompareAll, 3),
];

const MIXED: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 30),
    (Event, 15),
    (Maintain, 60),
    (MaintainAll, 10),
    (Checkpoint, 8),
    (AddDisk, 2),
    (AddBranch, 6),
    (DropBranch, 2),
    (Promote, 3),
    (OpenOrClose, 12),
    (ReadPresent, 50),
    (ReadPast, 20),
    (Times, 15),
    (ReadEvents, 5),
    (Tap, 8),
    (Kill, 8),
    (PowerCut, 8),
    (Doom, 15),
    (Full, 10),
    (FailSync, 6),
    (FailReads, 4),
    (Rot, 4),
    (LoseIndex, 4),
    (Jump, 4),
    (Verify, 3),
    (CompareAll, 2),
];

const FOLLOW: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 60),
    (Event, 20),
    (Maintain, 60),
    (MaintainAll, 10),
    (Checkpoint, 8),
    (AddDisk, 2),
    (AddBranch, 6),
    (DropBranch, 2),
    (Promote, 3),
    (OpenOrClose, 12),
    (ReadPast, 10),
    (Follow, 120),
    (Kill, 12),
    (PowerCut, 12),
    (Doom, 20),
    (Full, 10),
    (FailSync, 6),
    (FailReads, 6),
    (Rot, 3),
    (LoseIndex, 3),
    (Jump, 4),
    (Verify, 2),
    (CompareAll, 1),
];

/// As `MIXED`, with several holders, and programs that change the files of an open log.
const HOLDERS: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 30),
    (Event, 15),
    (Maintain, 60),
    (MaintainAll, 10),
    (Checkpoint, 8),
    (AddDisk, 2),
    (AddBranch, 6),
    (DropBranch, 2),
    (Promote, 3),
    (OpenOrClose, 12),
    (ReadPresent, 50),
    (ReadPast, 20),
    (Times, 15),
    (ReadEvents, 5),
    (Tap, 8),
    (Kill, 8),
    (PowerCut, 8),
    (Doom, 15),
    (Full, 10),
    (FailSync, 6),
    (FailReads, 4),
    (Rot, 12),
    (LoseIndex, 4),
    (Jump, 4),
    (Verify, 3),
    (CompareAll, 2),
    (TakeOver, 6),
    (Overrun, 8),
    (Displace, 12),
];

/// As `INDEX`, with the same.
const HOLDERS_INDEX: &[(Step, u32)] = &[
    (Append, 240),
    (Flush, 20),
    (Event, 10),
    (Maintain, 80),
    (MaintainAll, 20),
    (Checkpoint, 15),
    (AddDisk, 2),
    (AddBranch, 6),
    (Promote, 2),
    (OpenOrClose, 20),
    (ReadPresent, 80),
    (ReadPast, 40),
    (Times, 10),
    (ReadEvents, 5),
    (Tap, 8),
    (Kill, 4),
    (PowerCut, 2),
    (RotIndex, 30),
    (CompareAll, 4),
    (TakeOver, 6),
    (Overrun, 8),
    (Displace, 12),
];

/// All profiles.
pub const PROFILES: &[Profile] = &[
    Profile { name: "calm", steps: CALM, wide: false },
    Profile { name: "crash", steps: CRASH, wide: false },
    Profile { name: "full", steps: FULL, wide: false },
    Profile { name: "sync", steps: SYNC, wide: false },
    Profile { name: "rot", steps: ROT, wide: false },
    Profile { name: "index", steps: INDEX, wide: false },
    Profile { name: "newest", steps: NEWEST, wide: false },
    Profile { name: "mixed", steps: MIXED, wide: false },
    Profile { name: "wide", steps: MIXED, wide: true },
    // Pages of a few entries, so that trees have many levels.
    Profile { name: "pages", steps: MIXED, wide: false },
    Profile { name: "follow", steps: FOLLOW, wide: false },
    Profile { name: "holders", steps: HOLDERS, wide: false },
    Profile { name: "holders-index", steps: HOLDERS_INDEX, wide: false },
];

/// The profile with this name.
#[must_use]
pub fn named(name: &str) -> Option<Profile> {
    PROFILES.iter().copied().find(|profile| profile.name == name)
}
