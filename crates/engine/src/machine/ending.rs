//! The end of a machine: its event, and how good its moment is to restore.

use bygone_model::{Event, Grade, Kind};

use super::follow::who;
use crate::{
    fs_state::FsState,
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
    /// The file systems on its disks, with the names of these; `None` if a disk cannot be read.
    pub file_systems: Option<Vec<(String, FsState)>>,
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

    /// Whether the file systems that were found are clean; what cannot be read may be dirty.
    fn is_clean(&self) -> bool {
        self.file_systems.as_ref().is_some_and(|found| found.iter().all(|(_, state)| state.clean))
    }

    /// The file systems that are marked clean, if all are.
    fn clean(&self) -> &[(String, FsState)] {
        self.file_systems.as_deref().filter(|_| self.is_clean()).unwrap_or_default()
    }

    fn grade(&self) -> Grade {
        if self.is_orderly() && !self.is_panic() && self.clients_gone && self.is_clean() {
            return Grade::Stopped;
        }
        if self.clean().is_empty() { Grade::Crash } else { Grade::Clean }
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
        let clean = self.clean().iter().map(|(disk, state)| format!("{} on {disk}", state.kind));
        let clean = clean.collect::<Vec<_>>().join(", ");
        if !clean.is_empty() {
            signals.push(format!("file systems are marked clean ({clean})"));
        }
        signals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(clean: bool) -> (String, FsState) {
        ("vda".to_owned(), FsState { kind: "ext4", offset: 0, clean })
    }

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
            file_systems: Some(vec![state(true)]),
        };
        for (ending, grade) in [
            (good.clone(), Grade::Stopped),
            (Ending { asked: Some("shutdown"), ..good.clone() }, Grade::Stopped),
            // A guest without a file system that is known has shut down all the same.
            (Ending { file_systems: Some(vec![]), ..good.clone() }, Grade::Stopped),
            (Ending { file_systems: Some(vec![state(true), state(false)]), ..good.clone() }, Grade::Crash),
            (Ending { file_systems: None, ..good.clone() }, Grade::Crash),
            (Ending { clients_gone: false, ..good.clone() }, Grade::Clean),
            (Ending { asked: Some("force"), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: Some(&panic), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: Some(&host), ..good.clone() }, Grade::Clean),
            (Ending { asked_by: None, file_systems: Some(vec![]), ..good.clone() }, Grade::Crash),
        ] {
            let event = ending.event();
            assert_eq!(event.grade, grade, "{ending:?}");
            let verified = event.details.get("verified").and_then(serde_json::Value::as_bool);
            assert_eq!(verified, Some(grade == Grade::Stopped), "{ending:?}");
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
            file_systems: Some(vec![]),
        };
        let event = ending.event();
        assert_eq!(event.label, "the machine ended unexpectedly (killed)");
        assert_eq!(event.details.get("last_words"), Some(&"out of memory".into()));
    }
}
