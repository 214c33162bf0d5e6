//! The end of a machine: its event, and how good its moment is to restore.

use bygone_model::{Event, Grade, Kind};

use super::follow::who;
use crate::{
    file_systems::FileSystems,
    runner::{By, Exit},
};

/// What is known about the end of a machine, once its process has ended.
#[derive(Clone, Debug)]
pub(super) struct Ending<'a> {
    /// Who shut it down, and QEMU's reason.
    pub asked_by: Option<&'a (By, String)>,
    /// How it was asked to stop: `shutdown`, `force` or `deadline`.
    pub asked: Option<&'static str>,
    pub exit: Exit,
    /// QEMU's own last output.
    pub last_words: &'a str,
    /// No client has its disks open any more.
    pub clients_gone: bool,
    /// What the file systems on its disks say.
    pub file_systems: FileSystems,
}

impl Ending<'_> {
    /// The event of the stop.
    pub(super) fn event(&self) -> Event {
        let grade = self.grade();
        let event = Event::new(Kind::Shutdown, self.label())
            .graded(grade)
            .with("reason", self.asked_by.map_or("none", |(_, reason)| reason.as_str()))
            .with("by", self.asked_by.map_or("nobody", |(by, _)| who(*by)))
            .with("asked", self.asked.is_some())
            .with("verified", grade == Grade::Stopped)
            .with("signals", self.signals());
        if self.is_orderly() || self.last_words.is_empty() {
            return event;
        }
        event.with("last_words", self.last_words)
    }

    /// Its guest ended it, as far as the hypervisor says.
    fn is_orderly(&self) -> bool {
        matches!(self.asked_by, Some((By::Guest | By::Unknown, _))) && self.asked != Some("force")
    }

    fn is_panic(&self) -> bool {
        self.asked_by.is_some_and(|(_, reason)| reason == "guest-panic")
    }

    fn grade(&self) -> Grade {
        if self.is_orderly() && !self.is_panic() && self.clients_gone && self.file_systems.none_is_dirty() {
            return Grade::Stopped;
        }
        if self.file_systems.all_are_clean() { Grade::Clean } else { Grade::Crash }
    }

    fn label(&self) -> String {
        match (self.asked_by, self.asked) {
            (_, Some("force")) => "the power was cut, as asked".to_owned(),
            (_, Some("deadline")) => "the target did not shut down in time and was forced".to_owned(),
            _ if self.is_panic() => "ended after a panic".to_owned(),
            (Some((By::Guest | By::Firmware | By::Unknown, _)), Some(_)) => {
                "the target shut down, as asked".to_owned()
            }
            (Some((By::Guest | By::Firmware, _)), None) => "the target shut itself down".to_owned(),
            (Some((By::Unknown, _)), None) => "the target had shut down".to_owned(),
            (Some((By::Host, reason)), _) => format!("the machine was ended from outside ({reason})"),
            (None, _) => format!("the machine ended unexpectedly ({})", self.exit),
        }
    }

    /// What the grade relies on, for people.
    fn signals(&self) -> Vec<String> {
        let mut signals = Vec::new();
        if let Some((_, reason)) = self.asked_by {
            signals.push(format!("the hypervisor said so ({reason})"));
        }
        signals.push(format!("QEMU ended ({})", self.exit));
        if self.clients_gone {
            signals.push("the clients of its disks are gone".to_owned());
        }
        signals.extend(self.file_systems.signals());
        signals
    }
}

/// What is known about the end of a machine that nobody supervised, once its process has ended.
#[derive(Clone, Debug)]
pub(super) struct Unseen {
    /// It was ended by its process, as asked.
    pub forced: bool,
    /// No client has its disks open any more.
    pub clients_gone: bool,
    /// What the file systems on its disks say.
    pub file_systems: FileSystems,
}

impl Unseen {
    /// The event of the stop.
    pub(super) fn event(&self) -> Event {
        let grade = self.grade();
        let label = match grade {
            _ if self.forced => "the power was cut, as asked",
            Grade::Stopped => "the target had stopped in order while no manager was watching",
            _ => "the target ended while no manager was watching",
        };
        let event = Event::new(Kind::Shutdown, label)
            .graded(grade)
            .with("reason", if self.forced { "none" } else { "unseen" })
            .with("verified", grade == Grade::Stopped)
            .with("signals", self.signals());
        if self.forced { event.with("asked", true) } else { event }
    }

    /// Nobody heard what the hypervisor said, so only file systems that were all closed in order prove an orderly end.
    fn grade(&self) -> Grade {
        match self.file_systems.all_are_clean() {
            false => Grade::Crash,
            true if self.forced || !self.clients_gone => Grade::Clean,
            true => Grade::Stopped,
        }
    }

