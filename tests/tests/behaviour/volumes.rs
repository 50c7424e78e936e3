//! Volumes of the host and of the pod, tmpfs, and where they are mounted.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tests::stage_test;

stage_test!(a_host_volume_is_read_and_written, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("in"), "from the host").unwrap();
    let volume = format!("--volume=data,kind=host,source={} --mount=volume=data,target=/srv/data", host.display());
    let pod = t.pod().flag(&volume).app("a", "file-read /srv/data/in then file-write /srv/data/out from the pod").run();
    pod.assert_exit(0).assert_stdout("from the host");
    assert_eq!(fs::read_to_string(host.join("out")).unwrap(), "from the pod");
});

stage_test!(a_read_only_volume_cannot_be_written, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("in"), "x").unwrap();
    let volume =
        format!("--volume=data,kind=host,source={},readOnly=true --mount=volume=data,target=/data", host.display());
    let pod =
        t.pod().flag(&volume).app("a", "file-try-write /data/in then file-try-create /data/new then syscall 165").run();
    pod.assert_exit(0).assert_stdout("EROFS\nEROFS\n\"EPERM\"");
    let volume =
        format!("--volume=data,kind=host,source={} --mount=volume=data,target=/data,readOnly=true", host.display());
    t.pod().flag(&volume).app("a", "file-try-write /data/in").run().assert_exit(0).assert_stdout("EROFS");
});

// With CAP_SYS_ADMIN an app may change its own mounts. In a machine the host refuses all the same. In namespaces the flag of the
// mount is all there is, and such an app can take it off: the contract says so, and this test holds what it says.
stage_test!(with_sys_admin_a_read_only_volume_holds_in_a_machine_only, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("in"), "of the host").unwrap();
    let volume =
        format!("--volume=data,kind=host,source={},readOnly=true --mount=volume=data,target=/data", host.display());
    let words = "file-remount-writable /data then file-try-write /data/in then file-try-create /data/new";
    // Without the capability the call is refused.
    let pod = t.pod().flag(&volume).app("a", words).run();
    pod.assert_exit(0).assert_stdout("EPERM\nEROFS\nEROFS");
    let pod = t.pod().flag(&volume).app("a", words).with("--cap-add=SYS_ADMIN --seccomp=unconfined").run();
    let expected = if t.stage1() == "kvm" { "ok\nEROFS\nEROFS" } else { "ok\nok\nok" };
    pod.assert_exit(0).assert_stdout(expected);
    assert_eq!(host.join("new").exists(), t.stage1() != "kvm");
    assert_eq!(fs::read_to_string(host.join("in")).unwrap(), "of the host");
});

stage_test!(a_file_can_be_a_volume, |t| {
    let host = t.path("config");
    fs::write(&host, "setting").unwrap();
    let volume = format!(
        "--volume=config,kind=host,source={},readOnly=true --mount=volume=config,target=/etc/app.conf",
        host.display()
    );
    t.pod().flag(&volume).app("a", "file-read /etc/app.conf").run().assert_exit(0).assert_stdout("setting");
});

stage_test!(the_short_form_of_a_volume_works, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("in"), "short").unwrap();
    let pod = t
        .pod()
        .app("a", "file-read /data/in then file-try-write /data/in")
        .with(&format!("-v={}:/data:ro", host.display()));
    pod.run().assert_exit(0).assert_stdout("short\nEROFS");
});

stage_test!(volumes_are_nosuid_and_nodev, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    let report = t.pod().app("a", "report").with(&format!("-v={}:/data", host.display())).run();
    let report = report.assert_exit(0).json();
    let mount = report["mounts"].as_array().unwrap().iter().find(|mount| mount["target"] == "/data").unwrap().clone();
    let options = mount["options"].to_string();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{mount}");
});

stage_test!(an_empty_volume_has_the_mode_and_owner_asked_for, |t| {
    let pod = t.pod().flag("--volume=v,kind=empty,mode=0750,uid=1000,gid=50 --mount=volume=v,target=/v");
    pod.app("a", "file-stat /v then file-list /v").run().assert_exit(0).assert_stdout("1000:50 0750");
});

stage_test!(an_empty_volume_goes_with_its_pod, |t| {
    let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v");
    pod.app("a", "file-write /v/x y then file-list /v").run().assert_exit(0).assert_stdout("x");
    let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v");
    pod.app("a", "file-list /v").run().assert_exit(0).assert_stdout("");
});

stage_test!(a_tmpfs_is_as_large_as_asked, |t| {
    let report = t.pod().app("a", "report").with("--tmpfs=/scratch:size=1M,mode=700").run();
    let report = report.assert_exit(0).json();
    let mount =
        report["mounts"].as_array().unwrap().iter().find(|mount| mount["target"] == "/scratch").unwrap().clone();
    assert_eq!(mount["type"], "tmpfs");
    assert!(mount["super_options"].to_string().contains("size=1024k"), "{mount}");
});

stage_test!(mounts_lie_in_the_order_of_their_depth, |t| {
    for name in ["outer", "inner"] {
        fs::create_dir(t.path(name)).unwrap();
        fs::write(t.path(name).join("which"), name).unwrap();
    }
    let flags = format!("-v={}:/data/deep -v={}:/data", t.path("inner").display(), t.path("outer").display());
    let words = "file-read /data/which then file-read /data/deep/which";
    t.pod().app("a", words).with(&flags).run().assert_exit(0).assert_stdout("outer\ninner");
});

stage_test!(a_missing_source_is_refused, |t| {
    let pod = t
        .pod()
        .flag("--volume=v,kind=host,source=/no/such/directory --mount=volume=v,target=/v")
        .app("a", "true")
        .run();
    pod.assert_refused(125, "/no/such/directory");
});

