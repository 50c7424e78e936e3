//! Volumes of the host and of the pod, tmpfs, and where they are mounted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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

// The image's own symlinks must not lead a mount out of the root: runc CVE-2024-45310, podman CVE-2026-55686.
stage_test!(cve_2024_45310_mount_points_stay_in_the_root, |t| {
    let victim = t.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o755)).unwrap();
    let up = "../".repeat(20);
    let layer = tests::probe_layer(&tests::probe_bytes())
        .symlink("absolute", &victim.display().to_string())
        .symlink("relative", &format!("{up}{}", victim.display()))
        .symlink("proc-root", "/proc/self/root")
        .symlink("proc-one", "/proc/1/root/tmp");
    let mut recipe = tests::image::Recipe::new([layer]);
    recipe.entrypoint = vec!["/probe".into()];
    let image = t.signed(&recipe, "example.com/links:1").display().to_string();
    let host = t.path("data");
    fs::create_dir(&host).unwrap();
    for target in ["/absolute/made", "/relative/made", "/proc-root/made", "/proc-one/made"] {
        let pod = t.pod().app_of(&image, "a", "print ran").with(&format!("-v={}:{target}", host.display())).run();
        assert!([0, 125].contains(&pod.code), "{target}: {}", pod.outcome);
        let made = fs::read_dir(&victim).unwrap().count();
        assert_eq!(made, 0, "{target} made something on the host");
        let pod = t.pod().app_of(&image, "a", "print ran").with(&format!("--working-dir={target}/directory")).run();
        assert!([0, 125].contains(&pod.code), "{target}: {}", pod.outcome);
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{target} made a working directory on the host");
    }
    assert!(!std::path::Path::new("/made").exists() && !std::path::Path::new("/tmp/made").exists());
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
        assert!(!std::path::Path::new("/tmp/pod-escaped").exists());
    }
});
