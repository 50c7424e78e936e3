//! `probe report`: everything the app can see of its confinement, as one JSON object.

use crate::kernel::{capabilities, mounts, rlimits, status};
use crate::syscalls::{errno_name, verdicts};
use crate::{sys, syscalls};
use anyhow::Result;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Map, Value, json};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The whole report.
pub(crate) fn report() -> Result<Value> {
    // First of all, before this process opens anything.
    let descriptors = descriptors()?;
    let status = status();
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    let numbers = |name: &str| -> Vec<u32> { field(name).split_whitespace().filter_map(|n| n.parse().ok()).collect() };
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let names = ["inheritable", "permitted", "effective", "bounding", "ambient"];
    let sets = sets.iter().zip(names).map(|(set, name)| (name.to_owned(), json!(capabilities(&field(set)))));
    Ok(json!({
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": std::env::vars().collect::<Vec<_>>(),
        "pid": std::process::id(),
        "parent": nix::unistd::getppid().as_raw(),
        "session": nix::unistd::getsid(None).map_or(-1, nix::unistd::Pid::as_raw),
        "uid": numbers("Uid"),
        "gid": numbers("Gid"),
        "groups": numbers("Groups"),
        "umask": field("Umask"),
        "signals_blocked": field("SigBlk"),
        "signals_ignored": field("SigIgn"),
        "capabilities": sets.collect::<Map<_, _>>(),
        "no_new_privileges": sys::no_new_privileges(),
        "seccomp_mode": field("Seccomp"),
        "seccomp_filters": field("Seccomp_filters"),
        "syscalls": verdicts()?,
        "namespaces": namespaces()?,
        "uid_map": words_of("/proc/self/uid_map"),
        "gid_map": words_of("/proc/self/gid_map"),
        "mounts": mounts(),
        "rlimits": rlimits(),
        "descriptors": descriptors,
        "working_directory": std::env::current_dir().map_or_else(|e| e.to_string(), |path| path.display().to_string()),
        "hostname": text_of("/proc/sys/kernel/hostname"),
        "kernel": text_of("/proc/sys/kernel/osrelease"),
        "oom_score_adj": text_of("/proc/self/oom_score_adj"),
        "cgroup": text_of("/proc/self/cgroup").lines().map(str::to_owned).collect::<Vec<_>>(),
        "interfaces": interfaces(),
        "sysctls": sysctls(),
        "processes": processes()?,
        "devices": devices()?,
        "mknod": mknods(),
        "root": entries("/"),
        "init_executable": init_executable(),
        "resolv_conf": text_of("/etc/resolv.conf"),
        "hosts": text_of("/etc/hosts"),
        "hostname_file": text_of("/etc/hostname"),
    }))
}

fn text_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("error: {error}"), |text| text.trim_end().to_owned())
}

fn words_of(path: &str) -> Vec<String> {
    text_of(path).split_whitespace().map(str::to_owned).collect()
}

fn entries(path: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Open fds by number, without the one that reads the list.
fn descriptors() -> Result<Value> {
    let mut found = Map::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).map(|path| path.display().to_string()).unwrap_or_default();
        if !(target.starts_with("/proc/") && target.ends_with("/fd")) {
            found.insert(entry.file_name().to_string_lossy().into_owned(), json!(target));
        }
    }
    Ok(Value::Object(found))
}

fn namespaces() -> Result<Value> {
    let mut found = Map::new();
    for name in entries("/proc/self/ns") {
        let link = fs::read_link(Path::new("/proc/self/ns").join(&name))?;
        found.insert(name, json!(link.display().to_string()));
    }
    Ok(Value::Object(found))
}

fn interfaces() -> Value {
    let names = text_of("/proc/net/dev");
    let names = names.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    let addresses = nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let up = |name: &str| {
        let up = nix::net::if_::InterfaceFlags::IFF_UP;
        addresses.iter().any(|address| address.interface_name == name && address.flags.contains(up))
    };
    let of = |name: &str| -> Vec<String> {
        let own = addresses.iter().filter(|address| address.interface_name == name);
        own.filter_map(|address| address.address.as_ref().map(ToString::to_string)).collect()
    };
    names.map(|name| json!({ "up": up(&name), "addresses": of(&name), "name": name })).collect()
}

fn sysctls() -> Value {
    let names = ["net.ipv4.ip_forward", "net.ipv4.ip_unprivileged_port_start", "kernel.shmmax", "kernel.msgmax"];
    let pairs = names.iter().map(|name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        ((*name).to_owned(), json!(text_of(&path)))
    });
    Value::Object(pairs.collect())
}

/// Pids and command names that this process sees.
fn processes() -> Result<Value> {
    let mut found = Map::new();
    for name in entries("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        found.insert(name.clone(), json!(text_of(&format!("/proc/{name}/comm"))));
    }
    Ok(Value::Object(found))
}

