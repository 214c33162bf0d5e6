//! Adding targets, listing them, and changing their settings.

use std::{fs, path::PathBuf, sync::Arc};

use bygone_model::Micros;

use super::{Manager, WANTED_EVERY, registry::Held, settings, store::info};
use crate::{
    api::{
        Answers, DiskMode, Items, Nothing, Progress, TargetInfo,
        call::{self, NewDisk, NewSource},
    },
    calls::Handle,
    config::{self, DiskConfig, TargetConfig},
    error::{Error, Result, Usage},
    import::Image,
    lifecycle::Request,
    outside::{self, Tap},
    target::Target,
    variables::set_strange_aside,
};

/// The largest size of a disk: larger than any that exists, and far below the limits of the store and QEMU.
const DISK_BYTES_MAX: u64 = 1 << 50;

pub(super) fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

impl Handle<call::TargetAdd> for Manager {
    fn handle(&self, call: &call::TargetAdd, answers: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        let call::TargetAdd { config, disks, wait } = call;
        config::check_name(&config.name)?;
        settings::check(config)?;
        // They would be given to the target unchecked.
        if !config.disks.is_empty() {
            let why = "the disks of a new target are in `disks`, not in `config.disks`";
            return Err(Usage::BadRequest(why.to_owned()).into());
        }
        let make = |held: &Held<'_>| self.make(held, config, disks, answers);
        let target = self.registry.add(&config.name, now(), make)?;
        if let Err(error) = target.read_disks() {
            // Another program has taken a disk since it was checked. A failed call adds nothing.
            return Err(match self.take_back(&target, answers) {
                Ok(_) => error,
                Err(why) => {
                    tracing::error!(target = config.name, error = %why, "what was added of it cannot be removed");
                    let done = format!("target {} was added", config.name);
                    match why {
                        // It is not there any more, although something of it is.
                        Error::Partly { .. } => error,
                        _ => Error::Partly { done, why: Box::new(error) },
                    }
                }
            });
        }
        self.say_doubts(&target, answers);
        self.say_disks_without_room(&target, answers);
        if *wait {
            wait_until_read(&target, answers)?;
        }
        info(&target)
    }
}

/// Waits until the disks of a target that was added are read. One that cannot be read is not waited for: its status
/// says so.
///
/// # Errors
/// [`Error::Partly`] when the caller no longer waits or the manager ends before; they are read on then.
pub(super) fn wait_until_read(target: &Target, answers: &mut dyn Answers) -> Result<()> {
    let mut told = false;
    // Waits for threads that read disks, not for other uses.
    while target.has_work() && answers.wanted() {
        if !told && target.is_paused() {
            told = true;
            answers.note("the store is full; the disk is read on as soon as there is room".to_owned());
        }
        let status = target.status()?;
        let tapped = || status.disks.iter().filter(|d| d.mode == DiskMode::Tap);
        answers.progress(Progress {
            doing: "reading the disk".to_owned(),
            done_bytes: tapped().map(|d| d.read_bytes).sum(),
            total_bytes: tapped().map(|d| d.size_bytes).sum(),
        });
        std::thread::sleep(WANTED_EVERY / 4);
    }
    match target.status()?.disks.into_iter().find(|disk| !disk.complete) {
        Some(unread) if !answers.wanted() => Err(Error::Partly {
            done: format!("target {} was added", target.name),
            why: Box::new(Error::NotRead { disk: unread.id }),
        }),
        _ => Ok(()),
    }
}

