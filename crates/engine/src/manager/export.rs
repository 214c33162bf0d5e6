//! Exports a disk, or a moment of one, for as long as the client wants it.

use std::sync::Arc;

use bygone_block::nbd;

use super::{Manager, WANTED_EVERY};
use crate::{
    api::{Answers, Exported, Items, call, call::ExportTo},
    calls::{Handle, asked_at},
    config,
    error::{Error, Result, Usage},
    exports::{NBD_STOP_MAX, OneExport},
};

impl Handle<call::Export> for Manager {
    fn handle(&self, call: &call::Export, answers: &mut dyn Items<Exported>) -> Result<Exported> {
        if self.is_stopping() {
            return Err(Error::ManagerEnding);
        }
        let call::Export { what, to } = call;
        if let ExportTo::File(path) | ExportTo::NbdUnix(path) = to {
            // A missing disk would be found there.
            self.known_taken().check_free(path, None)?;
        }
        let opened = self.open_device(what, &asked_at(&*self.shared.clock, answers))?;
        let geometry = opened.device.geometry();
        let mut exported = Exported {
            what: what.clone(),
            at: String::new(),
            size_bytes: geometry.size_bytes,
            read_only: geometry.read_only,
            seq: opened.moment.as_ref().map(|moment| moment.seq),
            moment: opened.moment.clone(),
            lost: opened.lost,
        };
        let exports = Arc::new(OneExport { name: what.clone(), device: opened.device.clone() });
        let server = nbd::Server::new(nbd::Limits::default());
        let scope = nbd::Scope::new(exports);
        let ended = match to {
            ExportTo::File(path) => {
                let path = config::absolute(path);
                let failed = |source| Error::Fuse { path: path.clone(), source };
                let file = bygone_block::serve_file(opened.device, &path).map_err(failed)?;
                exported.at = path.display().to_string();
                answers.item(exported.clone());
                let ended = self.until_unwanted(answers);
                file.stop().map_err(failed)?;
                ended
            }
            ExportTo::NbdUnix(path) => {
                let path = config::absolute(path);
                let serving = server.serve_unix(&path, scope)?;
                exported.at = format!("nbd+unix:///?socket={}", path.display());
                answers.item(exported.clone());
                let ended = self.until_unwanted(answers);
                serving.stop(NBD_STOP_MAX);
                ended
            }
            ExportTo::NbdTcp(at) => {
                let address = std::net::ToSocketAddrs::to_socket_addrs(at.as_str())
                    .ok()
                    .and_then(|mut addresses| addresses.next())
                    .ok_or_else(|| Usage::BadAddress(at.clone()))?;
                let serving = server.serve_tcp(address, scope)?;
                exported.at = format!("nbd://{}", serving.address());
                answers.item(exported.clone());
                let ended = self.until_unwanted(answers);
                serving.stop(NBD_STOP_MAX);
                ended
            }
        };
        ended.map(|()| exported)
    }
}

impl Manager {
    /// Waits until the export is not wanted any more.
    ///
    /// # Errors
    /// [`Error::ManagerGone`] when the manager ends before.
    fn until_unwanted(&self, answers: &mut dyn Answers) -> Result<()> {
        while !self.is_stopping() {
            if !answers.wanted() {
                return Ok(());
            }
            std::thread::sleep(WANTED_EVERY / 4);
        }
        Err(Error::ManagerGone)
    }
}