// The image's own symlinks must not lead a mount out of the root: runc CVE-2024-45310, podman CVE-2026-55686. The victim is a
// volume that the app does not mount: followed from the root in which stage2 works, the links reach it.
stage_test!(cve_2024_45310_mount_points_stay_in_the_root, |t| {
    let (victim, host) = (t.path("victim"), t.path("data"));
    for directory in [&victim, &host] {
        fs::create_dir(directory).unwrap();
    }
    let inside = format!("{}/victim", contract::stage2::VOLUMES);
    let up = "../".repeat(20);
    let layer = tests::probe_layer(&tests::probe_bytes())
        .symlink("absolute", &inside)
        .symlink("relative", &format!("{up}{}", &inside[1..]))
        .symlink("host", &victim.display().to_string())
        .symlink("proc-root", "/proc/self/root")
        .symlink("proc-one", &format!("/proc/1/root{inside}"));
    let mut recipe = tests::image::Recipe::new([layer]);
    recipe.entrypoint = vec!["/probe".into()];
    let image = t.signed(&recipe, "example.com/links:1").display().to_string();
    let volume = format!("--volume=victim,kind=host,source={}", victim.display());
    let names = ["absolute", "relative", "host", "proc-root", "proc-one"];
    let run = |flags: &str| {
        let pod = t.pod().flag(&volume).app_of(&image, "a", "print ran").with(flags).run();
        assert!([0, 125].contains(&pod.code), "{flags}: {}", pod.outcome);
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{flags} made something on the host");
        pod.code
    };
    let mut started = 0;
    for name in names {
        started += i32::from(run(&format!("-v={}:/{name}/made", host.display())) == 0);
        started += i32::from(run(&format!("--working-dir=/{name}/directory")) == 0);
    }
    // Links that lead to a place in the app's root are followed there.
    assert!(started >= 6, "only {started} pods started");
    assert!(!Path::new("/made").exists() && !Path::new("/tmp/made").exists());
});

/// Exchanges two names until it is told to stop, with pauses that a seed decides, and counts.
fn exchange(one: &Path, other: &Path, stop: &AtomicBool, count: &AtomicU64) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15; // The seed: the pauses are the same in each run.
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("both names are there");
        count.fetch_add(1, Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(8) {
            std::thread::sleep(Duration::from_micros(state >> 8 & 0x3f));
        }
    }
}

// runc CVE-2021-30465 and all its like: a directory of a volume and a link take each other's names in turn, while stage2 makes a
// mount point and a working directory below that name. The link leads to another volume if it is followed from the root in which
// stage2 works, and to nothing if it is followed from the app's root.
stage_test!(cve_2021_30465_renames_in_a_volume_lead_nothing_out, |t| {
    let starts = if t.stage1() == "kvm" { 2 } else { 40 };
    let (host, victim) = (t.path("data"), t.path("victim"));
    for directory in [&host, &victim, &host.join("a")] {
        fs::create_dir(directory).unwrap();
    }
    let target = Path::new(contract::stage2::VOLUMES).join("victim");
    std::os::unix::fs::symlink(target, host.join("b")).unwrap();
    let volumes = format!(
        "--volume=data,kind=host,source={} --mount=volume=data,target=/data --volume=victim,kind=host,source={}",
        host.display(),
        victim.display()
    );
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = std::thread::scope(|scope| {
        scope.spawn(|| exchange(&host.join("a"), &host.join("b"), &stop, &count));
        let mut started = 0;
        for number in 0..starts {
            let flags =
                format!("--mount=volume=victim,target=/data/a/mount-{number} --working-dir=/data/a/work-{number}");
            let pod = t.pod().flag(&volumes).app("a", "print ran").with(&flags).run();
            started += i32::from(pod.code == 0);
            if ![0, 125].contains(&pod.code) || fs::read_dir(&victim).unwrap().count() > 0 {
                stop.store(true, Ordering::Relaxed); // Else the panic waits for the thread.
                panic!("after {count:?} exchanges: {}", pod.outcome);
            }
        }
        stop.store(true, Ordering::Relaxed);
        started
    });
    // Else nothing was made while names changed.
    assert!(started > 0, "no pod started");
    assert!(count.load(Ordering::Relaxed) > 1000, "{count:?} exchanges");
});

// CVE-2025-52881: writes to the kernel's files that a mount leads elsewhere.
stage_test!(cve_2025_52881_volumes_on_the_kernels_files_are_refused, |t| {
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    for target in ["/proc", "/proc/sys", "/sys"] {
        let pod = t.pod().app("a", "print ran").with(&format!("-v={}:{target}", host.display())).run();
        pod.assert_exit(125);
        assert!(!pod.stdout.contains("ran"), "{target}");
    }
});

// podman CVE-2025-9566: files that the runtime provides, written through links that a volume holds.
stage_test!(cve_2025_9566_provided_files_do_not_follow_links_of_a_volume, |t| {
    let victim = t.path("victim");
    fs::write(&victim, "canary").unwrap();
    for (kind, target) in [("absolute", victim.display().to_string()), ("missing", "/tmp/pod-escaped".to_owned())] {
        let etc = t.path(kind);
        fs::create_dir(&etc).unwrap();
        for name in ["resolv.conf", "hosts", "hostname"] {
            std::os::unix::fs::symlink(&target, etc.join(name)).unwrap();
        }
        let flags = format!("-v={}:/etc --user=0", etc.display());
        let pod = t.pod().flag("--dns=192.0.2.1 --hostname=box").app("a", "print ran").with(&flags).run();
        assert!([0, 125].contains(&pod.code), "{}", pod.outcome);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "canary");
        assert!(!Path::new("/tmp/pod-escaped").exists());
    }
});
