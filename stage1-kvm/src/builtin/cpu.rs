//! A virtual CPU: its identity, its first state, and the loop that answers its exits.

use super::boot::Entry;
use super::bus::Bus;
use super::cpuid;
use super::memory::{self, Memory};
use super::port::Power;
use crate::cpuid::Table;
use anyhow::{Context, Result, bail};
use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_PMU_CAPABILITY, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_PMU_CAP_DISABLE, Msrs, kvm_enable_cap, kvm_fpu,
    kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

/// Why the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Power-off.
    Off,
    /// A reset, which a kernel does after a panic.
    Reset,
}

/// Runs until the guest stops the machine. Every exit is answered from the guest's own registers and memory only.
pub(super) fn run(cpu: &mut VcpuFd, bus: &Bus) -> Result<Stop> {
    loop {
        let exit = match cpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(error) => return Err(error).context("run the guest's CPU"),
        };
        match exit {
            VcpuExit::IoIn(port, data) => bus.ports.read(port, data),
            VcpuExit::IoOut(port, data) => match bus.ports.write(port, data) {
                Power::On => {}
                Power::Off => return Ok(Stop::Off),
                Power::Reset => return Ok(Stop::Reset),
            },
            VcpuExit::MmioRead(address, data) => bus.read(address, data),
            VcpuExit::MmioWrite(address, data) => bus.write(address, data),
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            VcpuExit::Shutdown => bail!("the guest's CPU met a triple fault"),
            VcpuExit::FailEntry(reason, _) => bail!("KVM cannot enter the guest (reason {reason:#x})"),
            VcpuExit::InternalError => return Err(internal_error(cpu)),
            VcpuExit::Hlt => bail!("the guest's CPU halted for ever"),
            other => bail!("KVM left the guest for an unknown reason: {other:?}"),
        }
    }
}

/// KVM could not go on. When it met an instruction that it cannot emulate, its bytes are what a bug report needs.
pub(super) fn internal_error(cpu: &mut VcpuFd) -> anyhow::Error {
    let (suberror, [flags, words @ ..]) = super::sys::internal_error(cpu.get_kvm_run());
    let has_bytes = flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if suberror == KVM_INTERNAL_ERROR_EMULATION && has_bytes {
        // One byte of length, then at most fifteen of the instruction.
        let bytes: Vec<u8> = words.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
        let instruction = bytes[1..].iter().take(usize::from(bytes[0])).map(|byte| format!("{byte:02x}"));
        let instruction: Vec<String> = instruction.collect();
        return anyhow::anyhow!("this KVM cannot emulate the guest's instruction {}", instruction.join(" "));
    }
    anyhow::anyhow!("KVM had an internal error (suberror {suberror})")
}

/// What this CPU, `index` of `cpus`, tells of itself: of what is [`supported`](cpuid::supported), what the table allows.
pub(super) fn set_features(cpu: &VcpuFd, supported: &CpuId, index: u8, cpus: u8) -> Result<()> {
    let told = cpuid::of_guest(supported.as_slice(), &Table::read()?, index, cpus);
    let told = CpuId::from_entries(&told).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    cpu.set_cpuid2(&told).context("set the CPU's features")
}

/// What KVM does for a guest beyond a CPU's work (clock, wake-ups) is refused where CPUID does not tell of it. Older KVMs cannot.
pub(super) fn refuse_untold(cpu: &VcpuFd, kvm: &Kvm) -> Result<()> {
    let capability = kvm_enable_cap { cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID, args: [1, 0, 0, 0], ..Default::default() };
    if kvm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0 {
        cpu.enable_cap(&capability).context("refuse features that CPUID does not tell of")?;
    }
    Ok(())
}

/// Takes the performance counters from all CPUs, before they are made: AMD's first four are no matter of CPUID. Older KVMs cannot.
pub(super) fn remove_counters(kvm: &Kvm, vm: &VmFd) -> Result<()> {
    let disable = KVM_PMU_CAP_DISABLE;
    let capability =
        kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, args: [disable.into(), 0, 0, 0], ..Default::default() };
    if kvm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()).cast_unsigned() & disable != 0 {
        vm.enable_cap(&capability).context("remove the performance counters")?;
    }
    Ok(())
}

