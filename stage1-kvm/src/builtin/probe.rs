//! Whether this machine's KVM can run a kernel. Opening `/dev/kvm` says little: some KVMs execute a guest's kernel mode in an
//! instruction emulator, which gives up on what every stock kernel does. So a guest of a few bytes does just that: `xrstor`,
//! `popcnt`, `cmpxchg16b` and a trip through its breakpoint handler. It runs in a process of its own, because a KVM that hangs must
//! not hang the supervisor.

use super::boot::{self, Entry};
use super::memory::{self, Memory};
use super::sys;
use super::{cpu, cpuid};
use anyhow::{Context, Result, bail};
use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, pidfd_open};
use std::io::Read;
use std::process::{Command, Stdio};
use vm_memory::{Bytes, GuestAddress};

/// A probe takes a few milliseconds; an emulated machine needs some more.
const SECS_MAX: i64 = 5;
const MEMORY_BYTES: u64 = 1 << 20;
const INTERRUPTS: u64 = 0x3000;
const DATA: u64 = 0x5000;
const STACK: u64 = 0x7f00;
const CODE: u64 = 0x2_0000;
const HANDLER: u64 = 0x2_0100;
/// The guest's answer, on a port that it writes to.
const PORT: u16 = 0x600;
const ANSWER: u8 = 0x42;
/// CR4: the system uses FXSAVE, SSE exceptions, XSAVE.
const CR4_STATES: u64 = 1 << 9 | 1 << 10 | 1 << 18;
/// CPUID leaf 1, ECX.
const CPUID_XSAVE: u32 = 1 << 26;

/// Asks a child process. An error says why the built-in hypervisor cannot be used.
pub(crate) fn ask() -> Result<()> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let mut command = Command::new(own);
    command.arg("probe").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = crate::sys::die_with_parent(&mut command).spawn().context("start the probe")?;
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("watch the probe")?;
    let timeout = Timespec { tv_sec: SECS_MAX, tv_nsec: 0 };
    let ended = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    let late = !matches!(ended, Ok(1));
    if late {
        let _ = child.kill(); // It may have ended by itself just now.
    }
    let status = child.wait().context("wait for the probe")?;
    let mut text = String::new();
    if let Some(pipe) = child.stderr.take() {
        pipe.take(4096).read_to_string(&mut text).context("read from the probe")?;
    }
    match (status.success(), late) {
        (true, _) => Ok(()),
        (false, true) => bail!("a probe guest did not end within {SECS_MAX} s"),
        (false, false) => bail!("{}", text.trim()),
    }
}

/// Runs the probe guest.
pub(crate) fn run() -> Result<()> {
    let kvm = Kvm::new().context("open `/dev/kvm`")?;
    let vm = kvm.create_vm().context("make a virtual machine")?;
    let memory = memory::map(MEMORY_BYTES, false)?;
    sys::set_memory(&vm, &memory).context("give the probe guest its memory")?;
    let supported = cpuid::supported(&kvm)?;
    write_guest(&memory, has_xsave(&supported))?;
    let mut cpu = vm.create_vcpu(0).context("make a CPU")?;
    cpu::set_features(&cpu, &supported, 0, 1)?;
    cpu::set_entry(&cpu, &memory, Entry::Long(CODE))?;
    let mut system = cpu.get_sregs().context("read the CPU's registers")?;
    (system.idt.base, system.idt.limit) = (INTERRUPTS, 4 * 16 - 1);
    system.cr4 |= if has_xsave(&supported) { CR4_STATES } else { 0 };
    cpu.set_sregs(&system).context("set the CPU's system registers")?;
    let mut registers = cpu.get_regs().context("read the CPU's registers")?;
    (registers.rdi, registers.rsp, registers.rax, registers.rdx) = (DATA, STACK, 7, 0);
    cpu.set_regs(&registers).context("set the CPU's registers")?;
    match cpu.run().context("run the probe guest")? {
        VcpuExit::IoOut(PORT, [ANSWER]) => return Ok(()),
        VcpuExit::InternalError => {}
        other => bail!("a probe guest ended by {other:?}"),
    }
    Err(cpu::internal_error(&mut cpu))
}

fn has_xsave(features: &CpuId) -> bool {
    features.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & CPUID_XSAVE != 0)
}

fn write_guest(memory: &Memory, xsave: bool) -> Result<()> {
    boot::page_tables(memory)?;
    let xrstor: &[u8] = if xsave { &[0x48, 0x0f, 0xae, 0x2f] } else { &[] }; // xrstor64 [rdi]
    let code = [
        xrstor,
        &[0xf3, 0x48, 0x0f, 0xb8, 0xcb],         // popcnt rcx, rbx
        &[0xf0, 0x48, 0x0f, 0xc7, 0x0f],         // lock cmpxchg16b [rdi]
        &[0xcc],                                 // int3
        &[0xb0, ANSWER, 0x66, 0xba, 0x00, 0x06], // mov al, ANSWER; mov dx, PORT
        &[0xee, 0xf4],                           // out dx, al; hlt
    ];
    memory.write_slice(&code.concat(), GuestAddress(CODE)).context("write the probe guest")?;
    memory.write_slice(&[0x48, 0xcf], GuestAddress(HANDLER)).context("write the probe guest")?; // iretq
    // Gate 3: an interrupt gate to the code segment 0x10.
    let gate = (HANDLER & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (HANDLER >> 16 & 0xffff) << 48;
    memory.write_obj(gate, GuestAddress(INTERRUPTS + 3 * 16)).context("write the probe guest")
}
