//! Machines in QEMU.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use bygone_qemu::{self as qemu, Phase, Places, Step, Stopped, Vm};

use super::{Launch, Launched, Launcher, Runner};
use crate::{api::Accelerator, config, error::Result};

const LAST_WORDS_BYTES_MAX: u64 = 4096;

/// Starts machines with the QEMU of this computer.
#[derive(Debug, Default)]
pub(crate) struct Qemu {
    accel: OnceLock<qemu::Accel>,
}

impl Qemu {
    /// With a known accelerator, so that it is not probed.
    #[cfg(test)]
    pub(crate) fn with(accel: qemu::Accel) -> Qemu {
        Qemu { accel: accel.into() }
    }

    /// KVM if a probe shows that it works, otherwise TCG.
    fn accel(&self, scratch: &Path) -> Result<qemu::Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let finding = qemu::accel::probe(&qemu::find_qemu()?, scratch, qemu::accel::PROBE_MAX)?;
        tracing::info!(accelerator = %finding.accel(), "{}", finding.explain());
        Ok(*self.accel.get_or_init(|| finding.accel()))
    }
}

impl Launcher for Qemu {
    fn prepare(&self, scratch: &Path) -> Result<Accelerator> {
        self.accel(scratch).map(|accel| match accel {
            qemu::Accel::Kvm => Accelerator::Kvm,
            qemu::Accel::Tcg => Accelerator::Tcg,
        })
    }

    fn start(&self, launch: &Launch<'_>) -> Result<Launched> {
        let places = Places::new(launch.dir)?;
        let machine = describe(launch, &places, self.accel(launch.dir)?)?;
        let (vm, reports) = Vm::start(&qemu::find_qemu()?, &machine, &places)?;
        Ok(Launched { runner: Box::new(vm), reports })
    }

    fn find(&self, dir: &Path) -> Result<Option<u32>> {
        let places = match Places::new(dir) {
            // None can be started there.
            Err(qemu::Error::SocketPathTooLong { .. } | qemu::Error::NotUtf8 { .. }) => return Ok(None),
            places => places?,
        };
        let found = qemu::Running::find(&places)?;
        Ok(found.map(|(running, _)| running.process.pid))
    }

    fn adopt(&self, dir: &Path) -> Result<Option<Launched>> {
        let adopted = Vm::adopt(&Places::new(dir)?)?;
        Ok(adopted.map(|(vm, reports)| Launched { runner: Box::new(vm), reports }))
    }

    fn end(&self, dir: &Path) -> Result<()> {
        Ok(qemu::Running::end(&Places::new(dir)?)?)
    }

    fn console(&self, dir: &Path) -> PathBuf {
        Places::new(dir).map(|places| places.console_socket()).unwrap_or_default()
    }

    fn mark_console(&self, dir: &Path, text: &str) -> Result<()> {
        Ok(qemu::console::mark(&Places::new(dir)?, text)?)
    }

    fn last_words(&self, dir: &Path) -> String {
        Places::new(dir).map(|places| places.last_words(LAST_WORDS_BYTES_MAX)).unwrap_or_default()
    }
}

impl Runner for Vm {
    fn pid(&self) -> u32 {
        self.identity().pid
    }
    fn phase(&self) -> Phase {
        Vm::phase(self)
    }
    fn stop(&self, patience: Duration, wanted: &mut dyn FnMut(Option<Step>) -> bool) -> Result<Stopped> {
        Ok(Vm::stop(self, patience, false, wanted)?)
    }
    fn end(&self) -> Result<()> {
        Ok(Vm::end(self, |_| {}).map(drop)?)
    }
    fn resume(&self) -> Result<()> {
        Ok(Vm::resume(self)?)
    }
    fn reset(&self) -> Result<()> {
        Ok(Vm::reset(self)?)
    }
}

fn describe(launch: &Launch<'_>, places: &Places, accel: qemu::Accel) -> Result<qemu::Machine> {
    let config = launch.config;
    let mut machine = qemu::Machine::new(&config.name, accel);
    machine.identity = launch.identity.to_owned();
    machine.memory_mib = config.memory_mib;
    machine.cpus = config.cpus;
    machine.extra_args = config.qemu_args.clone();
    machine.display = match launch.display {
        config::Display::None => qemu::Display::None,
        config::Display::Gtk => qemu::Display::Gtk,
        config::Display::Vnc(at) => qemu::Display::Vnc(at.clone()),
    };
    machine.kernel = config.kernel.clone().map(|image| qemu::Kernel {
        image,
        initrd: config.initrd.clone(),
        append: config.append.clone().unwrap_or_default(),
    });
    if config.firmware == config::Firmware::Uefi {
        places.make()?;
        machine.firmware = qemu::firmware::uefi(Path::new("/"), &places.uefi_vars())?;
    }
    machine.cdrom.clone_from(&config.cdrom);
    if let Some(user_data) = &config.user_data {
        places.make()?;
        qemu::seed::write(places, &config.name, launch.identity, user_data)?;
        machine.seed = Some(places.seed());
    }
    if !config.net.is_empty() {
        let bad = || config::BadSetting::Value { key: "net".to_owned(), value: config.net.clone() };
        machine.nets = qemu::Net::parse(&config.net).map_err(|_| bad())?.into_iter().collect();
    }
    for disk in &launch.disks {
        let mut made = qemu::Disk::new(&disk.id, &disk.socket, &disk.export);
        made.block_bytes = disk.block_bytes;
        machine.disks.push(made);
    }
    Ok(machine)
}
