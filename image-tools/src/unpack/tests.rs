//! Hostile and ordinary layers, unpacked beside a canary tree that must stay as it is.

use super::*;
use crate::compression::Compression;
use crate::pipeline::{self, Expected};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A tar in the making; names are written as they are, however bad.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn add(mut self, kind: u8, path: &str, link: &str, body: &[u8]) -> Self {
        self.header(kind, path, link, body.len() as u64, |_| ());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn header(&mut self, kind: u8, path: &str, link: &str, size: u64, change: impl FnOnce(&mut tar::Header)) {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        old.linkflag = [kind];
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    fn special(mut self, kind: u8, path: &str, major: u32, minor: u32) -> Self {
        self.header(kind, path, "", 0, |header| {
            header.set_device_major(major).expect("a GNU header has device numbers");
            header.set_device_minor(minor).expect("a GNU header has device numbers");
        });
        self
    }

    fn with_mode(mut self, kind: u8, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        self.header(kind, path, "", 0, |header| {
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(gid);
        });
        self
    }

    fn file(self, path: &str, body: &[u8]) -> Self {
        self.add(b'0', path, "", body)
    }

    fn dir(self, path: &str) -> Self {
        self.add(b'5', path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(b'2', path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(b'1', path, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (1..).find(|digits| (rest + digits).to_string().len() == *digits).expect("some length fits");
            write!(body, "{} {key}=", rest + len).expect("a Vec takes all");
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.add(b'x', "pax", "", &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A directory with a canary beside the root that is unpacked into.
struct Place {
    directory: tempfile::TempDir,
    canary: BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>,
}

fn snapshot(path: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).expect("the canary is there");
        let content = if metadata.is_file() { fs::read(&path).expect("the canary is readable") } else { Vec::new() };
        if metadata.is_dir() {
            todo.extend(
                fs::read_dir(&path).expect("the canary is readable").map(|entry| entry.expect("an entry").path()),
            );
        }
        all.insert(path, (metadata.mode(), metadata.ctime(), metadata.ctime_nsec(), content));
    }
    all
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("root")).expect("a root");
        fs::create_dir_all(directory.path().join("canary/etc")).expect("a canary");
        fs::write(directory.path().join("canary/etc/passwd"), "root").expect("a canary");
        let canary = snapshot(&directory.path().join("canary"));
        Self { directory, canary }
    }

    fn root(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn outside(&self) -> String {
        self.directory.path().join("canary").to_str().expect("a temporary path is text").to_owned()
    }

    fn unpack_with(&self, tar: &[u8], limits: &Limits) -> Result<Summary, UnpackError> {
        let root = fs::File::open(self.root("")).expect("the root is there");
        let result = unpack(root.as_fd(), tar, limits);
        assert_eq!(snapshot(&self.directory.path().join("canary")), self.canary, "the canary changed");
        let beside: Vec<_> = fs::read_dir(self.directory.path()).expect("readable").collect();
        assert_eq!(beside.len(), 2, "something was made beside the root: {beside:?}");
        result
    }

    fn unpack(&self, tar: Tar) -> Result<Summary, UnpackError> {
        self.unpack_with(&tar.end(), &Limits::default())
    }
}

fn refused(tar: Tar) -> String {
    let error = Place::new().unpack(tar).expect_err("the layer is refused");
    error.to_string()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skip: needs root");
    }
    root
}

#[test]
fn ordinary_entries_keep_everything() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::default()
        .with_mode(b'5', "./", 0o711, 0, 0)
        .dir("bin/")
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("SCHILY.xattr.user.a", b"b\0c"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .with_mode(b'0', "bin/su", 0o4755, 7, 8)
        .hard_link("bin/su2", "./bin/su")
        .symlink("bin/sh", "su")
        .with_mode(b'6', "fifo", 0o600, 1, 2)
        .file("a/b/c", b"implicit parents");
    let summary = place.unpack(tar).expect("a good layer");
    assert_eq!((summary.entries, summary.bytes), (7, 16));
    let su = fs::metadata(place.root("bin/su")).expect("made");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 7, 8, 2));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(fs::metadata(place.root("bin")).expect("made").mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(place.root("a/b")).expect("made").mtime(), 0);
    assert_eq!(fs::read_link(place.root("bin/sh")).expect("made"), Path::new("su"));
    assert!(fs::symlink_metadata(place.root("fifo")).expect("made").file_type().is_fifo());
    assert_eq!(fs::metadata(place.root("")).expect("there").permissions().mode() & 0o7777, 0o711);
    let mut value = [0; 16];
    let file = fs::File::open(place.root("bin/su")).expect("made");
    assert_eq!(rustix::fs::fgetxattr(&file, c"user.a", &mut value[..]), Ok(3));
    assert!(rustix::fs::fgetxattr(&file, c"trusted.overlay.opaque", &mut value[..]).is_err());
}

#[test]
fn traversal_is_refused() {
    for path in ["../canary/x", "a/../../canary/x", "..", "a/..", "./../x"] {
        assert!(refused(Tar::default().file(path, b"x")).contains("`..`"), "{path}");
    }
    assert!(refused(Tar::default().hard_link("x", "../canary/etc/passwd")).contains("`..`"));
}

#[test]
fn absolute_names_are_inside() {
    let place = Place::new();
    place.unpack(Tar::default().file("/etc/passwd", b"inner")).expect("a good layer");
    assert_eq!(fs::read(place.root("etc/passwd")).expect("made"), b"inner");
}

#[test]
fn cve_2021_29136_the_root_is_no_symlink() {
    for path in [".", "./", "/", "/."] {
        assert!(
            refused(Tar::default().symlink(path, "/").file("etc/passwd", b"x")).contains("root directory"),
            "{path}"
        );
    }
}

#[test]
fn symlinks_lead_nowhere_but_inside() {
    let place = Place::new();
    let tar = Tar::default()
        .symlink("a", "/")
        .file("a/etc/passwd", b"inner")
        .dir("up")
        .symlink("up/b", "../../..")
        .file("up/b/x", b"y");
    place.unpack(tar).expect("harmless");
    assert_eq!(fs::read(place.root("etc/passwd")).expect("inside"), b"inner");
    assert_eq!(fs::read(place.root("x")).expect("inside"), b"y");
    let outside = Place::new().outside();
    for target in [outside.as_str(), "../canary", "/proc/self/root", "/proc/self/cwd", "loop"] {
        let tar = Tar::default().symlink("loop", "loop").symlink("a", target).file("a/etc/passwd", b"x");
        assert!(Place::new().unpack(tar).is_err(), "{target}");
    }
}

#[test]
fn cve_2026_41579_dev_proc_sys_etc_as_symlinks() {
    for name in ["dev", "proc", "sys", "etc", "run"] {
        let place = Place::new();
        let tar = Tar::default().symlink(name, "../../../../canary").symlink("x", &place.outside());
        place.unpack(tar).expect("a link alone is harmless");
        let tar = Tar::default().symlink(name, &place.outside()).file(&format!("{name}/etc/passwd"), b"x");
        assert!(Place::new().unpack(tar).is_err());
    }
}

#[test]
fn hard_links_stay_in_the_layer() {
    let place = Place::new();
    let outside = format!("{}/etc/passwd", place.outside());
    for link in [outside.as_str(), "/etc/passwd", "missing", "", "d"] {
        let tar = Tar::default().dir("d").hard_link("x", link);
        assert!(place.unpack(tar).is_err(), "{link}");
    }
    let tar = Tar::default().symlink("out", "../canary").hard_link("x", "out/etc/passwd");
    assert!(place.unpack(tar).is_err());
    // A link to a symbolic link is another name of the link, not of its target.
    let place = Place::new();
    place.unpack(Tar::default().symlink("s", &outside).hard_link("x", "s")).expect("harmless");
    assert!(fs::symlink_metadata(place.root("x")).expect("made").is_symlink());
    // Writing over a hard link must not write into the file it names.
    let place = Place::new();
    place.unpack(Tar::default().file("a", b"old").hard_link("b", "a").file("b", b"new")).expect("harmless");
    assert_eq!(fs::read(place.root("a")).expect("made"), b"old");
}

#[test]
fn whiteouts_become_overlayfs_marks() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::default()
        .dir("d")
        .file("d/.wh.gone", b"")
        .dir("o")
        .file("o/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        .file(".wh.again", b"")
        .dir("again")
        .dir("before")
        .file(".wh.before", b"")
        .file("kept", b"x")
        .file(".wh.kept", b"");
    place.unpack(tar).expect("a good layer");
    let gone = fs::symlink_metadata(place.root("d/gone")).expect("made");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["o", "again", "before"] {
        let mut value = [0; 4];
        let directory = fs::File::open(place.root(opaque)).expect("made");
        assert_eq!(rustix::fs::fgetxattr(&directory, c"trusted.overlay.opaque", &mut value[..]), Ok(1), "{opaque}");
    }
    assert_eq!(fs::read(place.root("kept")).expect("made"), b"x");
    let root = Place::new();
    assert!(root.unpack(Tar::default().file(".wh..wh..opq", b"")).expect("a good layer").opaque_root);
}

#[test]
fn bad_whiteouts() {
    for name in [".wh.", "a/.wh.", ".wh..", ".wh..."] {
        assert!(refused(Tar::default().file(name, b"")).contains("cannot be"), "{name}");
    }
    assert!(refused(Tar::default().dir(".wh.x")).contains("name of a deletion"));
    assert!(Place::new().unpack(Tar::default().symlink("a", "../canary").file("a/.wh.etc", b"")).is_err());
    assert!(Place::new().unpack(Tar::default().symlink("a", "../canary").file("a/.wh..wh..opq", b"")).is_err());
    if is_root() {
        assert!(refused(Tar::default().special(b'3', "x", 0, 0)).contains("0:0"));
        assert!(refused(Tar::default().file(".wh.x", b"").hard_link("y", "x")).contains("not in the layer"));
    }
}

#[test]
fn device_nodes_are_the_standard_ones_or_none() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::default().special(b'3', "null", 1, 3).special(b'4', "sda", 8, 0).special(b'3', "mem", 1, 1);
    assert_eq!(place.unpack(tar).expect("a good layer").devices_left_out, 2);
    assert!(fs::symlink_metadata(place.root("null")).expect("made").file_type().is_char_device());
    assert!(!place.root("sda").exists() && !place.root("mem").exists());
}

