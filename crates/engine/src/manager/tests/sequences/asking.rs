//! What is really asked, and what comes back.

use std::path::{Path, PathBuf};

use bygone_block::{BlockDevice, Reading};
use bygone_store::env::Clock as _;

use super::{
    BLOCK, Play, block_of,
    held::{KeptAs, NAMES},
    model::{Ask, BLOCKS, Content, Does, Listed, Made, Said},
    to_content,
    when::{At, Place},
    writing,
};
use crate::{
    Error, Result,
    api::{
        Answers, Caller, Items, Progress,
        call::{self, NewDisk, NewSource, RestoreTo},
    },
    calls::Handle as _,
    config::TargetConfig,
    lifecycle,
    manager::tests::{Collected, wait_for},
    serve::Nobody,
    target::Use,
};

/// Whoever asks.
#[derive(Default)]
struct Client {
    caller: Caller,
    /// A disk outside, of which nothing is left as soon as it is filled.
    weak: Option<PathBuf>,
}

impl Client {
    fn of(at: &At) -> Client {
        Client { caller: Caller { zone: Some(at.zone.to_owned()), ..Caller::default() }, weak: None }
    }
}

impl Answers for Client {
    fn caller(&self) -> &Caller {
        &self.caller
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

/// What a removed target is kept as, from where it is.
fn kept_as(path: &Path) -> KeptAs {
    let (name, number) = path.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap();
    (NAMES.iter().position(|known| *known == name).unwrap(), number.parse().unwrap())
}

impl Play {
    pub(super) fn ask(&self, which: usize, ask: &Ask) -> Said {
        let (manager, name) = (self.manager(), NAMES[which]);
        let nothing = |result: Result<()>| result.map(|()| None);
        let result = match ask {
            Ask::Add(made) => {
                let source = match made.disk {
                    Some(disk) => NewSource::Tap(self.disk(disk)),
                    None => NewSource::Store((BLOCKS * BLOCK) as u64),
                };
                let disk = NewDisk { id: None, source, block_bytes: None };
                let add = call::TargetAdd { config: TargetConfig::new(name), disks: vec![disk], wait: true };
                manager.handle(&add, &mut Nobody).map(|_| None)
            }
            Ask::Set => {
                let settings = vec![("memory".to_owned(), format!("{}M", 64 + which))];
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
            Ask::Stop(force) => {
                let stop = call::Stop { name: name.into(), force: *force, deadline_s: Some(1) };
                manager.handle(&stop, &mut Nobody).map(|stopped| Some(Made::at(&stopped)))
            }
            Ask::Guest(does) => self.guest_does(name, *does),
            Ask::GuestWrite(block, byte) => nothing(self.guest_write(name, *block, *byte)),
            Ask::PresentWrite(block, byte) => nothing(self.present_write(name, *block, *byte)),
            Ask::Promote(_) | Ask::Restore(..) | Ask::Undo => self.move_present(name, ask, None),
            Ask::Weak(inner) => {
                let disk = self.held.targets[which].as_ref().and_then(|model| model.disk);
                let moved = self.move_present(name, inner, disk.map(|disk| self.disk(disk)));
                if let Err(Error::Partly { done, .. }) = &moved {
                    let name = done.rsplit_once(" on branch ").map(|(_, name)| name.to_owned());
                    let made = name.map(|name| Made { of: self.start_of(which, &name), name });
                    return Said::Partly(made);
                }
                moved
            }
            Ask::Drop(branch) => {
                let drop_it = call::BranchDrop { name: name.into(), branch: branch.clone() };
                nothing(manager.handle(&drop_it, &mut Nobody).map(drop))
            }
            Ask::Remove => {
                let remove = call::TargetRemove { name: name.into(), delete_history: false };
                match manager.handle(&remove, &mut Nobody) {
                    Ok(removed) => return Said::Removed(kept_as(&removed.kept_at.unwrap()).1),
                    Err(error) => Err(error),
                }
            }
            Ask::BringBack(asked, to) => {
                let new_name = to.map(|to| NAMES[to].to_owned());
                let restore = call::TargetRestore { new_name, ..call::TargetRestore::of(asked) };
                let back = manager.handle(&restore, &mut Nobody);
                assert!(
                    back.iter().all(|back| to.is_none_or(|to| back.config.name == NAMES[to])),
                    "{back:?}"
                );
                nothing(back.map(drop))
            }
            Ask::Removed => return Said::Listed(self.removed()),
            Ask::Point(label, at) => {
                let text = at.as_ref().map(|at| at.text.clone());
                let point = call::Point { name: name.into(), at: text, label: label.clone(), hold: None };
                let mut client = at.as_ref().map_or_else(Client::default, Client::of);
                let named = manager.handle(&point, &mut client);
                named.map(|named| Some(Made::at(&named)))
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

    /// The moment of which this branch was made, where that is not told.
    fn start_of(&self, which: usize, branch: &str) -> Option<Place> {
        let target = self.manager().target(NAMES[which]).unwrap();
        let catalog = target.log.catalog();
        let (parent, seq) = catalog.branch_named(branch).ok()?.parent?;
        let grade = crate::grade::at(&target.log, bygone_model::Place::new(parent, seq)).unwrap();
        Some(Place {
            branch: catalog.branch(parent)?.name.clone(),
            seq: seq.0,
            time: target.log.time_of(seq).unwrap(),
            grade,
        })
    }

    /// What was removed and is kept.
    pub(super) fn removed(&self) -> Vec<Listed> {
        let listed = Collected::of(self.manager(), &call::TargetRemoved {});
        let told = listed.items.into_iter().map(|info| {
            let kept_as = kept_as(Path::new(&info.kept_as));
            assert_eq!(info.name, NAMES[kept_as.0]);
            let [disk] = info.disks.as_slice() else { panic!("{info:?}") };
            let number = |path: &PathBuf| path.file_stem()?.to_str()?.strip_prefix("disk-")?.parse().ok();
            Listed { kept_as, removed: info.removed.clone(), disk: disk.path.as_ref().and_then(number) }
        });
        told.collect()
    }

    fn guest_does(&self, name: &str, does: Does) -> Result<Option<Made>> {
        let target = self.manager().target(name)?;
        let stopped = || Error::TargetStopped(name.into());
        let machine = target.machine().ok_or_else(stopped)?;
        let guest = self.world.fake.machine(&target.run_dir()).ok_or_else(stopped)?;
        if target.machine_state() != lifecycle::Machine::Running {
            return Err(stopped());
        }
        match does {
            Does::ShutsDown => guest.shut_down(),
            Does::Dies => guest.die(),
            Does::Panics => guest.panic(),
            Does::Resets => {
                guest.reset();
                wait_for("the machine to go on", || {
                    target.machine_state() == lifecycle::Machine::Running && guest.is_running()
                });
                return Ok(None);
            }
        }
        target.wait_ended(&machine, &mut || true).map(|stopped| Some(Made::at(&stopped)))
    }

    fn guest_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let machine = target.machine().ok_or_else(|| Error::TargetStopped(name.into()))?;
        let lease = target.lease(target.volume(machine.branch, None)?, Use::Guest)?;
        // As a machine that ended meanwhile does not write any more.
        if target.machine_state() != lifecycle::Machine::Running {
            return Err(Error::TargetStopped(name.into()));
        }
        Ok(lease.write(&[writing(block, &block_of(byte))])?)
    }

    fn present_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let lease = target.serve(target.volume(target.present(), None)?, true)?;
        Ok(lease.write(&[writing(block, &block_of(byte))])?)
    }

    /// Another branch becomes the present, perhaps.
    fn move_present(&self, name: &str, ask: &Ask, weak: Option<PathBuf>) -> Result<Option<Made>> {
        let manager = self.manager();
        let mut client = Client { weak: weak.clone(), ..Client::default() };
        let moved = match ask {
            Ask::Promote(branch) => {
                let promote = call::BranchPromote { name: name.into(), branch: Some(branch.clone()) };
                manager.handle(&promote, &mut client).map(|_| None)
            }
            Ask::Undo => manager.handle(&call::Undo { name: name.into() }, &mut client).map(|_| None),
            Ask::Restore(at, discard_later) => {
                client.caller.zone = Some(at.zone.to_owned());
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
        let (manager, now) = (self.manager(), at.now(self.clock.wall()));
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
