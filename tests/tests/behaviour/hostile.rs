//! Hostile images: refused or harmless, and never anything outside of the store. A canary tree beside the store and the
//! names a layer aims at prove it. Rows 19–25 of the list of past vulnerabilities, and those about `/dev`, `/proc`, `/etc`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use tar::EntryType;
use tests::image::{Layer, Recipe};
use tests::{Outcome, Test, probe_bytes, probe_layer, stage_test};

/// What a test must find unchanged: names, kinds, modes, owners, times and contents below a directory.
fn tree(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let owner = (metadata.uid(), metadata.gid(), metadata.mode(), metadata.mtime_nsec(), metadata.rdev());
        found.insert(path.display().to_string(), format!("{owner:?} {}", tests::image::digest(&content)));
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
        }
    }
    found
}

struct Canary {
    before: BTreeMap<String, String>,
    directory: std::path::PathBuf,
    host: String,
}

impl Canary {
    fn new(t: &Test) -> Self {
        let directory = t.path("victim");
        fs::create_dir_all(directory.join("etc")).unwrap();
        fs::write(directory.join("etc/passwd"), "root:x:0:0::/:\n").unwrap();
        fs::write(directory.join("file"), "canary").unwrap();
        Self { before: tree(&directory), directory, host: Self::host() }
    }