#[test]
fn directories_with_content_are_not_replaced() {
    let tar = Tar::default().dir("d").file("d/x", b"").symlink("d", "../canary");
    assert!(refused(tar).contains("not empty"));
    let tar = Tar::default().file("d", b"").file("d/x", b"");
    assert!(refused(tar).contains("no directory"));
}

#[test]
fn limits_hold() {
    let small = Limits { bytes: 1000, entries: 3, depth: 4, ..Limits::default() };
    let many = Tar::default().dir("a").dir("b").dir("c").dir("d").end();
    let deep = Tar::default().dir("a/b/c/d/e").end();
    let long = Tar::default().file("x", &[1; 600]).file("y", &[1; 600]).end();
    for (tar, word) in [(many, "3 entries"), (deep, "4 directories deep"), (long, "1000 bytes")] {
        let error = Place::new().unpack_with(&tar, &small).expect_err("over the limit").to_string();
        assert!(error.contains(word), "{error}");
    }
    let name = "n".repeat(256);
    assert!(refused(Tar::default().pax(&[("path", name.as_bytes())]).file("x", b"")).contains("255"));
    let path = "n/".repeat(2100) + "n";
    assert!(refused(Tar::default().pax(&[("path", path.as_bytes())]).file("x", b"")).contains("4095"));
    // Extension headers that say they are huge are refused before they are read.
    for kind in *b"xgLK" {
        let mut tar = Tar::default();
        tar.header(kind, "x", "", 8 << 30, |_| ());
        assert!(Place::new().unpack(tar).expect_err("too long").to_string().contains("allowed"));
    }
    // A sparse file may not pretend to be endless either.
    let tar = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.size", b"9000000000000000000"),
            ("GNU.sparse.map", b"0,0"),
        ])
        .file("x", b"");
    assert!(refused(tar).contains("bytes of files"));
}