    fn signals(&self) -> Vec<String> {
        let mut signals = vec!["QEMU has ended".to_owned()];
        if self.clients_gone {
            signals.push("the clients of its disks are gone".to_owned());
        }
        signals.extend(self.file_systems.signals());
        signals
    }
}

#[cfg(test)]
mod tests {
    use bygone_files::{Kind as Volume, State};

    use super::*;

    const CLEAN: (Volume, State) = (Volume::Ext4, State::Clean);
    const DIRTY: (Volume, State) = (Volume::Xfs, State::Dirty);
    const UNKNOWN: (Volume, State) = (Volume::Btrfs, State::Unknown);
    const UNREADABLE: (Volume, State) = (Volume::Unreadable, State::Unknown);

    #[test]
    fn a_moment_is_as_good_as_all_that_is_known_about_its_end() {
        let guest = (By::Guest, "guest-shutdown".to_owned());
        let panic = (By::Guest, "guest-panic".to_owned());
        let host = (By::Host, "host-signal".to_owned());
        let good = Ending {
            asked_by: Some(&guest),
            asked: None,
            exit: Exit::Code(0),
            last_words: "",
            clients_gone: true,
            file_systems: FileSystems::of(&[CLEAN]),
        };
        for (ending, grade) in [
            (good.clone(), Grade::Stopped),
            (Ending { asked: Some("shutdown"), ..good.clone() }, Grade::Stopped),
            // A guest without a file system that is known has shut down all the same.
            (Ending { file_systems: FileSystems::of(&[]), ..good.clone() }, Grade::Stopped),
            (Ending { file_systems: FileSystems::of(&[UNKNOWN]), ..good.clone() }, Grade::Stopped),
            (Ending { file_systems: FileSystems::of(&[CLEAN, DIRTY]), ..good.clone() }, Grade::Crash),
            (Ending { file_systems: FileSystems::of(&[CLEAN, UNREADABLE]), ..good.clone() }, Grade::Crash),
            (Ending { clients_gone: false, ..good.clone() }, Grade::Clean),
            (Ending { asked: Some("force"), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: Some(&panic), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: Some(&host), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: None, file_systems: FileSystems::of(&[]), ..good.clone() }, Grade::Crash),
            (Ending { asked_by: None, ..good.clone() }, Grade::Clean),
            // Of one of them it is not known.
            (
                Ending { asked_by: None, file_systems: FileSystems::of(&[CLEAN, UNKNOWN]), ..good.clone() },
                Grade::Crash,
            ),
        ] {
            let event = ending.event();
            assert_eq!(event.grade, grade, "{ending:?}");
            let verified = event.details.get("verified").and_then(serde_json::Value::as_bool);
            assert_eq!(verified, Some(grade == Grade::Stopped), "{ending:?}");
        }
    }

    #[test]
    fn an_end_that_nobody_saw_is_as_good_as_its_disks_say() {
        let good = Unseen { forced: false, clients_gone: true, file_systems: FileSystems::of(&[CLEAN]) };
        for (unseen, grade) in [
            (good.clone(), Grade::Stopped),
            (Unseen { forced: true, ..good.clone() }, Grade::Clean),
            (Unseen { clients_gone: false, ..good.clone() }, Grade::Clean),
            (Unseen { file_systems: FileSystems::of(&[]), ..good.clone() }, Grade::Crash),
            (Unseen { file_systems: FileSystems::of(&[CLEAN, UNKNOWN]), ..good.clone() }, Grade::Crash),
            (Unseen { file_systems: FileSystems::of(&[CLEAN, DIRTY]), ..good.clone() }, Grade::Crash),
            (Unseen { file_systems: FileSystems::of(&[CLEAN, UNREADABLE]), ..good }, Grade::Crash),
        ] {
            let event = unseen.event();
            assert_eq!(event.grade, grade, "{unseen:?}");
            assert_eq!(event.label.contains("in order"), grade == Grade::Stopped, "{unseen:?}");
        }
    }

    #[test]
    fn the_last_words_are_kept_of_an_end_that_is_not_orderly() {
        let ending = Ending {
            asked_by: None,
            asked: None,
            exit: Exit::Signal(9),
            last_words: "out of memory",
            clients_gone: true,
            file_systems: FileSystems::default(),
        };
        let event = ending.event();
        assert_eq!(event.label, "the machine ended unexpectedly (killed)");
        assert_eq!(event.details.get("last_words"), Some(&"out of memory".into()));
    }
}
