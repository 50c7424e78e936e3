//! What only a microVM can meet: kernels that are none, that die and that fault, too little memory, missing programs. Each is a
//! sentence and 125, never a hang. Run on the hypervisor that this machine has, and on the built-in one in the testbed.

#![cfg(feature = "kvm")]

use contract::status::AppEnd;
use nix::sys::signal::Signal;
use std::fs;
use tests::confined::{self, Thread};
use tests::{Outcome, PodBuilder, Running, Test, cpuid, kernels};

/// A behaviour of machines, under a name as `stage_test!` gives it.
macro_rules! machine_test {
    ($name:ident, |$test:ident| $body:block) => {
        mod $name {
            use super::*;

            #[test]
            fn kvm() {
                fn body($test: &Test) $body
                tests::on_stage("kvm", stringify!($name), body);
            }
        }
    };
}

fn pod<'a>(t: &'a Test, flag: &str) -> PodBuilder<'a> {
    t.pod().flag(flag).app("a", "print ran")
}

/// A file of the test's own as the kernel.
fn with_kernel<'a>(t: &'a Test, name: &str, bytes: &[u8]) -> PodBuilder<'a> {
    let path = t.path(name);
    fs::write(&path, bytes).unwrap();
    pod(t, &format!("--kernel={}", path.display()))
}

machine_test!(what_is_no_kernel_is_refused, |t| {
    pod(t, "--kernel=/no/such/kernel").run().assert_refused(125, "/no/such/kernel");
    pod(t, "--kernel=/usr").run().assert_refused(125, "/usr");
    pod(t, "--kernel=/dev/zero").run().assert_refused(125, "/dev/zero");
    let own = fs::read(kernels::OWN).unwrap();
    let text = "what is this, it is no kernel\n".repeat(100);
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("short", b"\x7fELF"),
        ("text", text.as_bytes()),
        ("zeros", &[0; 8192]),
        ("elf-without-end", &own[..own.len() / 2]),
        ("elf-without-code", &own[..4096]),
    ] {
        let ran = with_kernel(t, name, bytes).run();
        ran.assert_exit(125).assert_stdout("");
        assert!(ran.stderr.starts_with("pod: run: ") && ran.stderr.lines().count() <= 2, "{name}: {}", ran.outcome);
    }
    let bzimage = fs::read(kernels::debian().expect("linux-image-cloud-amd64 is installed")).unwrap();
    for (name, length) in [("bzimage-without-end", bzimage.len() / 2), ("bzimage-header", 4096)] {
        let ran = with_kernel(t, name, &bzimage[..length]).run();
        ran.assert_exit(125).assert_stdout("");
        assert!(ran.stderr.starts_with("pod: run: ") && ran.stderr.lines().count() <= 2, "{name}: {}", ran.outcome);
    }
});

machine_test!(a_kernel_that_panics_ends_the_pod, |t| {
    let flags = "--kernel-args=rdinit=/no/such/init --kernel-args=root=none";
    let ran = pod(t, flags).run();
    ran.assert_refused(125, "panic");
    let end = ran.status("a").end;
    assert!(matches!(&end, Some(AppEnd::Failed { exit: 125, message }) if message.contains("panic")), "{end:?}");
});

machine_test!(a_triple_fault_ends_the_pod, |t| {
    let ran = with_kernel(t, "faults", &kernels::that_faults()).run();
    ran.assert_exit(125).assert_stdout("");
    assert!(ran.stderr.starts_with("pod: run: ") && ran.stderr.lines().count() <= 2, "{}", ran.outcome);
});

machine_test!(too_little_memory_is_refused, |t| {
    pod(t, "--vm-memory=4M").run().assert_refused(125, "4 MiB of guest memory is too little");
    // What an app may use is not what the machine has: the kernel's part is added.
    pod(t, "--memory=8M").run().assert_exit(0).assert_stdout("ran");
});

machine_test!(a_missing_mkfs_erofs_is_named, |t| {
    let empty = t.path("empty");
    fs::create_dir(&empty).unwrap();
    let (mut command, _) = pod(t, "").spawnable();
    Outcome::of(command.env("PATH", &empty)).assert_refused(125, "mkfs.erofs").assert_stderr_has("hint: install");
});

/// The supervisor's child for which this says yes.
fn child(pod: &Running<'_>, is_it: impl Fn(&str) -> bool) -> u32 {
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let found = confined::children(pod.pid(), &[]).into_iter().find(|pid| is_it(name(pid).trim_end()));
    found.expect("the supervisor has that child")
}

