//! Which system calls the probe tries, with arguments for which the kernel's own answer differs from the filter's EPERM
//! wherever that is possible: a null pointer gives EFAULT, a bad fd EBADF, a bad flag EINVAL.

use crate::sys::{Verdict, attempt};
use serde_json::{Map, Value, json};

const NEW_USER: usize = libc::CLONE_NEWUSER as usize;
const BAD_FD: usize = usize::MAX;
const NONE: [usize; 6] = [0; 6];

/// Name in the report, number, arguments.
const CALLS: &[(&str, i64, [usize; 6])] = &[
    ("getpid", libc::SYS_getpid, NONE),
    ("read", libc::SYS_read, [BAD_FD, 0, 0, 0, 0, 0]),
    ("fchmodat", libc::SYS_fchmodat, [BAD_FD, 0, 0, 0, 0, 0]),
    ("chroot", libc::SYS_chroot, NONE),
    ("mount", libc::SYS_mount, NONE),
    ("umount2", libc::SYS_umount2, NONE),
    ("pivot_root", libc::SYS_pivot_root, NONE),
    ("move_mount", libc::SYS_move_mount, [BAD_FD, 0, BAD_FD, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [BAD_FD, 0, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, NONE),
    ("fsmount", libc::SYS_fsmount, [BAD_FD, 0, 0, 0, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [BAD_FD, 0, 0, 0, 0, 0]),
    ("unshare-nothing", libc::SYS_unshare, NONE),
    ("unshare-user", libc::SYS_unshare, [NEW_USER, 0, 0, 0, 0, 0]),
    ("clone-user", libc::SYS_clone, [NEW_USER | libc::SIGCHLD as usize, 0, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, NONE),
    ("setns", libc::SYS_setns, [BAD_FD, 0, 0, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [usize::MAX, 0, 0, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0, 1]),
    ("kcmp", libc::SYS_kcmp, [0, 0, 99, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [9999, 0, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, NONE),
    ("request_key", libc::SYS_request_key, NONE),
    ("bpf", libc::SYS_bpf, [9999, 0, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, NONE),
    ("userfaultfd", libc::SYS_userfaultfd, [0x7000_0000, 0, 0, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, NONE),
    ("personality-query", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
    ("personality-no-randomize", libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [BAD_FD, 0, 0, 0, 0, 0]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [BAD_FD, 0, 0, 0, 0x7000_0000, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0x7000_0000, 0, 0]),
    ("kexec_file_load", libc::SYS_kexec_file_load, [BAD_FD, BAD_FD, 0, 0, 0x7000_0000, 0]),
    ("init_module", libc::SYS_init_module, NONE),
    ("finit_module", libc::SYS_finit_module, [BAD_FD, 0, 0x7000_0000, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, NONE),
    ("reboot", libc::SYS_reboot, NONE),
    ("swapon", libc::SYS_swapon, NONE),
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, NONE),
    ("syslog", libc::SYS_syslog, [9999, 0, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [usize::MAX, 0, 0, 0, 0, 0]),
    ("vhangup", libc::SYS_vhangup, NONE),
    ("socket-vsock", libc::SYS_socket, [libc::AF_VSOCK as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0]),
    ("socket-unix", libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0]),
    ("ioctl-tiocsti", libc::SYS_ioctl, [BAD_FD, 0x5412, 0, 0, 0, 0]),
    // The kernel looks at the low 32 bits only; a filter must do the same (CVE-2019-10063, bypass with high bits set).
    ("ioctl-tiocsti-high-bits", libc::SYS_ioctl, [BAD_FD, 0x1_0000_5412, 0, 0, 0, 0]),
    ("ioctl-tioclinux", libc::SYS_ioctl, [BAD_FD, 0x541c, 0, 0, 0, 0]),
    ("ioctl-other", libc::SYS_ioctl, [BAD_FD, 0x5413, 0, 0, 0, 0]),
    ("unknown", 9999, NONE),
];

/// The verdict on each call.
pub(crate) fn verdicts() -> anyhow::Result<Value> {
    let mut verdicts = Map::new();
    for (name, number, arguments) in CALLS {
        verdicts.insert((*name).to_owned(), word(&attempt(*number, *arguments)?));
    }
    Ok(Value::Object(verdicts))
}

/// `"ok"`, the kernel's name of the errno, or `"killed by 31"`.
pub(crate) fn word(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Value(_) => json!("ok"),
        Verdict::Errno(errno) => json!(errno_name(*errno)),
        Verdict::Killed(signal) => json!(format!("killed by {signal}")),
    }
}

/// `EPERM` of 1.
pub(crate) fn errno_name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}
