//! The hypervisor process: builds the machine from open fds, locks itself up, runs it. One thread for each virtual CPU, one for
//! all devices. It ends by exit(2), whichever thread finds the end; the kernel frees the rest.

use super::balloon::Balloon;
use super::block::Block;
use super::boot::{self, Files};
use super::bus::Bus;
use super::console::Console;
use super::cpu::{self, Stop};
use super::device::Device;
use super::entropy::Entropy;
use super::fs::Share;
use super::memory::{self, DEVICE_BYTES, DEVICES, Memory};
use super::mmio::Transport;
use super::net::Card;
use super::port::{Line, Ports, SERIAL_INTERRUPT};
use super::spec::Spec;
use super::{acpi, cpuid, jail, sys};
use anyhow::{Context, Result, ensure};
use kvm_bindings::kvm_pit_config;
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use rustix::event::epoll;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier, Mutex};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vmm_sys_util::eventfd::EventFd;

/// Pins of the I/O APIC that devices get, one each. 4 is the serial port's, 9 ACPI's by tradition.
const INTERRUPTS: [u32; 19] = [5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 3, 8];
/// Three pages that Intel's real-mode emulation needs, in the hole.
const TASK_STATE: usize = 0xfffb_d000;
/// Another of its pages.
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The end of the machine, told once, by any thread.
#[derive(Debug)]
struct Report(Mutex<File>);

impl Report {
    /// Tells and ends the process.
    fn end(&self, result: Result<Stop>) -> ! {
        let code = match result {
            Ok(Stop::Off) => 0,
            Ok(Stop::Reset) => {
                self.say("the guest reset itself, as its kernel does after a panic");
                1
            }
            Err(error) => {
                self.say(&format!("{error:#}"));
                1
            }
        };
        std::process::exit(code)
    }

    fn say(&self, line: &str) {
        if let Ok(mut report) = self.0.lock() {
            let _ = writeln!(report, "{line}"); // Without a supervisor nobody needs to know.
        }
    }
}

/// Runs the machine that stdin describes.
pub(super) fn run(spec: &Spec) -> ! {
    let report = match sys::take_fd(spec.report) {
        Ok(report) => Arc::new(Report(Mutex::new(report.into()))),
        Err(_) => std::process::exit(1),
    };
    let result = build(spec).and_then(|machine| machine.start(spec, &report));
    match result {
        Ok(devices) => devices.run(&report),
        Err(error) => report.end(Err(error)),
    }
}

/// A machine that has not started.
struct Machine {
    bus: Bus,
    cpus: Vec<VcpuFd>,
    ioeventfds: Vec<(usize, usize, EventFd)>,
    /// Keeps the machine alive in KVM.
    vm: VmFd,
}

