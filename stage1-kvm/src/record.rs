//! What the supervisor writes into the pod directory: `pid`, `status/NAME`. The current directory is the pod directory.

use anyhow::{Context, Result};
use contract::dir;
use contract::name::AppName;
use contract::status::AppStatus;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes `pid`: number and start time of this process, so that a reused number is not taken for us.
pub(crate) fn supervisor() -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat").context("read `/proc/self/stat`")?;
    // The name of the program, in parentheses, may hold anything; field 22 is the 20th after it.
    let after_name = stat.rsplit_once(')').context("parse `/proc/self/stat`")?.1;
    let start = after_name.split_ascii_whitespace().nth(19).context("parse `/proc/self/stat`")?;
    replace(Path::new(dir::PID), format!("{} {start}\n", std::process::id()).as_bytes())
}

/// Writes `status/NAME`.
pub(crate) fn status(app: &AppName, status: &AppStatus) -> Result<()> {
    replace(&Path::new(dir::STATUS).join(app), &serde_json::to_vec(status)?)
}

/// Makes the directory of the status files.
pub(crate) fn make_status_directory() -> Result<()> {
    match fs::create_dir(dir::STATUS) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make directory `{}`", dir::STATUS))
        }
        _ => Ok(()),
    }
}

/// Readers see the old content or the new one.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let context = || format!("write `{}`", path.display());
    fs::write(&new, content).with_context(context)?;
    fs::rename(&new, path).with_context(context)
}

/// Now, as status files count it.
pub(crate) fn unix_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
