//! What another process may do, seen from outside as root: its credentials thread by thread, its root, and what becomes of it
//! when it makes a system call that it may not.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// One thread of a process.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// The name it gave itself.
    pub name: String,
    fields: BTreeMap<String, String>,
}

impl Thread {
    /// A field of `/proc/PID/task/TID/status`.
    #[track_caller]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no field {name} in {self:?}"))
    }

    /// The user ids (real, effective, saved, of files) are all this one.
    pub fn is_user(&self, user: u32) -> bool {
        self.field("Uid").split_whitespace().all(|word| word == user.to_string())
    }

    /// Of none of the five sets is a capability left.
    pub fn has_no_capabilities(&self) -> bool {
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().all(|set| self.field(set) == "0000000000000000")
    }

    /// It can gain nothing by execve(2), and a filter stands before its system calls.
    pub fn is_filtered(&self) -> bool {
        self.field("Seccomp") == "2" && self.field("NoNewPrivs") == "1"
    }
}

/// Whether a process leaves no core file, not even to a program that takes them (core_pattern with `|`), for which 0 is no limit.
pub fn leaves_no_core(process: u32) -> bool {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    line.is_some_and(|line| line.split_whitespace().take(2).eq(["1", "1"]))
}

/// All threads of a process.
pub fn threads(process: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
    tasks.flatten().map(|task| thread(&task.file_name().to_string_lossy())).collect()
}

fn thread(id: &str) -> Thread {
    let text = fs::read_to_string(format!("/proc/{id}/status")).expect("the thread lives");
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    let fields: BTreeMap<String, String> =
        fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    Thread { id: id.parse().expect("a number"), name: fields["Name"].clone(), fields }
}

/// The direct children of a process whose first arguments are these, `*` for any.
pub fn children(process: u32, words: &[&str]) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let pids = text.split_whitespace().filter_map(|word| word.parse().ok());
    pids.filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let given: Vec<&str> = line.split('\0').collect();
        given.len() >= words.len() && words.iter().zip(given).all(|(word, given)| *word == "*" || given == *word)
    })
    .collect()
}

/// Runs `body`, and what it executes, where all cgroups are read-only. In a thread of its own, because the mount namespace is the
/// thread's.
pub fn with_read_only_cgroups(body: impl FnOnce() + Send) {
    let thread = || {
        let flags = nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS;
        nix::sched::unshare(flags).expect("root may make a mount namespace");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("make the mounts private");
        for (place, _) in mounts_of_thread().into_iter().filter(|(place, _)| place.starts_with("/sys/fs/cgroup")) {
            let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
            rustix::mount::mount_remount(&place, flags, "").unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        body();
    };
    let result = std::thread::scope(|scope| scope.spawn(thread).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn mounts_of_thread() -> Vec<(String, String)> {
    let id = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    mounts(id)
}

/// The names in the root directory of a process.
pub fn root(process: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/root/")).expect("the process lives");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The mounts that a process sees: place and options of each.
pub fn mounts(process: u32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("the process lives");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(words).map(|words| (words[4].clone(), words[5].clone())).collect()
}

/// Makes a living thread call the system as if its own code did, with zeros as arguments, and returns the signal that killed the
/// thread for it; none if the call returned, whatever it returned. Then the thread goes on as it was.
pub fn call(thread: u32, number: u64) -> Option<Signal> {
    let id = Pid::from_raw(thread.cast_signed());
    let context = |what: &str| format!("{what} thread {thread}");
    ptrace::attach(id).unwrap_or_else(|error| panic!("{}: {error}", context("trace")));
    let wait =
        || waitpid(id, Some(WaitPidFlag::__WALL)).unwrap_or_else(|error| panic!("{}: {error}", context("wait for")));
    assert!(matches!(wait(), WaitStatus::Stopped(..)), "{}", context("stop"));
    let before = ptrace::getregs(id).expect("registers of a stopped thread");
    let mut registers = before;
    (registers.rip, registers.rax) = (call_instruction(thread), number);
    (registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9) = (0, 0, 0, 0, 0, 0);
    // No call that the stop has interrupted is begun again in place of this one.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(id, registers).expect("registers of a stopped thread");
    ptrace::step(id, None).expect("let a stopped thread go on");
    let ended = wait();
    match ended {
        WaitStatus::Signaled(_, signal, _) => Some(signal),
        WaitStatus::Stopped(..) => {
            ptrace::setregs(id, before).expect("registers of a stopped thread");
            ptrace::detach(id, None).expect("let a stopped thread go");
            None
        }
        other => panic!("{other:?} after a system call of thread {thread}"),
    }
}

/// Where in the process's own code the instruction `syscall` stands.
fn call_instruction(thread: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{thread}/maps")).expect("the thread lives");
    let memory = File::open(format!("/proc/{thread}/mem")).expect("the thread lives");
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && !line.contains("[v")) {
        let (start, end) =
            line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range of addresses");
        let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(start), address(end));
        let mut code = vec![0; usize::try_from(end - start).expect("code fits into memory")];
        memory.read_exact_at(&mut code, start).expect("code can be read");
        if let Some(at) = code.windows(2).position(|bytes| bytes == [0x0f, 0x05]) {
            return start + at as u64;
        }
    }
    panic!("thread {thread} has no instruction that calls the system")
}

/// All processes that run a program of this name, which the kernel cuts after 15 bytes.
pub fn named(program: &str) -> Vec<u32> {
    let program = &program[..program.len().min(15)];
    let entries = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let is_named =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == program);
    pids.filter(is_named).collect()
}