fn build(spec: &Spec) -> Result<Machine> {
    let kvm = sys::open_kvm(spec.kvm)?;
    ensure!(kvm.get_api_version() == 12, "KVM speaks another version than 12");
    let vm = kvm.create_vm().context("make a virtual machine")?;
    vm.set_tss_address(TASK_STATE).context("set the task state's address")?;
    vm.set_identity_map_address(IDENTITY_MAP).context("set the identity map's address")?;
    vm.create_irq_chip().context("make the interrupt controllers")?;
    vm.create_pit2(kvm_pit_config { flags: 1, ..Default::default() }).context("make the timer")?;
    let memory = Arc::new(memory::map(spec.memory_bytes, !spec.shares.is_empty())?);
    sys::set_memory(&vm, &memory).context("give the guest its memory")?;

    let devices = devices(spec)?;
    ensure!(
        devices.len() <= INTERRUPTS.len(),
        "a microVM has room for {} devices, the pod needs {}",
        INTERRUPTS.len(),
        devices.len()
    );
    let mut platform = acpi::Platform { cpus: spec.cpus, devices: Vec::new(), serial: spec.serial };
    let mut transports = Vec::new();
    let mut ioeventfds = Vec::new();
    for ((index, device), interrupt) in devices.into_iter().enumerate().zip(INTERRUPTS) {
        let address = DEVICES + index as u64 * DEVICE_BYTES;
        let line = interrupt_line(&vm, interrupt)?;
        let transport = Transport::new(device, Arc::clone(&memory), line)?;
        for (queue, eventfd) in transport.queue_eventfds().iter().enumerate() {
            let ioeventfd = eventfd.try_clone().context("make an event fd")?;
            let register = IoEventAddress::Mmio(address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
            vm.register_ioevent(&ioeventfd, &register, u32::try_from(queue)?).context("watch a queue")?;
            ioeventfds.push((index, queue, ioeventfd));
        }
        platform.devices.push((address, interrupt));
        transports.push(Mutex::new(transport));
    }
    let serial = match spec.serial {
        true => {
            let out = std::io::stderr().as_fd().try_clone_to_owned().context("clone stderr")?;
            Some((File::from(out), Line(interrupt_line(&vm, SERIAL_INTERRUPT)?)))
        }
        false => None,
    };
    let cpus = cpus(spec, &kvm, &vm, &memory, &platform)?;
    Ok(Machine { bus: Bus { ports: Ports::new(serial), devices: transports }, cpus, ioeventfds, vm })
}

fn interrupt_line(vm: &VmFd, interrupt: u32) -> Result<EventFd> {
    let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("make an event fd")?;
    vm.register_irqfd(&line, interrupt).context("connect an interrupt")?;
    Ok(line)
}

/// The channel first, so that stage2 finds it soonest.
fn devices(spec: &Spec) -> Result<Vec<Box<dyn Device>>> {
    let channel = UnixStream::from(sys::take_fd(spec.channel)?);
    let mut devices: Vec<Box<dyn Device>> =
        vec![Box::new(Console::new(channel)?), Box::new(Entropy), Box::new(Balloon)];
    for disk in &spec.disks {
        let file = File::from(sys::take_fd(disk.file)?);
        devices.push(Box::new(Block::new(file, disk.read_only, &disk.serial)?));
    }
    for share in &spec.shares {
        let socket = UnixStream::from(sys::take_fd(share.socket)?);
        devices.push(Box::new(Share::new(socket, &share.tag)?));
    }
    for card in &spec.cards {
        devices.push(Box::new(Card::new(sys::take_fd(card.tap)?, card.address)));
    }
    Ok(devices)
}

fn cpus(spec: &Spec, kvm: &Kvm, vm: &VmFd, memory: &Memory, platform: &acpi::Platform) -> Result<Vec<VcpuFd>> {
    let rsdp = acpi::write(memory, platform)?;
    let mut kernel = File::from(sys::take_fd(spec.kernel)?);
    let mut initramfs = File::from(sys::take_fd(spec.initramfs)?);
    let mut files = Files { kernel: &mut kernel, initramfs: &mut initramfs, command_line: &spec.command_line, rsdp };
    let entry = boot::load(memory, spec.memory_bytes, &mut files)?;
    let supported = cpuid::supported(kvm)?;
    cpu::remove_counters(kvm, vm)?;
    let mut cpus = Vec::new();
    for index in 0..spec.cpus {
        let cpu = vm.create_vcpu(u64::from(index)).context("make a CPU")?;
        cpu::set_features(&cpu, &supported, index, spec.cpus)?;
        cpu::refuse_untold(&cpu, kvm)?;
        cpu::set_msrs(&cpu)?;
        cpus.push(cpu);
    }
    if let Some(first) = cpus.first() {
        cpu::set_entry(first, memory, entry)?;
    }
    Ok(cpus)
}

/// The device thread's part of a running machine.
struct Devices {
    bus: Arc<Bus>,
    ioeventfds: Vec<(usize, usize, EventFd)>,
    epoll: OwnedFd,
    barrier: Arc<Barrier>,
    _vm: VmFd,
}

impl Machine {
    /// Locks the process up and makes the threads; none of them enters the guest before all are confined.
    fn start(self, spec: &Spec, report: &Arc<Report>) -> Result<Devices> {
        let bus = Arc::new(self.bus);
        let epoll = watch(&bus, &self.ioeventfds)?;
        jail::enter(spec.supervisor)?;
        let barrier = Arc::new(Barrier::new(self.cpus.len() + 1));
        for (index, mut cpu) in self.cpus.into_iter().enumerate() {
            let (bus, report, barrier) = (Arc::clone(&bus), Arc::clone(report), Arc::clone(&barrier));
            let body = move || {
                if let Err(error) = jail::confine_cpu_thread() {
                    report.end(Err(error));
                }
                barrier.wait();
                report.end(cpu::run(&mut cpu, &bus));
            };
            let thread = std::thread::Builder::new().name(format!("cpu{index}")).stack_size(256 << 10);
            thread.spawn(body).context("start a CPU's thread")?;
        }
        jail::confine_device_thread()?;
        Ok(Devices { bus, ioeventfds: self.ioeventfds, epoll, barrier, _vm: self.vm })
    }
}

/// Host fds are watched for edges: a device that is not ready for its fd must not make this loop spin.
fn watch(bus: &Bus, ioeventfds: &[(usize, usize, EventFd)]) -> Result<OwnedFd> {
    let context = "watch a device";
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context(context)?;
    for (index, (_, _, ioeventfd)) in (0_u64..).zip(ioeventfds) {
        epoll::add(&epoll, sys::borrow(ioeventfd), epoll::EventData::new_u64(index), epoll::EventFlags::IN)
            .context(context)?;
    }
    for (index, device) in (ioeventfds.len() as u64..).zip(&bus.devices) {
        let Ok(device) = device.lock() else { continue };
        if let Some(fd) = device.host_fd() {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&epoll, fd, epoll::EventData::new_u64(index), flags).context(context)?;
        }
    }
    Ok(epoll)
}

impl Devices {
    /// Serves the devices for ever.
    fn run(self, report: &Report) -> ! {
        self.barrier.wait();
        let mut events = Vec::with_capacity(32);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => report.end(Err(error).context("wait for the guest's devices")),
            }
            for event in &events {
                let Ok(index) = usize::try_from(event.data.u64()) else { continue };
                self.serve(index);
            }
        }
    }

    fn serve(&self, index: usize) {
        let Some((device, queue, ioeventfd)) = self.ioeventfds.get(index) else {
            let device = self.bus.devices.get(index - self.ioeventfds.len());
            if let Some(Ok(mut device)) = device.map(Mutex::lock) {
                device.host_ready();
            }
            return;
        };
        let _ = ioeventfd.read(); // Only resets it; one notification stands for all before it.
        if let Some(Ok(mut device)) = self.bus.devices.get(*device).map(Mutex::lock) {
            device.notified(*queue);
        }
    }
}