/// Model-specific registers that a firmware would have set: memory is cached by default, strings are fast, and there is no record
/// of branches or of events.
pub(super) fn set_msrs(cpu: &VcpuFd) -> Result<()> {
    const MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRINGS: u64 = 1;
    const BTS_UNAVAILABLE: u64 = 1 << 11;
    const PEBS_UNAVAILABLE: u64 = 1 << 12;
    const MTRR_DEFAULT: u32 = 0x2ff;
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let misc = FAST_STRINGS | BTS_UNAVAILABLE | PEBS_UNAVAILABLE;
    for entry in [entry(MISC_ENABLE, misc), entry(MTRR_DEFAULT, 1 << 11 | 6)] {
        let msrs = Msrs::from_entries(&[entry]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        cpu.set_msrs(&msrs).context("set the CPU's model-specific registers")?;
    }
    Ok(())
}

/// Registers of the first CPU. The others wait for the kernel to start them.
pub(super) fn set_entry(cpu: &VcpuFd, memory: &Memory, entry: Entry) -> Result<()> {
    const CR0_PROTECTED: u64 = 1;
    const CR0_EXTENSION: u64 = 1 << 4;
    const CR0_PAGING: u64 = 1 << 31;
    const CR4_PHYSICAL_EXTENSION: u64 = 1 << 5;
    const EFER_LONG_ENABLED_ACTIVE: u64 = 1 << 8 | 1 << 10;
    let mut system = cpu.get_sregs().context("read the CPU's registers")?;
    let long = matches!(entry, Entry::Long(_));
    let (code, data, task) = segments(long);
    write_descriptors(memory, &[code, data, task])?;
    system.gdt.base = memory::DESCRIPTORS;
    system.gdt.limit = 8 * 8 - 1;
    (system.cs, system.tr) = (code, task);
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    system.cr0 = CR0_PROTECTED | CR0_EXTENSION;
    let mut registers = kvm_regs { rflags: 2, ..Default::default() };
    match entry {
        Entry::Pvh(address) => (registers.rip, registers.rbx) = (address, memory::START_INFO),
        Entry::Long(address) => {
            (registers.rip, registers.rsi) = (address, memory::START_INFO);
            system.cr0 |= CR0_PAGING;
            system.cr3 = memory::PAGE_TABLES;
            system.cr4 |= CR4_PHYSICAL_EXTENSION;
            system.efer |= EFER_LONG_ENABLED_ACTIVE;
        }
    }
    cpu.set_sregs(&system).context("set the CPU's system registers")?;
    cpu.set_regs(&registers).context("set the CPU's registers")?;
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    cpu.set_fpu(&fpu).context("set the CPU's floating point state")
}

/// Flat code, data and task segments. The selectors are those of the boot protocol: 0x10 and 0x18.
fn segments(long: bool) -> (kvm_segment, kvm_segment, kvm_segment) {
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let code = kvm_segment { selector: 0x10, type_: 0xb, l: long.into(), db: (!long).into(), ..flat };
    let data = kvm_segment { selector: 0x18, type_: 3, db: 1, ..flat };
    let task = kvm_segment { selector: 0x20, type_: 0xb, limit: 0x67, present: 1, ..Default::default() };
    (code, data, task)
}

fn write_descriptors(memory: &Memory, segments: &[kvm_segment]) -> Result<()> {
    for segment in segments {
        let at = memory::DESCRIPTORS + u64::from(segment.selector);
        memory.write_obj(descriptor(segment), GuestAddress(at)).context("write the descriptor table")?;
    }
    Ok(())
}

/// Intel SDM volume 3, 3.4.5. All bases are zero.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bit = |value: u8, at: u32| u64::from(value) << at;
    (limit & 0xffff)
        | (limit >> 16 & 0xf) << 48
        | bit(segment.type_, 40)
        | bit(segment.s, 44)
        | bit(segment.dpl, 45)
        | bit(segment.present, 47)
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors() {
        let (code, data, _) = segments(true);
        assert_eq!(descriptor(&code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&segments(false).0), 0x00cf_9b00_0000_ffff);
    }
}
