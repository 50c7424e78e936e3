//! Both archives are the same app and tree, and what runs in it behaves as in podman.

use crate::archives::archives;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use tests::{Outcome, Test, podman, stage_test};

const NAME: &str = "example.com/debian:12";

/// The Debian image in the store of this test, signed and trusted.
pub(crate) fn debian(t: &Test) -> &'static str {
    let image = t.path("debian.pod").display().to_string();
    let source = format!("docker-archive:{}", archives().docker.display());
    t.tools(["convert", &source, &image, "--name", NAME]).assert_exit(0);
    let key = t.key("debian");
    t.sign(Path::new(&image), &key);
    t.trust("example.com/debian", &key);
    t.cli(["fetch", &image]).assert_exit(0);
    fs::remove_file(image).unwrap();
    NAME
}

/// Kind, mode, owner, time, content and extended attributes of everything below a directory.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if metadata.is_file() => tests::image::digest(&fs::read(&path).unwrap()),
            () if metadata.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            () => String::new(),
        };
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names).unwrap_or(0);
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        let links = if metadata.is_file() { metadata.nlink() } else { 0 };
        let key = path.strip_prefix(root).unwrap().display().to_string();
        let owner = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime(), links, metadata.rdev());
        found.insert(key, format!("{owner:?} {content} {names}"));
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
        }
    }
    found
}

stage_test!(both_archives_are_the_same_app_and_tree, |t| {
    let mut found = Vec::new();
    for (kind, file) in [("docker-archive", &archives().docker), ("oci-archive", &archives().oci)] {
        let image = t.path(&format!("{kind}.pod")).display().to_string();
        let source = format!("{kind}:{}", file.display());
        t.tools(["convert", &source, &image, "--name", NAME]).assert_exit(0);
        let described = t.tools(["inspect", &image, "--format=json"]).assert_exit(0).json();
        let directory = t.path(kind).display().to_string();
        t.tools(["unpack", &image, &directory]).assert_exit(0);
        let root = Path::new(&directory);
        let root = if root.join("rootfs").exists() { root.join("rootfs") } else { root.to_owned() };
        assert!(!root.join("usr/share/man").exists() && !root.join("etc/issue").exists(), "deleted files are back");
        let documents: Vec<_> =
            fs::read_dir(root.join("usr/share/doc")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(documents, ["new"], "a directory made anew shows what lay below it");
        found.push((fs::read(&image).unwrap(), described, tree(&root)));
        // The same input gives the same bytes.
        let again = t.path("again.pod").display().to_string();
        t.tools(["convert", &source, &again, "--name", NAME]).assert_exit(0);
        assert!(fs::read(&again).unwrap() == fs::read(&image).unwrap(), "{kind}: converted twice, other bytes");
        fs::remove_file(again).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
    assert_eq!(found[0].2, found[1].2, "the trees differ");
    let app = |index: usize| found[index].1["config"].to_string();
    assert_eq!(app(0), app(1), "the apps differ");
});

stage_test!(debian_prints_its_version, |t| {
    let image = debian(t);
    let pod = t.pod().app_of(image, "debian", "/etc/debian_version").with("--exec=/bin/cat").run();
    pod.assert_exit(0);
    assert!(pod.stdout.starts_with("12."), "{}", pod.outcome);
});

/// podman with a runtime that works where cgroup v2 is mounted beside v1, if there is one.
fn podman(storage: &Path) -> Command {
    let mut command = podman::podman(storage);
    if Path::new("/usr/sbin/runc").exists() {
        command.arg("--runtime=/usr/sbin/runc");
    }
    command
}

/// podman's default is ours without these.
const CAPABILITIES: &str = "--cap-add=NET_RAW,MKNOD,AUDIT_WRITE";

/// Commands whose answer must be podman's: exit code and output.
const LIKE_PODMAN: &[&str] = &[
    "apt-get check -qq",
    "apt-get install --yes --reinstall -qq /srv/packages/iputils-ping.deb >/dev/null 2>&1; echo $?",
    "dpkg --audit; echo $?",
    "su alice -c 'id; pwd; echo $HOME'",
    "su - alice -c 'id; pwd; umask'",
    "su nobody-here; echo $?",
    "ping -c 1 -W 1 127.0.0.1 | grep -c 'bytes from'",
    "su alice -c \"ping -c 1 -W 1 127.0.0.1 | grep -c 'bytes from'\"",
    "id; umask; pwd; cat /proc/sys/kernel/ngroups_max",
    "touch /new && chown alice /new && stat -c '%U %a' /new",
    "mknod /null c 1 3 && echo made",
    "chroot / /bin/true && echo chrooted",
    "mount -t tmpfs none /mnt 2>/dev/null; echo $?",
    "dmesg 2>/dev/null | wc -l",
    "date -s @0 >/dev/null 2>&1; echo $?",
    "hostname other 2>/dev/null; echo $?",
    "ls -l /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty | cut -d' ' -f1,5,6",
    "ls /dev/fd/ | wc -l; ls -d /dev/shm /dev/pts /dev/mqueue; stat -c %a /dev/shm /tmp",
    "head -c 1 /proc/kcore | wc -c; find /proc/acpi /sys/firmware -mindepth 1 2>/dev/null | wc -l",
    "echo x 2>/dev/null > /proc/sys/kernel/core_pattern; echo $?",
    "ulimit -c; kill -0 1; echo $?",
    "mkfifo /fifo && ln /etc/passwd /hard && ln -s /etc /soft && cat /hard | wc -l",
];

stage_test!(commands_behave_as_in_podman, |t| {
    let image = debian(t);
    // podman takes no longer path than 50 bytes for its run directory.
    let short = tempfile::Builder::new().prefix("pp").tempdir().unwrap();
    let storage = short.path().to_owned();
    let input = archives().docker.display().to_string();
    let loaded = Outcome::of(podman(&storage).args(["load", "--quiet", "--input", &input]));
    assert_eq!(loaded.code, 0, "{loaded}");
    // `Loaded image: NAME`, and NAME is podman's choice.
    let name = loaded.stdout.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let mut different = Vec::new();
    for script in LIKE_PODMAN {
        let theirs = Outcome::of(podman(&storage).args([
            "run",
            "--rm",
            "--pull=never",
            "--network=none",
            CAPABILITIES,
            &name,
            "/bin/sh",
            "-c",
            script,
        ]));
        let stage1 = format!("--stage1={}", t.stage1());
        let ours = t.cli(["run", &stage1, "--net=none", image, "--exec=/bin/sh", "--", "-c", script]);
        if (ours.code, &ours.stdout) != (theirs.code, &theirs.stdout) {
            different.push(format!("ours: {ours}\ntheirs: {theirs}"));
        }
    }
    podman::sweep(&storage);
    assert!(different.is_empty(), "{}", different.join("\n\n"));
});
