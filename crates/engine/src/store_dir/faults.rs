//! Steps that fail, or during which something else happens, for tests.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::target::lock;

/// A step in the folder of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    SyncDir,
    Rename,
    Open,
    DeleteDir,
    /// The last step of writing a file, which has its name by then.
    LastSync,
}

type Act = Box<dyn FnOnce() -> io::Result<()> + Send>;

static PLANNED: Mutex<Vec<(Step, PathBuf, Act)>> = Mutex::new(Vec::new());

/// Does `act` before the next such step at a path that begins with `path`; the step fails if `act` does.
pub(crate) fn plan(step: Step, path: &Path, act: impl FnOnce() -> io::Result<()> + Send + 'static) {
    lock(&PLANNED).push((step, path.to_owned(), Box::new(act)));
}

/// Does what was planned for this step.
pub(crate) fn meet(step: Step, path: &Path) -> io::Result<()> {
    let act = {
        let mut planned = lock(&PLANNED);
        let at = planned.iter().position(|(planned, begin, _)| *planned == step && path.starts_with(begin));
        at.map(|at| planned.remove(at).2)
    };
    act.map_or(Ok(()), |act| act())
}