machine_test!(qemu_is_confined, |t| {
    let mut pod = t.pod().flag("--hypervisor=qemu").app("a", "process-sleep 600").start();
    let process = child(&pod, |name| name.starts_with("qemu-system"));
    // Its user is the supervisor's pid beyond what anybody else gives away.
    let user = 0x7000_0000 + pod.pid();
    for thread in confined::threads(process) {
        assert!(thread.is_user(user) && thread.has_no_capabilities() && thread.is_filtered(), "{thread:#?}");
        assert_eq!(thread.field("Groups"), "");
    }
    assert!(confined::leaves_no_core(process));
    let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "usr"];
    assert!(confined::root(process).iter().all(|name| known.contains(&name.as_str())), "{:?}", confined::root(process));
    for (place, options) in confined::mounts(process) {
        assert!(options.starts_with("ro,") || place == "/proc", "{place} {options}");
    }
    for name in ["mnt", "ipc", "net", "uts"] {
        let space = |who: &str| fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
        assert_ne!(space(&process.to_string()), space("self"), "{name}");
    }
    assert_eq!(confined::call(process, libc::SYS_sched_yield.cast_unsigned()), None);
    assert_eq!(confined::call(process, libc::SYS_execve.cast_unsigned()), Some(Signal::SIGSYS));
    pod.wait().assert_refused(125, "killed by signal 31");
});

// virtiofsd keeps what it needs to act for any user of the guest, in a root that is the volume.
machine_test!(virtiofsd_is_confined, |t| {
    let volume = t.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("here"), "x").unwrap();
    let flag = format!("--volume=v,kind=host,source={} --mount=volume=v,target=/v", volume.display());
    let mut pod = t.pod().flag(&flag).app("a", "file-list /v then process-sleep 600").start();
    pod.await_line("here");
    // It forks to have a PID namespace of its own; the one that serves is the last.
    let mut process = child(&pod, |name| name == "virtiofsd");
    while let Some(next) = confined::children(process, &[]).first() {
        process = *next;
    }
    assert_eq!(confined::root(process), ["here"]);
    assert!(confined::leaves_no_core(process));
    let threads = confined::threads(process);
    // chown dac_override fowner fsetid setgid setuid setpcap sys_admin setfcap (linux/capability.h).
    let some: u64 = [0, 1, 3, 4, 6, 7, 8, 21, 31].iter().map(|number| 1 << number).sum();
    let set = |thread: &Thread, name: &str| u64::from_str_radix(thread.field(name), 16).unwrap();
    for thread in &threads {
        assert!(thread.is_filtered(), "{thread:#?}");
        assert_eq!((set(thread, "CapBnd") | set(thread, "CapPrm")) & !some, 0, "{thread:#?}");
    }
    // The one that serves is further confined by virtiofsd itself, and all that it starts.
    let server = threads.iter().find(|thread| thread.id == process).unwrap();
    assert_eq!(set(server, "CapPrm") & (1 << 8 | 1 << 21), 0, "{server:#?}");
    let last = threads.last().unwrap().id;
    assert_eq!(confined::call(last, libc::SYS_ptrace.cast_unsigned()), Some(Signal::SIGSYS), "{threads:#?}");
    pod.signal(rustix::process::Signal::TERM);
    pod.wait();
});

// virtiofsd holds each file that the guest has seen; a login shell's limit is not its own.
machine_test!(a_host_volume_has_more_files_than_the_caller_may_open, |t| {
    const FILES: usize = 1500;
    let source = t.path("many");
    fs::create_dir(&source).unwrap();
    (0..FILES).for_each(|number| fs::write(source.join(format!("{number}")), "x").unwrap());
    let volume = format!("--volume=v,kind=host,source={} --mount=volume=v,target=/v", source.display());
    let (pod, _) = t.pod().flag(&volume).app("a", "file-read-all /v").spawnable();
    let mut limited = std::process::Command::new("prlimit");
    limited.args(["--nofile=1024:", "--"]).arg(pod.get_program()).args(pod.get_args());
    Outcome::of(&mut limited).assert_exit(0).assert_stdout(&format!("read {FILES} files"));
});

// Changes of the root and empty volumes are in the guest's memory: a full one is an error, not the end of an app.
machine_test!(a_full_root_is_enospc_and_the_apps_live_on, |t| {
    let pod = |flags: &str| t.pod().flag(flags).flag("--volume=e,kind=empty --mount=volume=e,target=/e");
    let fill =
        ["/a", "/e/b", "/dev/shm/c"].map(|path| format!("file-write {path} then file-fill {path} then ")).concat();
    for flags in ["--vm-memory=128M", "--memory=64M"] {
        let words = format!("{fill} process-memory 8 then file-remove /a then file-write /e/d there is room again");
        let ran = pod(flags).app("a", &words).run();
        let lines: Vec<&str> = ran.assert_exit(0).stdout.lines().collect();
        let [root, volume, shared, memory] = lines.as_slice() else { panic!("{flags}: {}", ran.outcome) };
        let kib =
            |line: &str| line.strip_prefix("ENOSPC after KiB ").unwrap_or_else(|| panic!("{line}")).parse::<u32>();
        assert!((20 << 10..64 << 10).contains(&kib(root).unwrap()), "{flags}: {root}");
        assert_eq!(kib(volume).unwrap(), 0, "{flags}: the root has left nothing to the volume");
        assert!((10 << 10..40 << 10).contains(&kib(shared).unwrap()), "{flags}: {shared}");
        assert_eq!(*memory, "used 8");
    }
    // As many small files as a package manager makes.
    pod("--vm-memory=128M").app("a", "file-directory /d then file-create-many /d 25000").run().assert_exit(0);
});