#[test]
fn sparse_files_are_whole() {
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.size", b"10"),
            ("GNU.sparse.map", b"2,3,8,1"),
        ])
        .file("old", b"abcd");
    let map = b"2\n2\n3\n8\n1\n";
    let mut body = map.to_vec();
    body.resize(512, 0);
    body.extend_from_slice(b"abcd");
    let tar = tar
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"10"),
            ("GNU.sparse.name", b"new"),
        ])
        .file("GNUSparseFile.0/new", &body);
    place.unpack(tar).expect("a good layer");
    for name in ["old", "new"] {
        assert_eq!(fs::read(place.root(name)).expect("made"), b"\0\0abc\0\0\0d\0", "{name}");
    }
    for map in ["0,3,2,1", "8,1,0,3", "0,4,9,9", "0,3", "x"] {
        let tar = Tar::default()
            .pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.size", b"10"),
                ("GNU.sparse.map", map.as_bytes()),
            ])
            .file("bad", b"abcd");
        assert!(Place::new().unpack(tar).is_err(), "{map}");
    }
}

#[test]
fn bombs_are_cut_short() {
    let plain = Tar::default().file("x", &vec![0; 1 << 20]).end();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&plain).expect("a Vec takes all");
    let blob = encoder.finish().expect("a Vec takes all");
    let place = Place::new();
    let root = fs::File::open(place.root("")).expect("the root is there");
    let expected = Expected { digest: None, size: None, diff_id: None, compression: Compression::Gzip };
    let run = |limits: &Limits, expected| {
        pipeline::run(expected, limits, &blob[..], &mut |_| Ok(()), |consumer| unpack(root.as_fd(), consumer, limits))
    };
    let small = Limits { bytes: 100 << 10, ..Limits::default() };
    assert!(matches!(run(&small, expected), Err(UnpackError::Blob(BlobError::Limit(_)))));
    // Lies about size and digest, both ways.
    let digest = crate::digest::Digest::of(&blob);
    let size = blob.len() as u64;
    let fine = Limits::default();
    run(&fine, Expected { digest: Some(digest), size: Some(size), ..expected }).expect("a good blob");
    for bad in [
        Expected { size: Some(size - 1), ..expected },
        Expected { size: Some(size + 1), ..expected },
        Expected { digest: Some(crate::digest::Digest::of(b"")), ..expected },
        Expected { diff_id: Some(crate::digest::Digest::of(b"")), ..expected },
        Expected { compression: Compression::Zstd, ..expected },
        Expected { compression: Compression::None, ..expected },
    ] {
        assert!(run(&fine, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_broken_stream_never_ends_well() {
    let tar = Tar::default().dir("a").file("a/b", &[7; 5000]).pax(&[("path", b"c")]).file("x", b"y").end();
    for len in [1, 511, 513, 1024 + 100, 1024 + 4999, tar.len() - 1024 - 512 - 1] {
        assert!(Place::new().unpack_with(&tar[..len], &Limits::default()).is_err(), "{len}");
    }
    let mut half = tar[..tar.len() - 512].to_vec();
    half.extend_from_slice(&Tar::default().file("late", b"").0);
    assert!(Place::new().unpack_with(&half, &Limits::default()).is_err());
}
