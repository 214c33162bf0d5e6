//! What is really asked, and what comes back.

use std::path::PathBuf;

use bygone_block::{BlockDevice, Reading};

use super::{
    BLOCK, Play,
    model::{Ask, BLOCKS, Content, Made, Model, Said},
    to_content,
    when::{At, Place},
    writing,
};
use crate::{
    Error, Result,
    api::{
        Answers, Items, Progress,
        call::{self, NewDisk, NewSource, RestoreTo},
    },
    calls::Handle as _,
    config::TargetConfig,
    serve::Nobody,
    target::Use,
};

/// Whoever asks.
#[derive(Default)]
struct Client {
    zone: Option<&'static str>,
    /// A disk outside, of which nothing is left as soon as it is filled.
    weak: Option<PathBuf>,
}

impl Client {
    fn of(at: &At) -> Client {
        Client { zone: Some(at.zone), weak: None }
    }
}

impl Answers for Client {
    fn zone(&self) -> Option<&str> {
        self.zone
    }
    fn progress(&mut self, progress: Progress) -> bool {
        if progress.doing.starts_with("filling")
            && let Some(disk) = self.weak.take()
        {
            std::fs::File::options().write(true).open(disk).unwrap().set_len(0).unwrap();
        }
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

impl<I> Items<I> for Client {
    fn item(&mut self, _: I) -> bool {
        true
    }
}

impl Play {
    pub(super) fn ask(&self, name: &str, ask: &Ask, new: &Model) -> Said {
        let manager = self.manager();
        let nothing = |result: Result<()>| result.map(|()| None);
        let result = match ask {
            Ask::Add => {
                let path = self.disk(name, new.generation);
                let source =
                    if new.tapped { NewSource::Tap(path) } else { NewSource::Store((BLOCKS * BLOCK) as u64) };
                let disk = NewDisk { id: None, source, block_bytes: None };
                let add = call::TargetAdd { config: TargetConfig::new(name), disks: vec![disk], wait: true };
                manager.handle(&add, &mut Nobody).map(|_| None)
            }
            Ask::Set => {
                let settings = vec![("memory".to_owned(), format!("{}M", 64 + new.generation))];
                nothing(
                    manager.handle(&call::TargetSet { name: name.into(), settings }, &mut Nobody).map(drop),
                )
            }
            Ask::Run => {
                let run = call::Run { name: name.into(), at: None, branch: None, display: None };
                nothing(manager.handle(&run, &mut Nobody).map(drop))
            }
            Ask::RunAt(at) => {
                let text = Some(at.text.clone());
                let run = call::Run { name: name.into(), at: text, branch: None, display: None };
                manager.handle(&run, &mut Client::of(at)).map(|started| {
                    Some(Made { name: started.branch, of: started.from.as_ref().map(Place::of) })
                })
            }
            Ask::Stop => {
                let stop = call::Stop { name: name.into(), force: false, deadline_s: Some(1) };
                nothing(manager.handle(&stop, &mut Nobody).map(drop))
            }
            Ask::GuestWrite(block, byte) => nothing(self.guest_write(name, *block, *byte)),
            Ask::PresentWrite(block, byte) => nothing(self.present_write(name, *block, *byte)),
            Ask::Promote(_) | Ask::Restore(..) | Ask::Undo => self.move_present(name, ask, None),
            Ask::Weak(inner) => {
                let moved = self.move_present(name, inner, Some(self.disk(name, new.generation)));
                if let Err(Error::Partly { done, .. }) = &moved {
                    let name = done.rsplit_once(" on branch ").map(|(_, name)| name.to_owned());
                    return Said::Partly(name.map(|name| Made { name, of: None }));
                }
                moved
            }
            Ask::Drop(branch) => {
                let drop_it = call::BranchDrop { name: name.into(), branch: branch.clone() };
                nothing(manager.handle(&drop_it, &mut Nobody).map(drop))
            }
            Ask::Remove => {
                let remove = call::TargetRemove { name: name.into(), delete_history: false };
                nothing(manager.handle(&remove, &mut Nobody).map(drop))
            }
            Ask::BringBack => nothing(
                manager
                    .handle(&call::TargetRestore { name: name.into(), new_name: None }, &mut Nobody)
                    .map(drop),
            ),
            Ask::Point(label, at) => {
                let text = at.as_ref().map(|at| at.text.clone());
                let point = call::Point { name: name.into(), at: text, label: label.clone(), hold: None };
                let mut client = at.as_ref().map_or_else(Client::default, Client::of);
                let named = manager.handle(&point, &mut client);
                named.map(|named| Some(Made { name: String::new(), of: Some(Place::of(&named)) }))
            }
            Ask::When(at) => match self.look(name, at) {
                Ok((place, content, _)) => return Said::Meant(place, content),
                Err(error) => Err(error),
            },
            Ask::Export(number, which) => {
                let begun = self.served.begin(manager, name, *number, which);
                begun.map(|of| Some(Made { name: String::new(), of }))
            }
            Ask::ReadExport(number, block) => match self.served.read(*number, *block) {
                Ok(byte) => return Said::Block(byte),
                Err(error) => Err(error),
            },
            Ask::WriteExport(number, block, byte) => nothing(self.served.write(*number, *block, *byte)),
            Ask::EndExport(number) => nothing(self.served.end(*number)),
        };
        match result {
            Ok(made) => Said::Done(made),
            Err(error) => Said::Refused(error),
        }
    }

    fn guest_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let machine = target.machine().ok_or_else(|| Error::TargetStopped(name.into()))?;
        let lease = target.lease(target.volume(machine.branch, None)?, Use::Guest)?;
        // As a machine that ended meanwhile does not write any more.
        if target.machine_state() != crate::lifecycle::Machine::Running {
            return Err(Error::TargetStopped(name.into()));
        }
        Ok(lease.write(&[writing(block, &[byte; BLOCK])])?)
    }

    fn present_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let lease = target.serve(target.volume(target.present(), None)?, true)?;
        Ok(lease.write(&[writing(block, &[byte; BLOCK])])?)
    }