impl Manager {
    fn make(
        &self,
        held: &Held<'_>,
        config: &TargetConfig,
        disks: &[NewDisk],
        answers: &mut dyn Answers,
    ) -> Result<Arc<Target>> {
        self.check_no_foreign_machine(&config.name)?;
        let mut config = config.clone();
        let TargetConfig { kernel, initrd, cdrom, user_data, .. } = &mut config;
        for file in [kernel, initrd, cdrom, user_data].into_iter().flatten() {
            *file = config::absolute(file);
            fs::metadata(&*file).map_err(|e| Error::file("using", &*file, e))?;
        }
        self.take_disks(held, &tapped(&config.name, disks))?;
        let mut imports = Vec::new();
        for (at, disk) in disks.iter().enumerate() {
            let id = id_of(disk, at);
            config::check_name(&id)?;
            if config.disk(&id).is_some() {
                return Err(bygone_store::Error::DiskExists(id).into());
            }
            let (path, size, shown) = match &disk.source {
                NewSource::Tap(path) | NewSource::TapRaw(path) => {
                    let path = config::absolute(path);
                    let is_raw = matches!(disk.source, NewSource::TapRaw(_));
                    let facts = outside::check_tap(&path, is_raw)?;
                    (Some(path), facts.size_bytes, facts.block_bytes)
                }
                NewSource::Store(bytes) => (None, *bytes, None),
                NewSource::Import(path) | NewSource::ImportRaw(path) => {
                    let is_raw = matches!(disk.source, NewSource::ImportRaw(_));
                    let image = Image::look(path, is_raw, answers)
                        .map_err(|error| outside::with_owner(&self.served(), error))?;
                    let facts = (None, image.size_bytes, image.block_bytes);
                    imports.push((id.clone(), image));
                    facts
                }
            };
            // The reported block size is ignored if the disk's size is not a multiple of it.
            let shown = shown.filter(|bytes| matches!(bytes, 512 | 4096) && size % u64::from(*bytes) == 0);
            let block_bytes = disk.block_bytes.or(shown).unwrap_or(512);
            let block = u64::from(block_bytes);
            if !matches!(block, 512 | 4096) || size == 0 || size % block != 0 || size > DISK_BYTES_MAX {
                let path = path.unwrap_or_else(|| PathBuf::from(&id));
                let wanted = format!(
                    "it must be a multiple of its block size, {block} (512 or 4096), not 0, and at most 1 PiB"
                );
                return Err(Error::DiskSize { path, found: size, wanted });
            }
            config.disks.push(DiskConfig { id, path, block_bytes, size_bytes: size });
        }
        // After the checks: a call that is refused moves nothing.
        set_strange_aside(&self.paths().run_dir(&config.name))?;
        Target::make(&self.shared, &config, |target| {
            imports.iter().map(|(id, image)| image.import(target, id, answers)).collect()
        })
    }
}

/// The disks outside the store of a new target.
fn tapped(target: &str, disks: &[NewDisk]) -> Vec<Tap> {
    let tap = |(at, disk): (usize, &NewDisk)| match &disk.source {
        NewSource::Tap(path) | NewSource::TapRaw(path) => {
            Some(Tap { target: target.to_owned(), disk: id_of(disk, at), path: config::absolute(path) })
        }
        NewSource::Store(_) | NewSource::Import(_) | NewSource::ImportRaw(_) => None,
    };
    disks.iter().enumerate().filter_map(tap).collect()
}

fn id_of(disk: &NewDisk, at: usize) -> String {
    disk.id.clone().unwrap_or_else(|| disk_id(at))
}

/// The id of the disk at a position: `vda`, `vdb`, …, `vdz`, `vdaa`, as Linux names a machine's disks.
fn disk_id(at: usize) -> String {
    let (mut letters, mut rest) = (Vec::new(), at);
    loop {
        letters.push(b'a' + (rest % 26) as u8);
        match (rest / 26).checked_sub(1) {
            Some(higher) => rest = higher,
            None => break,
        }
    }
    letters.iter().rev().fold("vd".to_owned(), |id, letter| id + &char::from(*letter).to_string())
}

impl Handle<call::TargetList> for Manager {
    fn handle(&self, _: &call::TargetList, answers: &mut dyn Items<TargetInfo>) -> Result<()> {
        if !list(&self.targets()?, info, answers) {
            return Ok(());
        }
        let folder = self
            .registry
            .folder_trouble()
            .map(|why| format!("the targets cannot be looked for: {}", why.failure()));
        let unusable =
            |(name, why): (String, Arc<Error>)| format!("{name} cannot be used: {}", why.failure());
        for note in folder.into_iter().chain(self.registry.unavailable().into_iter().map(unusable)) {
            answers.note(note);
        }
        Ok(())
    }
}

/// Lists targets; one whose status fails is named with its failure, and the others are listed. False when no more is
/// wanted.
pub(super) fn list(
    targets: &[Arc<Target>],
    info: impl Fn(&Target) -> Result<TargetInfo>,
    answers: &mut dyn Items<TargetInfo>,
) -> bool {
    targets.iter().all(|target| match target.unless_gone(info(target)) {
        Ok(info) => answers.item(info),
        // It was removed meanwhile.
        Err(Error::NoTarget(_)) => true,
        Err(error) => {
            answers.note(format!("{} cannot be listed: {}", target.name, error.failure()));
            true
        }
    })
}

impl Handle<call::TargetShow> for Manager {
    fn handle(&self, call: &call::TargetShow, _: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        info(&*self.target(&call.name)?)
    }
}

impl Handle<call::TargetSet> for Manager {
    fn handle(&self, call: &call::TargetSet, answers: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        let target = self.target(&call.name)?;
        target.check(Request::Note)?;
        target.change_config(|config| {
            call.settings.iter().try_for_each(|(key, text)| config.set(key, text))?;
            settings::check(config)
        })?;
        self.say_doubts(&target, answers);
        info(&target)
    }
}

#[cfg(test)]
mod tests {
    use super::disk_id;

    #[test]
    fn disks_without_a_name_are_called_as_linux_calls_them() {
        let ids: Vec<String> = [0, 1, 25, 26, 27, 51, 52, 701, 702].map(disk_id).into();
        assert_eq!(ids, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
    }
}