// CVE-2015-2877: a guest finds out by the time of a write what pages another guest has, if the host merges equal pages (KSM).
machine_test!(cve_2015_2877_memory_is_not_merged, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    let process = child(&pod, |name| name.starts_with("qemu-system") || name == "vmm" || name == "stage1-kvm");
    // The kernel's word for MADV_MERGEABLE (proc_pid_smaps(5)).
    let map = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let flags: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("VmFlags:")).collect();
    assert!(flags.len() > 10, "{map}");
    assert!(!flags.iter().any(|flags| flags.split(' ').any(|flag| flag == "mg")), "{map}");
    // A kernel without KSM refuses the advice; then only the command line tells.
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap();
    let words = String::from_utf8_lossy(&words);
    assert!(!words.contains("-machine") || words.contains("mem-merge=off"), "{words}");
    pod.stop();
});

// In software here; what KVM's guests read is asked in the testbed.
machine_test!(a_guest_reads_the_table_of_its_cpu_only, |t| {
    cpuid::assert_within_table(t, "--hypervisor=qemu");
});

// The guest would wait for its volume without an end.
machine_test!(a_dead_virtiofsd_ends_the_pod, |t| {
    let volume = t.path("volume");
    fs::create_dir(&volume).unwrap();
    let flag = format!("--volume=v,kind=host,source={} --mount=volume=v,target=/v", volume.display());
    let pod = t.pod().flag(&flag).app("a", "process-sleep 2 then file-write /v/quiet x then process-sleep 600");
    let mut pod = pod.start();
    // By then the supervisor waits without a time limit.
    let begin = std::time::Instant::now();
    while !volume.join("quiet").exists() {
        assert!(begin.elapsed().as_secs() < 60, "the app did not write");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let process = rustix::process::Pid::from_raw(child(&pod, |name| name == "virtiofsd").cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    pod.wait().assert_refused(125, "virtiofsd").assert_stderr_has("was killed by signal 9");
    let status = pod.status("a");
    assert_eq!(status.end, Some(AppEnd::Signal(9)));
    let cause = status.cause.unwrap_or_default();
    assert!(cause.contains("virtiofsd") && cause.contains(&volume.display().to_string()), "{cause}");
});

machine_test!(a_check_names_the_kernel_and_the_hypervisor, |t| {
    let lines = t.cli(["check", "--format=json"]).assert_ok().json();
    let line = |feature: &str| {
        let found = lines.as_array().unwrap().iter().find(|line| line["feature"] == feature);
        found.unwrap_or_else(|| panic!("no {feature} in {lines}")).clone()
    };
    let kernel = line("microVM kernel");
    assert_eq!(kernel["state"], "yes", "{kernel}");
    assert_eq!(kernel["detail"], format!("`{}`, pod's own", kernels::OWN));
    // What it says is what a pod gets.
    let hypervisor = line("microVM hypervisor");
    let mut pod = t.pod().flag("--hypervisor=auto").app("a", "process-sleep 600").start();
    if hypervisor["state"] == "yes" {
        assert!(hypervisor["detail"].as_str().unwrap().starts_with("built-in: "), "{hypervisor}");
        child(&pod, |name| name == "stage1-kvm");
    } else {
        assert_eq!(hypervisor["state"], "partly", "{hypervisor}");
        assert!(hypervisor["detail"].as_str().unwrap().contains("by software emulation"), "{hypervisor}");
        child(&pod, |name| name.starts_with("qemu-system"));
    }
    pod.stop();
    let host = line("microVM host");
    let text = host["detail"].as_str().unwrap();
    let word = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let nested = ["kvm_intel", "kvm_amd"].map(|module| word(&format!("/sys/module/{module}/parameters/nested")));
    let nested = nested.iter().any(|text| text == "1" || text == "Y");
    assert!(text.starts_with(if nested { "nested virtualization on" } else { "nested virtualization off" }), "{host}");
    let bypass = word("/sys/devices/system/cpu/vulnerabilities/spec_store_bypass").starts_with("Vulnerable");
    assert_eq!(text.contains(" spec_store_bypass"), bypass, "{host}");
    assert_eq!(line("microVM host volumes")["state"], "yes");
    assert_eq!(line("microVM images")["state"], "yes");
    assert_eq!(line("microVM network cards")["state"], "yes");
});

machine_test!(a_distributions_own_kernel_boots, |t| {
    // Its drivers are modules, and it finds its devices by ACPI alone, also with a volume and on two CPUs.
    let kernel = kernels::debian().expect("linux-image-cloud-amd64 is installed");
    let ran = pod(t, &format!("--kernel={}", kernel.display())).run();
    ran.assert_exit(0).assert_stdout("ran");
    let source = t.path("shared");
    fs::create_dir(&source).unwrap();
    let volume = format!("--volume=v,kind=host,source={}", source.display());
    let larger = t.pod().flag(&format!("--kernel={} --vm-cpus=2 {volume}", kernel.display()));
    let larger = larger.app("a", "file-write /v/file written then exit 7").with("--mount=volume=v,target=/v").run();
    larger.assert_exit(7);
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "written");
});
