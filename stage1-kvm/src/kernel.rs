//! Which guest kernel boots.

use crate::plan::Kernel;
use crate::run::Hint;
use anyhow::Result;
use contract::pod::Pod;

/// The kernel that the pod names, or the first that is there.
pub(crate) fn find(pod: &Pod) -> Result<Kernel> {
    let named = pod.machine.as_ref().and_then(|machine| machine.kernel.clone());
    match named {
        Some(path) => Ok(Kernel { path, modules: Vec::new() }),
        None => Err(Hint::error("no guest kernel", "name one with `--kernel`")),
    }
}