    /// What hostile layers aim at on the real host.
    fn host() -> String {
        let names =
            ["/etc/passwd", "/etc/shadow", "/dev/null", "/escaped", "/tmp/escaped", "/proc/sys/kernel/core_pattern"];
        let look = |name: &&str| match fs::symlink_metadata(name) {
            Ok(metadata) => format!("{name} {} {:o} {}", metadata.ino(), metadata.mode(), metadata.size()),
            Err(error) => format!("{name} {error}"),
        };
        // A write to it changes nothing that stat(2) tells.
        let core_pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        names.iter().map(look).chain([core_pattern]).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn assert_alive(&self, what: &str) {
        assert_eq!(tree(&self.directory), self.before, "{what} changed the victim");
        assert_eq!(Self::host(), self.host, "{what} changed the host");
    }
}

fn recipe(layers: Vec<Layer>) -> Recipe {
    let mut recipe = Recipe::new(layers);
    recipe.entrypoint = vec!["/probe".into()];
    recipe
}

/// Converts, and if that works unpacks and runs it. Each step may refuse; what it may not is reach outside.
fn survive(t: &Test, canary: &Canary, name: &str, recipe: &Recipe) -> Vec<Outcome> {
    let archive = t.path(&format!("{name}.tar"));
    recipe.docker_archive(&archive).unwrap();
    let source = format!("docker-archive:{}", archive.display());
    let image = t.path(&format!("{name}.pod"));
    let mut outcomes = Vec::new();
    let image_path = image.display().to_string();
    let converted = t.tools(["convert", &source, &image_path, "--name", &format!("example.com/{name}:1")]);
    canary.assert_alive(&format!("converting {name}"));
    let works = converted.code == 0;
    outcomes.push(converted);
    if works {
        let directory = t.path(&format!("{name}.unpacked")).display().to_string();
        outcomes.push(t.tools(["unpack", &image_path, &directory]));
        canary.assert_alive(&format!("unpacking {name}"));
        let stage1 = format!("--stage1={}", t.stage1());
        let run = ["--insecure-options=image", "run", &stage1, "--net=none", &image_path, "--", "true"];
        outcomes.push(t.cli(run));
        canary.assert_alive(&format!("running {name}"));
    }
    for outcome in &outcomes {
        assert!([0, 125].contains(&outcome.code), "{name}: {outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{name}: {outcome}");
    }
    outcomes
}

#[track_caller]
fn assert_refused(name: &str, outcomes: &[Outcome]) {
    assert!(outcomes.iter().any(|outcome| outcome.code == 125), "{name} was taken: {outcomes:#?}");
}

fn base() -> Layer {
    probe_layer(&probe_bytes())
}

stage_test!(names_that_leave_the_root_are_harmless, |t| {
    let canary = Canary::new(t);
    let victim = canary.directory.display().to_string();
    let up = "../".repeat(24);
    let names = [
        ("dotdot", "../escaped".to_owned()),
        ("dotdots", format!("{up}{}/file", &victim[1..])),
        ("inner-dotdot", format!("etc/../../{up}{}/file", &victim[1..])),
        ("absolute", format!("{victim}/file")),
        ("absolute-dotdot", format!("/{up}{}/file", &victim[1..])),
        ("root", "/".to_owned()),
        ("dot", ".".to_owned()),
        ("empty", String::new()),
    ];
    for (name, path) in names {
        survive(t, &canary, name, &recipe(vec![base(), Layer::new().file(&path, 0o644, b"hostile")]));
    }
});

// umoci CVE-2021-29136 and all its like: a link first, then a name below it.
stage_test!(cve_2021_29136_names_below_links_stay_inside, |t| {
    let canary = Canary::new(t);
    let victim = canary.directory.display().to_string();
    let up = format!("{}{}", "../".repeat(24), &victim[1..]);
    for (name, target) in [("abs", victim.as_str()), ("rel", up.as_str()), ("root", "/"), ("self", "/proc/self/root")] {
        let link = Layer::new().symlink("a", target);
        let below = link.clone().file("a/file", 0o644, b"hostile").file("a/etc/passwd", 0o644, b"hostile");
        survive(t, &canary, &format!("same-{name}"), &recipe(vec![base(), below]));
        let write = Layer::new().file("a/file", 0o644, b"hostile").directory("a/made", 0o755);
        survive(t, &canary, &format!("next-{name}"), &recipe(vec![base(), link.clone(), write]));
        let removed = Layer::new().whiteout("a/file").opaque("a/etc");
        survive(t, &canary, &format!("whiteout-{name}"), &recipe(vec![base(), link.clone(), removed]));
        let hard = Layer::new().hardlink("b", "a/file").file("b", 0o644, b"hostile");
        survive(t, &canary, &format!("hard-{name}"), &recipe(vec![base(), link, hard]));
    }
    // The name of the root itself as a link.
    survive(
        t,
        &canary,
        "dot-link",
        &recipe(vec![base(), Layer::new().symlink(".", &victim).file("file", 0o644, b"hostile")]),
    );
    survive(
        t,
        &canary,
        "slash-dot",
        &recipe(vec![base(), Layer::new().symlink("/.", &victim).file("file", 0o644, b"x")]),
    );
});

stage_test!(hard_links_to_the_outside_are_refused, |t| {
    let canary = Canary::new(t);
    let victim = canary.directory.join("file").display().to_string();
    for (name, target) in [("abs", victim.clone()), ("up", format!("{}{}", "../".repeat(24), &victim[1..]))] {
        let layer = Layer::new().hardlink("taken", &target).entry(EntryType::Regular, "taken", "", 0o777, b"hostile");
        survive(t, &canary, name, &recipe(vec![base(), layer]));
    }
    let missing = recipe(vec![base(), Layer::new().hardlink("taken", "no/such/file")]);
    assert_refused("missing", &survive(t, &canary, "missing", &missing));
});

// runc CVE-2026-41579, crun CVE-2026-47766, CVE-2019-19921: the mount points of the runtime as links of the image.
stage_test!(cve_2026_41579_system_directories_as_links, |t| {
    let canary = Canary::new(t);
    let victim = canary.directory.display().to_string();
    let up = format!("{}{}", "../".repeat(24), &victim[1..]);
    for directory in ["dev", "proc", "sys", "run", "tmp", "dev/pts"] {
        for (kind, target) in [("absolute", victim.as_str()), ("relative", up.as_str()), ("root", "/")] {
            let name = format!("{}-{kind}", directory.replace('/', "-"));
            let layer = base().symlink(directory, target);
            survive(t, &canary, &name, &recipe(vec![layer]));
        }
    }
    for (kind, target) in [("absolute", victim.as_str()), ("relative", up.as_str())] {
        let layer = Layer::new().symlink("etc", target).file("probe", 0o755, &probe_bytes());
        survive(t, &canary, &format!("etc-{kind}"), &recipe(vec![layer]));
    }
});

// CVE-2025-31133: the source of masks as a link of the image.
stage_test!(cve_2025_31133_dev_null_as_a_link, |t| {
    let canary = Canary::new(t);
    let layer = base().directory("dev", 0o755).symlink("dev/null", "/proc/sys/kernel/core_pattern");
    let image = t.signed(&recipe(vec![layer]), "example.com/null:1").display().to_string();
    let words = "report then file-look /proc/sys/kernel/core_pattern /proc/kcore /proc/keys /proc/interrupts";
    let pod = t.pod().app_of(&image, "a", words).run();
    pod.assert_exit(0);
    let answers: Vec<serde_json::Value> = pod.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [report, looks] = answers.as_slice() else { panic!("{}", pod.outcome) };
    assert_eq!(report["devices"]["null"]["kind"], "c 1:3");
    assert_eq!(looks["/proc/sys/kernel/core_pattern"]["write"], "EROFS");
    for path in ["/proc/kcore", "/proc/keys", "/proc/interrupts"] {
        assert!(looks[path] == "absent" || looks[path]["read"] == "empty", "{path}: {}", looks[path]);
    }
    canary.assert_alive("a link for /dev/null");
});

// runc CVE-2025-52565: the terminal's mount on /dev/console is led elsewhere, by a link of the image or by one put in its way.
stage_test!(cve_2025_52565_the_console_is_no_link, |t| {
    let canary = Canary::new(t);
    let layer = base()
        .directory("dev", 0o755)
        .symlink("dev/console", "/proc/sys/kernel/core_pattern")
        .symlink("dev/pts", "/proc/sys/kernel");
    let image = t.signed(&recipe(vec![layer]), "example.com/console:1").display().to_string();
    let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let words = "stream-terminal then file-write /dev/console typed then exit 6";
    let (command, _) = t.pod().flag("--interactive").app_of(&image, "a", words).spawnable();
    let (code, shown) = tests::Terminal::run(&command, 24, 80).wait();
    assert_eq!(code, 6, "{shown}");
    assert!(shown.contains("terminal [true, true, true]") && shown.contains("typed"), "{shown}");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    canary.assert_alive("a link for /dev/console");
});

// podman CVE-2024-9676: /etc/passwd as a FIFO or as a link to one: no hang, and no reading of the host's file.
stage_test!(cve_2024_9676_the_user_file_is_no_fifo, |t| {
    let canary = Canary::new(t);
    let fifo = t.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let probe = probe_bytes();
    let plain = || Layer::new().directory("etc", 0o755).file("probe", 0o755, &probe);
    let huge = vec![b'#'; 3 << 20];
    let layers = [
        ("fifo", plain().entry(EntryType::Fifo, "etc/passwd", "", 0o644, b"")),
        ("link", plain().symlink("etc/passwd", &fifo.display().to_string())),
        ("directory", plain().directory("etc/passwd", 0o755)),
        ("huge", plain().file("etc/passwd", 0o644, &huge)),
        ("binary", plain().file("etc/passwd", 0o644, &[0xff; 4096])),
    ];
    for (name, layer) in layers {
        let image = t.path(&format!("{name}.tar"));
        recipe(vec![layer]).docker_archive(&image).unwrap();
        let source = format!("docker-archive:{}", image.display());
        let stage1 = format!("--stage1={}", t.stage1());
        let run = |user: &str| {
            let user = format!("--user={user}");
            t.cli(["--insecure-options=image", "run", &stage1, "--net=none", &source, &user, "--", "true"])
        };
        // A number needs no file; a name is not found, and the one sentence says why.
        run("0").assert_exit(0);
        let refused = run("alice");
        refused.assert_refused(125, "user `alice`");
        canary.assert_alive(name);
    }
});

stage_test!(special_files_are_dropped_or_refused, |t| {
    let canary = Canary::new(t);
    let kinds = [
        ("char", EntryType::Char),
        ("block", EntryType::Block),
        ("fifo", EntryType::Fifo),
        ("contiguous", EntryType::Continuous),
        ("unknown", EntryType::new(b'Z')),
    ];
    for (name, kind) in kinds {
        let outcomes =
            survive(t, &canary, name, &recipe(vec![base(), Layer::new().entry(kind, "special", "", 0o666, b"")]));
        // A device must not come to be on the host, neither in the store nor where root unpacks it.
        let places = [t.data().join("images"), t.path(&format!("{name}.unpacked"))];
        for (path, what) in places.iter().filter(|place| place.exists()).flat_map(|place| tree(place)) {
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            // A whiteout of overlayfs is the character device 0:0, which opens nothing.
            let opens = kind.is_block_device() || kind.is_char_device() && !what.contains(", 0) ");
            assert!(!opens, "{name}: {path} {what}: {outcomes:#?}");
        }
    }
});

stage_test!(archives_that_lie_are_refused, |t| {
    let canary = Canary::new(t);
    let mut long = tar::Header::new_gnu();
    long.set_path("long").unwrap();
    long.set_size(1 << 40);
    long.set_mode(0o644);
    long.set_cksum();
    let mut sum = tar::Header::new_gnu();
    sum.set_path("sum").unwrap();
    sum.set_size(0);
    let cases = [
        ("size", Layer::new().raw(&long, b"short")),
        ("checksum", Layer::new().raw(&sum, b"")),
        (
            "pax-length",
            Layer::new().entry(EntryType::XHeader, "pax", "", 0o644, b"999999 path=x\n").file("a", 0o644, b""),
        ),
        ("pax-nul", Layer::new().pax(&[("path", b"a\0b")]).file("a", 0o644, b"")),
        ("bare-whiteout", Layer::new().file(".wh.", 0o644, b"")),
        ("whiteout-dotdot", Layer::new().file(".wh...", 0o644, b"")),
        ("deep", Layer::new().file(&"d/".repeat(3000), 0o644, b"")),
        ("long-name", Layer::new().file(&"n".repeat(300), 0o644, b"")),
    ];
    for (name, layer) in cases {
        assert_refused(name, &survive(t, &canary, name, &recipe(vec![base(), layer])));
    }
    let images = t.data().join("images");
    let left = if images.exists() { tree(&images) } else { BTreeMap::new() };
    let temporary: Vec<&String> =
        left.keys().filter(|path| path.contains("/tmp/") && !path.ends_with("/tmp")).collect();
    let temporary: Vec<_> = temporary.iter().filter(|path| path.contains("images/tmp/")).collect();
    assert!(temporary.is_empty(), "half-made: {temporary:?}");
});

stage_test!(bombs_are_refused, |t| {
    let canary = Canary::new(t);
    // 64 MiB of zeros, a thousand times over in one gzip member would be the real thing; the ratio is what counts.
    let file = t.path("bomb.tar");
    let zeros = vec![0; 600 << 20];
    let layer = Layer::new().file("zeros", 0o644, &zeros);
    drop(zeros);
    let tar = layer.tar();
    drop(layer);
    fs::write(&file, tar).unwrap();
    let compressed =
        std::process::Command::new("xz").args(["--threads=2", "-0", "--keep"]).arg(&file).status().unwrap();
    assert!(compressed.success());
    let source = format!("docker-archive:{}.xz", file.display());
    let image = t.path("bomb.pod").display().to_string();
    let outcome = t.tools(["convert", &source, &image, "--name", "example.com/bomb:1"]);
    // Refused for what it is, and not because it could not be read.
    outcome.assert_refused(125, "it decompresses to more than is allowed");
    canary.assert_alive("a bomb");
});

// An app that floods its output while nobody reads: what is under way is bounded, so the supervisor does not grow; the pod still
// answers; and neither the flood nor the reader holds up a stop.
stage_test!(a_flood_that_nobody_reads_fills_nothing_and_stops, |t| {
    let mut pod = t.pod().app("a", "stream-bytes 1000000000").start();
    for _ in 0..3 {
        pod.exec("a", &["/probe", "print", "here"]).assert_ok().assert_stdout("here");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", pod.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has memory");
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 32 << 10, "the supervisor used {kibibytes} KiB");
    t.cli(["stop", &pod.uuid]).assert_exit(0);
    pod.wait().assert_exit(143);
});

