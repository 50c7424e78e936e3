//! The pod's user namespace: made by a child that only lives until its id maps are written and the namespace is open.

use anyhow::{Context, Result};
use contract::pod::IdRange;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;

/// A user namespace in which `0..count` are `first..first + count` of this one. The caller is root of its parent.
pub(crate) fn namespace(range: IdRange) -> Result<OwnedFd> {
    let (ready_read, ready_write) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    let (done_read, done_write) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    let mut ends = Some((ready_read, done_write));
    let child = crate::sys::fork(|| {
        // In the child: leave the parent's ends, so that its death is seen as the end of the pipe.
        drop(ends.take());
        if unshare(CloneFlags::CLONE_NEWUSER).is_err() || rustix::io::write(&ready_write, b"r").is_err() {
            return 1;
        }
        // Until the parent has opened the namespace, which lives as long as a process or an fd.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&done_read, &mut [0_u8; 1]));
        0
    })
    .context("fork")?;
    let pid = Pid::from_raw(child);
    let opened = ends.take().map_or_else(
        || Err(anyhow::anyhow!("the pipe is gone")),
        |(ready, done)| {
            drop(ready_write);
            let opened = open(&ready, pid, range);
            drop(done);
            opened
        },
    );
    let _ = waitpid(pid, None); // It ends by itself; there is nothing to learn from how.
    opened
}

fn open(ready: &OwnedFd, pid: Pid, range: IdRange) -> Result<OwnedFd> {
    let read = rustix::io::retry_on_intr(|| rustix::io::read(ready, &mut [0_u8; 1])).context("wait for the child")?;
    if read == 0 {
        let error = std::io::Error::from(Errno::PERM);
        return Err(crate::failure::advise(
            anyhow::Error::new(error).context("make a user namespace"),
            "`sysctl user.max_user_namespaces` must not be 0",
        ));
    }
    let map = format!("0 {} {}", range.first, range.count);
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, &map).with_context(|| format!("write `{map}` to `{path}`"))?;
    }
    let path = format!("/proc/{pid}/ns/user");
    std::fs::File::open(&path).map(OwnedFd::from).with_context(|| format!("open `{path}`"))
}
