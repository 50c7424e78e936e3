//! The built-in hypervisor, in a machine whose `/dev/kvm` can run kernels: that it is the one that runs, with which kernels, how it
//! is confined, and that nothing is left of it however it ends.

use nix::sys::signal::Signal;
use std::path::Path;
use tests::confined::{self, Thread};
use tests::testbed::inside;
use tests::{Running, Test, cpuid, kernels};

/// What the hypervisor's user ids start from; its own is this plus a pid.
const USER_FIRST: u32 = 0x7000_0000;

#[test]
fn it_runs_and_is_confined() {
    inside::checks(
        "hypervisor::it_runs_and_is_confined",
        &[
            ("demo_with_the_minimal_kernel", demo_with_the_minimal_kernel),
            ("demo_with_debians_kernel", demo_with_debians_kernel),
            ("auto_is_the_builtin_one", auto_is_the_builtin_one),
            ("a_guest_reads_the_table_of_its_cpu_only", a_guest_reads_the_table_of_its_cpu_only),
            ("its_threads_have_no_privilege", its_threads_have_no_privilege),
            ("a_forbidden_call_of_a_cpu_kills_it", a_forbidden_call_of_a_cpu_kills_it),
            ("a_forbidden_call_of_the_devices_kills_it", a_forbidden_call_of_the_devices_kills_it),
        ],
    );
}

/// `pod run demo` as a newcomer types it, but for the kernel; the demo says which kernel it runs on.
fn demo(t: &Test, kernel: &Path) -> String {
    let image = t.probe();
    let kernel = format!("--kernel={}", kernel.display());
    let ran = t.cli(["run", "--stage1=kvm", "--hypervisor=builtin", "--net=none", &kernel, "demo"]);
    ran.assert_exit(0);
    let line = ran.stdout.lines().find_map(|line| line.trim().strip_prefix("kernel"));
    let version = line.unwrap_or_else(|| panic!("no kernel in {ran}")).trim().to_owned();
    // What the app ends with is what the pod ends with.
    let words = ["print", "out", "then", "complain", "err", "then", "exit", "7"];
    let line = ["run", "--stage1=kvm", "--hypervisor=builtin", "--net=none", &kernel, image, "--"];
    let ran = t.cli(line.iter().chain(&words));
    ran.assert_exit(7).assert_stdout("out");
    assert_eq!(ran.stderr, "err\n", "{ran}");
    version
}

fn demo_with_the_minimal_kernel(t: &Test) {
    let version = demo(t, Path::new(kernels::OWN));
    assert!(version.ends_with("-pod"), "{version}");
}

fn demo_with_debians_kernel(t: &Test) {
    let kernel = kernels::debian().expect("linux-image-cloud-amd64 is installed");
    let version = demo(t, &kernel);
    assert!(kernel.ends_with(format!("vmlinuz-{version}")), "{version} is not {}", kernel.display());
}

/// The hypervisor's process; there must be no other.
fn hypervisor(pod: &Running<'_>) -> u32 {
    assert_eq!(confined::children(pod.pid(), &["*", "qemu"]), [0_u32; 0]);
    let found = confined::children(pod.pid(), &["*", "vmm"]);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn auto_is_the_builtin_one(t: &Test) {
    let mut pod = t.pod().flag("--hypervisor=auto").app("a", "process-sleep 600").start();
    hypervisor(&pod);
    pod.exec("a", &["/probe", "print", "inside"]).assert_exit(0).assert_stdout("inside");
    pod.stop();
}

/// In both hypervisors that use KVM: this host offers nested virtualization to its guests.
fn a_guest_reads_the_table_of_its_cpu_only(t: &Test) {
    let offered = std::fs::read_to_string("/sys/module/kvm_amd/parameters/nested").unwrap();
    assert_eq!(offered.trim(), "1");
    for hypervisor in ["--hypervisor=builtin", "--hypervisor=qemu"] {
        let answers = cpuid::assert_within_table(t, hypervisor);
        // What makes a start fast and a clock right: x2APIC, the deadline timer, KVM's clock.
        for (leaf, register, bit) in [(1, 2, 21), (1, 2, 24), (0x4000_0001, 0, 3), (0x4000_0001, 0, 24)] {
            assert!(cpuid::is_set(&answers, leaf, register, bit), "{hypervisor}: {leaf:#x} bit {bit}: {answers:x?}");
        }
    }
}

fn its_threads_have_no_privilege(t: &Test) {
    let pod = t.pod().flag("--vm-cpus=2").app("a", "process-sleep 600").start();
    let process = hypervisor(&pod);
    let threads = confined::threads(process);
    let named = |name: &str| threads.iter().any(|thread| thread.name == name);
    assert!(threads.len() == 3 && named("cpu0") && named("cpu1"), "{threads:#?}");
    let safe =
        |thread: &&Thread| thread.is_user(USER_FIRST + process) && thread.has_no_capabilities() && thread.is_filtered();
    assert_eq!(threads.iter().filter(safe).count(), 3, "{threads:#?}");
    assert!(threads.iter().all(|thread| thread.field("Groups").is_empty()), "{threads:#?}");
    assert_eq!(confined::root(process), [""; 0]);
    assert!(confined::leaves_no_core(process));
    let mounts = confined::mounts(process);
    assert!(mounts.len() == 1 && mounts[0].0 == "/" && mounts[0].1.starts_with("ro,nosuid,nodev,noexec"), "{mounts:?}");
    for name in ["mnt", "ipc"] {
        let space = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
        assert_ne!(space(&process.to_string()), space("self"), "{name}");
    }
    // Nothing that is open leads to a directory or to another machine.
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let files: Vec<String> = files.map(|file| std::fs::read_link(file.path()).unwrap().display().to_string()).collect();
    let known = ["/dev/null", "/dev/kvm", "anon_inode:", "socket:", "pipe:", "/memfd:"];
    let disk = t.data().display().to_string();
    let strange = |file: &&String| {
        let image = file.starts_with(&disk) && file.ends_with(".erofs");
        !image && !known.iter().any(|known| file.starts_with(known))
    };
    assert_eq!(files.iter().filter(strange).count(), 0, "{files:#?}");
}

/// The supervisor says who was killed by what, and ends with its own failure.
fn killed_for(t: &Test, name: &str, number: i64) {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    let process = hypervisor(&pod);
    let threads = confined::threads(process);
    let thread = threads.iter().find(|thread| thread.name == name).unwrap_or_else(|| panic!("{threads:#?}"));
    // What it may do, it survives: the call is made as its own.
    assert_eq!(confined::call(thread.id, libc::SYS_sched_yield.cast_unsigned()), None);
    assert_eq!(confined::call(thread.id, number.cast_unsigned()), Some(Signal::SIGSYS));
    pod.wait().assert_refused(125, "killed by signal 31");
}

fn a_forbidden_call_of_a_cpu_kills_it(t: &Test) {
    killed_for(t, "cpu0", libc::SYS_pread64);
}

fn a_forbidden_call_of_the_devices_kills_it(t: &Test) {
    killed_for(t, "stage1-kvm", libc::SYS_ioctl);
}
