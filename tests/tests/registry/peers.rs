//! What we push serves other tools, and what they push serves us.

use crate::certificates::run;
use crate::server::{PASSWORD, USER, skopeo};
use crate::{World, registry_test};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::Command;
use tests::{Outcome, podman, probe_bytes, probe_recipe};

/// Runs podman where cgroup v2 is not mounted beside v1, which crun refuses; nobody else's view changes.
fn hidden(mut command: Command) -> Outcome {
    // A mount namespace is a thread's own, and its children's.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let unified = "/sys/fs/cgroup/unified";
        if Path::new(unified).exists() {
            umount2(unified, MntFlags::MNT_DETACH).unwrap();
        }
        Outcome::of(&mut command)
    });
    thread.join().unwrap()
}

/// `podman pull` with the test's CA and login, and `podman run` of what came.
fn podman_runs(w: &World<'_>, rest: &str, words: &[&str]) -> Outcome {
    let short = tempfile::Builder::new().prefix("pp").tempdir().unwrap();
    let name = format!("{}/{rest}", w.server.host);
    let mut pull = podman::podman(short.path());
    pull.arg("pull").arg("--quiet").arg(format!("--cert-dir={}", w.server.directory.join("certs.d").display()));
    pull.arg(format!("--creds={USER}:{PASSWORD}")).arg(&name);
    let pulled = hidden(pull);
    let mut run = podman::podman(short.path());
    run.args(["run", "--rm", "--pull=never", "--network=none", &name]).args(words);
    let ran = if pulled.code == 0 { hidden(run) } else { pulled };
    podman::sweep(short.path());
    ran
}

// Show 1 of images from anywhere: pushed by us, pulled and run by podman, copied by skopeo.
registry_test!(what_we_push_is_pulled_and_run_by_podman, |w| {
    let key = w.t.key("publisher");
    let file = w.image("team/app:1", "for podman");
    w.t.sign(&file, &key);
    w.push(&file, "team/app:1");
    podman_runs(w, "team/app:1", &["print", "ran"]).assert_exit(0).assert_stdout("ran");
    podman_runs(w, "team/app:1", &["exit", "7"]).assert_exit(7);
    let copy = w.t.path("copied");
    let to = format!("oci:{}:x", copy.display());
    run(&mut skopeo(&w.server, &["copy", "--quiet", &w.place("team/app:1"), &to]));
    let outcome = w.t.cli(["--insecure-options=image", "run", "--net=none", &to, "--", "print", "ran"]);
    outcome.assert_exit(0).assert_stdout("ran");
});

registry_test!(what_was_converted_is_pushed_and_run_by_podman, |w| {
    let layout = w.t.path("layout");
    probe_recipe(&probe_bytes()).oci_layout(&layout).unwrap();
    let source = format!("oci:{}", layout.display());
    let id = w.publisher(&["fetch", &source]).assert_ok().stdout.trim().to_owned();
    w.publisher(&["image", "push", &id, &w.place("team/converted:3")]).assert_ok();
    podman_runs(w, "team/converted:3", &["print", "ran"]).assert_exit(0).assert_stdout("ran");
});

registry_test!(what_skopeo_pushes_is_run_by_us, |w| {
    let layout = w.t.path("layout");
    probe_recipe(&probe_bytes()).oci_layout(&layout).unwrap();
    let from = format!("oci:{}:latest", layout.display());
    for (format, compression) in [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")] {
        let rest = format!("team/{format}-{compression}:1");
        let words = ["copy", "--quiet", "--format", format, "--dest-compress-format", compression, "--dest-compress"];
        run(&mut skopeo(&w.server, &[&words[..], &[&from, &w.place(&rest)]].concat()));
        w.forget();
        w.refused(&rest, "covered by no trust rule");
        let place = w.place(&rest);
        let words = ["--insecure-options=image", "run", "--net=none", &place, "--", "print", "ran"];
        w.t.cli(words).assert_exit(0).assert_stdout("ran");
    }
});