    /// Another branch becomes the present, perhaps.
    fn move_present(&self, name: &str, ask: &Ask, weak: Option<PathBuf>) -> Result<Option<Made>> {
        let manager = self.manager();
        let mut client = Client { zone: None, weak: weak.clone() };
        let moved = match ask {
            Ask::Promote(branch) => {
                let promote = call::BranchPromote { name: name.into(), branch: Some(branch.clone()) };
                manager.handle(&promote, &mut client).map(|_| None)
            }
            Ask::Undo => manager.handle(&call::Undo { name: name.into() }, &mut client).map(|_| None),
            Ask::Restore(at, discard_later) => {
                client.zone = Some(at.zone);
                let (to, discard_later) = (RestoreTo::InPlace, *discard_later);
                let at = at.text.clone();
                let restore = call::Restore { name: name.into(), at, disk: None, to, discard_later };
                manager.handle(&restore, &mut client).map(|restored| {
                    let of = Some(Place::of(&restored.moment));
                    restored.branch.map(|name| Made { name, of })
                })
            }
            other => unreachable!("{other:?}"),
        };
        if let Some(disk) = weak.filter(|_| client.weak.is_none()) {
            // It works again, and has lost what it held.
            let disk = std::fs::File::options().write(true).open(disk).unwrap();
            disk.set_len((BLOCKS * BLOCK) as u64).unwrap();
        }
        moved
    }

    /// What a text means and what was there, and the text that means the same for good.
    pub(super) fn look(&self, name: &str, at: &At) -> Result<(Place, Option<Content>, String)> {
        let (manager, now) = (self.manager(), at.now());
        let target = manager.target(name)?;
        let found = target.moment(&at.text, &now)?;
        let info = found.info(&target.log.catalog());
        assert_eq!(target.moment(&info.when, &now)?.place, found.place);
        if at.now.is_none() {
            let when = call::When { name: name.into(), at: at.text.clone() };
            let told = manager.handle(&when, &mut Client::of(at))?;
            let same = (told.moment.branch_id, told.moment.seq >= info.seq);
            assert_eq!(same, (info.branch_id, true), "{}", at.text);
        }
        let opened = match manager.open_device(&format!("{name}@{}", info.when), &now) {
            Err(Error::BaseIncomplete { .. }) => return Ok((Place::of(&info), None, info.when)),
            opened => opened?,
        };
        let mut bytes = vec![0; BLOCKS * BLOCK];
        opened.device.read(0, &mut bytes, Reading::MayWait)?;
        assert_eq!(opened.moment.as_ref().map(Place::of), Some(Place::of(&info)));
        Ok((Place::of(&info), Some(to_content(&bytes)), info.when))
    }
}
