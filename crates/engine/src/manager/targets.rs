//! Adding targets and removing them.

use std::{fs, path::PathBuf, sync::Arc};

use bygone_model::Micros;

use super::{Manager, WANTED_EVERY, store::info};
use crate::{
    api::{
        Answers, Items, Nothing, Progress, TargetInfo,
        call::{self, NewDisk, NewSource},
    },
    calls::Handle,
    config::{self, DiskConfig, TargetConfig},
    error::{Error, Result},
    target::{self, Target},
};

pub(super) fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

impl Handle<call::TargetAdd> for Manager {
    fn handle(&self, call: &call::TargetAdd, answers: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        let call::TargetAdd { config, disks, wait } = call;
        config::check_name(&config.name)?;
        let target = self.registry.add(&config.name, now(), || self.make(config, disks, answers))?;
        target.read_disks()?;
        let mut told = false;
        while *wait && target.is_busy() {
            if !answers.wanted() {
                break;
            }
            if !told && target.is_paused() {
                told = true;
                answers.note("the store is full; the disk is read on as soon as there is room".to_owned());
            }
            let status = target.status()?;
            let tapped = || status.disks.iter().filter(|d| d.mode == "tap");
            answers.progress(Progress {
                doing: "reading the disk".to_owned(),
                done_bytes: tapped().map(|d| d.read_bytes).sum(),
                total_bytes: tapped().map(|d| d.size_bytes).sum(),
            });
            std::thread::sleep(WANTED_EVERY / 4);
        }
        info(&target)
    }
}

impl Manager {
    fn make(
        &self,
        config: &TargetConfig,
        disks: &[NewDisk],
        answers: &mut dyn Answers,
    ) -> Result<Arc<Target>> {
        for file in config.kernel.iter().chain(&config.initrd) {
            fs::metadata(file).map_err(|e| Error::file("using", file, e))?;
        }
        let mut config = config.clone();
        let mut imports = Vec::new();
        for (i, disk) in disks.iter().enumerate() {
            let letter = char::from_u32('a' as u32 + i as u32 % 26).unwrap_or('a');
            let id = disk.id.clone().unwrap_or_else(|| format!("vd{letter}"));
            config::check_name(&id)?;
            if config.disk(&id).is_some() {
                return Err(bygone_store::Error::DiskExists(id).into());
            }
            let (path, size) = match &disk.source {
                NewSource::Tap(path) => {
                    let path = config::absolute(path);
                    (Some(path.clone()), target::open_disk(&path)?.0)
                }
                NewSource::Store(bytes) => (None, *bytes),
                NewSource::Import(path) => {
                    let size = crate::import::size_of(path)?;
                    imports.push((id.clone(), path.clone()));
                    (None, size)
                }
            };
            let block = u64::from(disk.block_bytes);
            if !matches!(block, 512 | 4096) || size == 0 || size % block != 0 {
                let path = path.unwrap_or_else(|| PathBuf::from(&id));
                let wanted =
                    format!("it must be a multiple of its block size, {block} (512 or 4096), and not 0");
                return Err(Error::DiskSize { path, found: size, wanted });
            }
            config.disks.push(DiskConfig { id, path, block_bytes: disk.block_bytes, size_bytes: size });
        }
        Target::make(&self.shared, &config, |target| {
            imports.iter().try_for_each(|(id, path)| crate::import::import(target, id, path, answers))
        })
    }
}

impl Handle<call::TargetList> for Manager {
    fn handle(&self, _: &call::TargetList, answers: &mut dyn Items<TargetInfo>) -> Result<()> {
        for target in self.targets() {
            if !answers.item(info(&target)?) {
                break;
            }
        }
        Ok(())
    }
}

impl Handle<call::TargetShow> for Manager {
    fn handle(&self, call: &call::TargetShow, _: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        info(&*self.target(&call.name)?)
    }
}

impl Handle<call::TargetSet> for Manager {
    fn handle(&self, call: &call::TargetSet, _: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        let target = self.target(&call.name)?;
        target.change_config(|config| {
            call.settings.iter().try_for_each(|(key, text)| Ok(config.set(key, text)?))
        })?;
        info(&target)
    }
}