/// What lies in `/dev`, with kind and number.
fn devices() -> Result<Value> {
    let mut found = Map::new();
    for name in entries("/dev") {
        let Ok(metadata) = fs::symlink_metadata(Path::new("/dev").join(&name)) else { continue };
        let kind = metadata.file_type();
        let number = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        let text = match () {
            () if kind.is_char_device() => format!("c {}:{}", number.0, number.1),
            () if kind.is_block_device() => format!("b {}:{}", number.0, number.1),
            () if kind.is_symlink() => {
                format!("-> {}", fs::read_link(Path::new("/dev").join(&name)).unwrap_or_default().display())
            }
            () if kind.is_dir() => "directory".to_owned(),
            () => "file".to_owned(),
        };
        found.insert(name, json!({ "kind": text, "mode": format!("{:04o}", metadata.mode() & 0o7777) }));
    }
    Ok(Value::Object(found))
}

/// Tries to make and to open device nodes, in each place where one could be made: what the device list and the flags of the mounts
/// allow.
fn mknods() -> Value {
    let nodes = [
        ("c 1:1 mem", SFlag::S_IFCHR, 1, 1),
        ("c 1:3 null", SFlag::S_IFCHR, 1, 3),
        ("c 1:4 port", SFlag::S_IFCHR, 1, 4),
        ("c 1:11 kmsg", SFlag::S_IFCHR, 1, 11),
        ("c 10:183 hwrng", SFlag::S_IFCHR, 10, 183),
        ("c 10:232 kvm", SFlag::S_IFCHR, 10, 232),
        ("b 254:0 disk", SFlag::S_IFBLK, 254, 0),
        ("b 7:0 loop", SFlag::S_IFBLK, 7, 0),
    ];
    let mut found = Map::new();
    for (name, kind, major, minor) in nodes {
        let mut places = Map::new();
        for place in ["/dev", "/", "/dev/shm", "/tmp"] {
            let path = Path::new(place).join("probe-node");
            let made = mknod(&path, kind, Mode::from_bits_truncate(0o600), makedev(major, minor));
            let opened = if made.is_ok() { open_word(&path, true, false) } else { "absent".to_owned() };
            let _ = fs::remove_file(path); // Absent when mknod was refused.
            let made = made.map_or_else(|errno| errno_name(errno as i32), |()| "ok".to_owned());
            places.insert(place.to_owned(), json!({ "made": made, "open": opened }));
        }
        found.insert(name.to_owned(), Value::Object(places));
    }
    Value::Object(found)
}

/// Opens without waiting, and says `ok` or the errno.
pub(crate) fn open_word(path: &Path, read: bool, write: bool) -> String {
    let opened = OpenOptions::new().read(read).write(write).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_or_else(|error| error.raw_os_error().map_or_else(|| error.to_string(), errno_name), |_| "ok".to_owned())
}

/// What paths look like from here: what can be read of them, and whether they can be written.
pub(crate) fn looks(paths: &[&str]) -> Value {
    paths.iter().map(|path| ((*path).to_owned(), look(Path::new(path)))).collect::<Map<_, _>>().into()
}

fn look(path: &Path) -> Value {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => json!("absent"),
        Err(error) => json!(error.to_string()),
        Ok(metadata) if metadata.is_dir() => {
            let inside = fs::read_dir(path).map(Iterator::count).ok();
            let probe = path.join("probe-write");
            let write = match fs::create_dir(&probe) {
                Ok(()) => {
                    let _ = fs::remove_dir(&probe); // Only the attempt matters.
                    "ok".to_owned()
                }
                Err(error) => error.raw_os_error().map(errno_name).unwrap_or_default(),
            };
            json!({ "kind": "directory", "entries": inside, "write": write })
        }
        Ok(_) => {
            let mut byte = [0];
            let options = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            let read = match options().and_then(|mut file| file.read(&mut byte)) {
                Ok(0) => "empty".to_owned(),
                Ok(_) => "bytes".to_owned(),
                Err(error) => error.raw_os_error().map(errno_name).unwrap_or_default(),
            };
            json!({ "kind": "file", "read": read, "write": open_word(path, false, true) })
        }
    }
}

/// CVE-2019-5736: the program of PID 1 must not be writable through `/proc/1/exe`. A running program is never written
/// (ETXTBSY); but for O_TRUNC the kernel looks at the mount before that, so a read-only mount gives EROFS.
fn init_executable() -> Value {
    let path = Path::new("/proc/1/exe");
    let opened = OpenOptions::new().write(true).truncate(true).open(path);
    let word = opened
        .map_or_else(|error| error.raw_os_error().map_or_else(|| error.to_string(), errno_name), |_| "ok".to_owned());
    json!({
        "link": fs::read_link(path).map_or_else(|error| error.to_string(), |path| path.display().to_string()),
        "write": word,
    })
}

/// The verdict on one system call by number, for filters given by the test.
pub(crate) fn one_syscall(number: i64) -> Result<Value> {
    Ok(syscalls::word(&sys::attempt(number, [usize::MAX, 0, 0, 0, 0, 0])?))
}
