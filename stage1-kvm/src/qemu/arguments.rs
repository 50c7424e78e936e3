//! qemu's command line. Pure but for the numbers of open fds.

use super::Accelerator;
use super::model::model;
use crate::plan::VmPlan;
use anyhow::{Result, ensure};
use contract::guest::CHANNEL_PORT;
use std::os::fd::{AsRawFd, OwnedFd};

/// `-M microvm` has this many virtio-mmio slots without ACPI. With it there are 24, but a pod must not depend on its kernel.
const SLOTS: usize = 8;
/// The channel and the random number generator.
const SLOTS_OURS: usize = 2;

/// What qemu gets open.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) kernel: OwnedFd,
    pub(super) initramfs: OwnedFd,
    pub(super) channel: OwnedFd,
    /// Where the guest's serial console goes.
    pub(super) console: OwnedFd,
    /// One for each disk of the plan.
    pub(super) disks: Vec<OwnedFd>,
    /// One connected socket for each share of the plan.
    pub(super) shares: Vec<OwnedFd>,
    /// One queue of a tap device for each network card of the plan.
    pub(super) taps: Vec<OwnedFd>,
}

/// All arguments after the program's name.
pub(super) fn arguments(plan: &VmPlan, accelerator: Accelerator, files: &Files) -> Result<Vec<String>> {
    let devices = plan.disks.len() + plan.shares.len() + files.taps.len();
    ensure!(
        devices <= SLOTS - SLOTS_OURS,
        "the pod needs {devices} disks, host volumes and network cards; a machine in qemu has room for {}",
        SLOTS - SLOTS_OURS
    );
    let mut words = Words::default();
    // Nothing that was not asked for: no default devices, no configuration of the host's, no option ROM.
    for word in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        words.push(word);
    }
    words.pair("-display", "none");
    // virtio 1.0, as the built-in hypervisor has it and virtiofsd insists on.
    words.pair("-global", "virtio-mmio.force-legacy=false");
    words.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    machine(&mut words, plan, accelerator)?;
    boot(&mut words, plan, accelerator, files);
    channel(&mut words, files);
    words.pair("-object", "rng-builtin,id=random");
    words.pair("-device", "virtio-rng-device,rng=random");
    for (index, (disk, fd)) in plan.disks.iter().zip(&files.disks).enumerate() {
        let set = format!("/dev/fdset/{}", words.fd_set(fd));
        words.pair("-drive", &drive(index, &set, disk.read_only));
        words.pair("-device", &format!("virtio-blk-device,drive=disk{index},serial={}", disk.serial));
    }
    for (index, (share, fd)) in plan.shares.iter().zip(&files.shares).enumerate() {
        words.pair("-chardev", &format!("socket,id=share{index},fd={}", fd.as_raw_fd()));
        words.pair("-device", &format!("vhost-user-fs-device,chardev=share{index},tag={}", share.tag));
    }
    for (index, (address, fd)) in plan.cards().zip(&files.taps).enumerate() {
        let address = address.map(|byte| format!("{byte:02x}")).join(":");
        words.pair("-netdev", &format!("tap,id=card{index},fd={}", fd.as_raw_fd()));
        words.pair("-device", &format!("virtio-net-device,netdev=card{index},mac={address}"));
    }
    Ok(words.0)
}

/// The format is said, never looked for: a guest that may write its disk could otherwise make it one that names another file.
fn drive(index: usize, set: &str, read_only: bool) -> String {
    let read_only = if read_only { "on" } else { "off" };
    format!("if=none,id=disk{index},format=raw,file={set},file.locking=off,readonly={read_only}")
}

/// Whether the kernel learns of its devices by ACPI. A distribution's kernel, which has modules, knows no other way. The
/// project's own is told on its command line, because ACPI's reduced-hardware profile has no timer to measure others by and
/// takes longer to read.
fn acpi(plan: &VmPlan) -> bool {
    !plan.kernel.modules.is_empty()
}

