//! How often each request was met in which state, and with which outcome: what is starved is not tested.

use std::collections::BTreeMap;

use super::{
    held::Held,
    model::{Ask, Machine, Said},
};

/// By request, state and outcome.
#[derive(Default)]
pub(super) struct Met(BTreeMap<(String, &'static str, String), u32>);

/// The first words of what is shown of something.
fn words(shown: &str, most: usize) -> String {
    let named = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase());
    let words: Vec<&str> = shown.split(|c: char| !c.is_alphanumeric()).filter(named).take(most).collect();
    words.join(" ")
}

impl Met {
    /// This was asked of a target, before which the store held that.
    pub(super) fn note(&mut self, held: &Held, which: usize, ask: &Ask, said: &Said) {
        let request = match ask {
            Ask::Weak(inner) => format!("Weak {}", words(&format!("{inner:?}"), 1)),
            Ask::Export(_, what) => format!("Export {}", words(&format!("{what:?}"), 1)),
            ask => words(&format!("{ask:?}"), 1),
        };
        let state = match held.targets[which].as_ref().map(|target| (target.machine, target.head)) {
            None => "none",
            Some((Machine::Stopped, _)) => "stopped",
            Some((Machine::Running(branch), head)) if branch == head => "running",
            Some((Machine::Running(_), _)) => "elsewhere",
            Some((Machine::Left(_), _)) => "left",
        };
        let outcome = match said {
            Said::Refused(error) => words(&format!("{error:?}"), 2),
            said => words(&format!("{said:?}"), 1).to_lowercase(),
        };
        *self.0.entry((request, state, outcome)).or_default() += 1;
    }

    /// As a table.
    pub(super) fn shown(&self) -> String {
        self.0
            .iter()
            .map(|((request, state, outcome), times)| {
                format!("{request:16} {state:10} {outcome:32} {times:6}\n")
            })
            .collect()
    }

    pub(super) fn add(&mut self, other: Met) {
        for (key, times) in other.0 {
            *self.0.entry(key).or_default() += times;
        }
    }
}
