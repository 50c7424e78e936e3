//! What a host may lack, in a machine from which it can be taken away, and machines that are killed.

use nix::mount::{MsFlags, mount, umount};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::testbed::inside;
use tests::{Test, confined, kernels};

#[test]
fn whatever_a_host_lacks_is_said() {
    inside::checks(
        "failures::whatever_a_host_lacks_is_said",
        &[
            ("no_kvm", no_kvm),
            ("no_permission_for_kvm", no_permission_for_kvm),
            ("no_virtiofsd", no_virtiofsd),
            ("no_kernel", no_kernel),
            ("eight_at_once", eight_at_once),
            ("fifty_and_one_that_hangs", fifty_and_one_that_hangs),
        ],
    );
}

/// Takes a file away for the time of `body`.
fn without(path: &str, body: impl FnOnce()) {
    let away = format!("{path}.away");
    fs::rename(path, &away).unwrap();
    body();
    fs::rename(&away, path).unwrap();
}

fn no_kvm(t: &Test) {
    without("/dev/kvm", || {
        let ran = t.pod().flag("--hypervisor=builtin").app("a", "true").run();
        ran.assert_refused(125, "`/dev/kvm`: No such file").assert_stderr_has("hint: use `--hypervisor=qemu`");
    });
}

/// A device on a file system without devices cannot be opened, not even by root.
fn no_permission_for_kvm(t: &Test) {
    let directory = t.path("nodev");
    fs::create_dir(&directory).unwrap();
    mount(Some("nodev"), &directory, Some("tmpfs"), MsFlags::MS_NODEV, None::<&str>).unwrap();
    let node = directory.join("kvm");
    let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata("/dev/kvm").unwrap());
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, rustix::fs::Mode::RUSR, device).unwrap();
    mount(Some(&node), "/dev/kvm", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let ran = t.pod().flag("--hypervisor=builtin").app("a", "true").run();
    umount("/dev/kvm").unwrap();
    umount(&directory).unwrap();
    ran.assert_refused(125, "`/dev/kvm`: Permission denied");
}

fn no_virtiofsd(t: &Test) {
    let places = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];
    let place = places.into_iter().find(|place| Path::new(place).exists()).unwrap();
    let volume = format!("--volume=v,kind=host,source={} --mount=volume=v,target=/v", t.path("").display());
    without(place, || {
        let ran = t.pod().flag(&volume).app("a", "true").run();
        ran.assert_refused(125, "virtiofsd is not installed").assert_stderr_has("hint: install `virtiofsd`");
    });
}

/// Without the project's kernel the one that this machine runs is taken, with its modules; without that, there is none.
fn no_kernel(t: &Test) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    without(kernels::OWN, || {
        t.pod().app("a", "print ran").run().assert_exit(0).assert_stdout("ran");
        without(&format!("/boot/vmlinuz-{release}"), || {
            t.pod()
                .app("a", "true")
                .run()
                .assert_refused(125, "no guest kernel")
                .assert_stderr_has("hint: install `linux-image-cloud-amd64` (Debian), build one");
        });
    });
}

/// Nothing of any pod may be left, by the harness's own look and by what else a machine has.
fn nothing_is_left(t: &Test) {
    let uuids = t.uuids();
    t.cli(["gc", "--grace-period=0s"]).assert_exit(0);
    let left = t.leftovers(&uuids);
    assert!(left.is_empty(), "{left:#?}");
    for program in ["stage1-kvm", "virtiofsd", "qemu-system-x86"] {
        assert_eq!(confined::named(program), [0_u32; 0], "{program}");
    }
    let spaces = fs::read_dir("/run/netns").map_or(0, Iterator::count);
    assert_eq!(spaces, 0, "network namespaces have names");
}

fn eight_at_once(t: &Test) {
    let children: Vec<Child> = (0..8).map(|_| start(t, "--vm-memory=128M", "true")).collect();
    let codes: Vec<Option<i32>> = children.into_iter().map(|mut child| child.wait().unwrap().code()).collect();
    assert_eq!(codes, [Some(0); 8]);
    nothing_is_left(t);
}

/// Fifty, two at a time, of which every fourth is killed: the hypervisor alone, at some moment of its life. The supervisor says so
/// and ends, and gc finds all that is left. Beside them, one that never says a word is killed at its deadline.
fn fifty_and_one_that_hangs(t: &Test) {
    let kernel = t.path("hangs");
    fs::write(&kernel, kernels::that_hangs()).unwrap();
    let hanging = start(t, &format!("--hypervisor=builtin --kernel={}", kernel.display()), "true");
    let begin = Instant::now();
    assert_eq!(start(t, "", "true").wait_with_output().unwrap().status.code(), Some(0));
    let life = begin.elapsed();
    for number in 0..25_u32 {
        let words = format!("print {number}");
        let one = start(t, "", &words);
        if number % 2 == 0 {
            kill_after(start(t, "", "process-sleep 600"), life * number / 25);
        } else {
            assert_eq!(start(t, "", "exit 3").wait_with_output().unwrap().status.code(), Some(3));
        }
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout == format!("{number}\n").as_bytes(), "{output:?}");
    }
    let output = hanging.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && text.contains("the guest did not start in time"), "{output:?}");
    nothing_is_left(t);
}

fn start(t: &Test, flags: &str, words: &str) -> Child {
    let (mut command, _) = t.pod().flag(flags).app("a", words).spawnable();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn kill_after(child: Child, time: Duration) {
    let hypervisor = loop {
        if let [found] = confined::children(child.id(), &["*", "vmm"])[..] {
            break Pid::from_raw(found.cast_signed()).unwrap();
        }
    };
    std::thread::sleep(time);
    kill_process(hypervisor, Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && text.contains("killed by signal 9"), "{time:?}: {output:?}");
}