fn machine(words: &mut Words, plan: &VmPlan, accelerator: Accelerator) -> Result<()> {
    let memory = plan.memory_bytes >> 20;
    let acpi = if acpi(plan) { "on" } else { "off" };
    // Pages that guests share by their content tell one guest what another holds (CVE-2015-2877).
    let mut machine = format!("microvm,acpi={acpi},x-option-roms=off,mem-merge=off");
    if !plan.shares.is_empty() {
        // virtiofsd reads and writes the guest's memory itself.
        words.pair("-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
        machine.push_str(",memory-backend=memory");
    }
    words.pair("-M", &machine);
    match accelerator {
        Accelerator::Kvm => words.pair("-accel", "kvm"),
        Accelerator::Software { .. } => words.pair("-accel", "tcg"),
    }
    words.pair("-cpu", &model(accelerator)?);
    words.pair("-m", &format!("{memory}M"));
    words.pair("-smp", &plan.cpus.to_string());
    Ok(())
}

fn boot(words: &mut Words, plan: &VmPlan, accelerator: Accelerator, files: &Files) {
    words.pair("-kernel", &format!("/proc/self/fd/{}", files.kernel.as_raw_fd()));
    words.pair("-initrd", &format!("/proc/self/fd/{}", files.initramfs.as_raw_fd()));
    words.pair("-append", &command_line(plan, accelerator));
    let console = words.fd_set(&files.console);
    words.pair("-chardev", &format!("file,id=console,path=/dev/fdset/{console},append=on"));
    words.pair("-serial", "chardev:console");
}

/// What the plan says, and what this machine needs. Each word was measured with the project's kernel in software
/// emulation, whole process, bare init: all of them together 0.42 s, without any 0.93 s.
fn command_line(plan: &VmPlan, accelerator: Accelerator) -> String {
    // The serial port is there for the kernel's last words; with `quiet` it is silent until then. A triple fault is the
    // reset that takes no device.
    let mut line = format!("{} earlyprintk=ttyS0,115200,keep reboot=t pci=off", plan.command_line);
    if let Accelerator::Software { tsc_khz } = accelerator {
        // Emulated timers tick as told, so their wiring need not be tried out (40 ms).
        if !acpi(plan) {
            line.push_str(" no_timer_check");
        }
        if let Some(khz) = tsc_khz {
            // On a busy host the guest's own calibration takes 50 ms and then often fails, which leaves it a clock of
            // 4 ms steps.
            line.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
        }
        if plan.cpus == 1 && !acpi(plan) {
            // The local timer's calibration waits 100 ms; one CPU does as well with the global timer.
            line.push_str(" nolapic_timer");
        }
    }
    line
}

fn channel(words: &mut Words, files: &Files) {
    words.pair("-device", "virtio-serial-device,max_ports=2");
    words.pair("-chardev", &format!("socket,id=channel,fd={}", files.channel.as_raw_fd()));
    words.pair("-device", &format!("virtserialport,chardev=channel,name={CHANNEL_PORT}"));
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn push(&mut self, word: &str) {
        self.0.push(word.to_owned());
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.push(option);
        self.push(value);
    }

    /// Makes `fd` known by a name that qemu's file layer can open, and gives the number of the set.
    fn fd_set(&mut self, fd: &OwnedFd) -> i32 {
        let number = fd.as_raw_fd();
        self.pair("-add-fd", &format!("fd={number},set={number}"));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // cloud-hypervisor GHSA-jmr4-g2hv-mjj6: a format that is looked for in the content lets a guest write itself a qcow2 header
    // with a backing file of the host's.
    #[test]
    fn ghsa_jmr4_g2hv_mjj6_the_format_of_a_disk_is_said() {
        for (read_only, word) in [(true, "readonly=on"), (false, "readonly=off")] {
            let drive = drive(3, "/dev/fdset/7", read_only);
            let options: Vec<&str> = drive.split(',').collect();
            assert!(options.contains(&"format=raw") && options.contains(&word), "{drive}");
            assert!(options.contains(&"file=/dev/fdset/7"), "{drive}");
        }
    }
}