// The app can put anything in the place of its account files while it runs; an operator gets in all the same.
stage_test!(account_files_do_not_keep_an_operator_out, |t| {
    let passwd = b"root:x:0:0:root:/root:/probe\nalice:x:1000:1000:Alice:/home/alice:/probe\n";
    let layer = Layer::new()
        .directory("etc", 0o755)
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, b"root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n")
        .file("probe", 0o755, &probe_bytes());
    let image = t.signed(&recipe(vec![layer]), "example.com/accounts:1").display().to_string();
    let pod = t.pod().app_of(&image, "a", "process-sleep 600").with("--user=alice").start();
    let exec = |user: &[&str], words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        t.cli([&["exec"], user, &[&pod.uuid, "--", "/probe"], &words].concat())
    };
    let replaced = [
        ("fifo", "file-fifo /etc/passwd then file-fifo /etc/group", "is no regular file"),
        ("directory", "file-directory /etc/passwd then file-directory /etc/group", "is no regular file"),
        ("link", "file-link /etc/passwd /probe then file-link /etc/group /etc/group", "is a symbolic link"),
        ("huge", "file-bytes /etc/passwd 3000000 then file-bytes /etc/group 3000000", "is longer than"),
    ];
    for (name, words, why) in replaced {
        let old = if name == "link" { "file-remove-directory" } else { "file-remove" };
        exec(&["--user=0"], &format!("{old} /etc/passwd then {old} /etc/group then {words}")).assert_ok();
        let default = exec(&[], "report").assert_exit(0).json();
        assert_eq!((&default["uid"][0], &default["gid"][0]), (&1000.into(), &1000.into()), "{name}");
        assert_eq!(default["groups"], serde_json::json!([50, 1000]), "{name}");
        for (user, uid) in [("--user=0", 0), ("--user=root", 0), ("--user=1000", 1000), ("--user=77", 77)] {
            let report = exec(&[user], "report").assert_exit(0).json();
            assert_eq!(report["uid"][0], uid, "{name} {user}");
        }
        let refused = exec(&["--user=alice"], "true");
        refused.assert_refused(125, why).assert_stderr_has("`alice` cannot be looked up");
        refused.assert_stderr_has("hint: give the user as a number");
    }
});
