//! A disk that is full in the middle of a fetch.

use crate::registry_test;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use tests::Outcome;

/// Mounts or changes a file system of this size.
fn sized(directory: &Path, size: &str, flags: MsFlags) {
    let options = format!("size={size},mode=755");
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
}

registry_test!(a_full_disk_is_said_and_the_next_fetch_ends_well, |w| {
    let key = w.t.key("publisher");
    let file = w.image("team/large:1", "more than fits");
    w.t.sign(&file, &key);
    w.push(&file, "team/large:1");
    w.trust("team/large", &key);
    let data = w.t.data();
    std::fs::create_dir_all(&data).unwrap();
    let place = w.place("team/large:1");
    let mut commands = [&["fetch", &place][..], &["image", "list", "--format=json"], &["fetch", &place]]
        .map(|words| w.t.pod_command(words));
    let mut run = w.t.pod_command(["run", "--net=none", &place, "--", "print", "ran"]);
    let mut sweep = w.t.pod_command(["gc", "--grace-period=0s"]);
    // The small disk is there for one thread and the commands it starts, and goes with it.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        sized(&data, "1m", MsFlags::empty());
        let [full, list, again] = &mut commands;
        let (full, list) = (Outcome::of(full), Outcome::of(list));
        sized(&data, "256m", MsFlags::MS_REMOUNT);
        (full, list, Outcome::of(again), Outcome::of(&mut run), Outcome::of(&mut sweep))
    });
    let (full, list, again, run, sweep) = thread.join().unwrap();
    full.assert_refused(125, "No space left on device");
    assert!(full.stdout.is_empty(), "{full}");
    list.assert_exit(0).assert_stdout("[]");
    again.assert_exit(0);
    run.assert_exit(0).assert_stdout("ran");
    sweep.assert_exit(0);
});
