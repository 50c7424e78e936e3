//! What a CPU of the machine tells by CPUID: of what KVM supports, what the table allows, with the machine's own topology.

use crate::cpuid::Table;
use anyhow::{Context, Result};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// Leaf 1, ECX: a guest that finds no deadline timer measures the other one for 100 ms.
const DEADLINE_TIMER: u32 = 1 << 24;
/// Leaf 1, ECX.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the number of CPUs in EBX counts.
const HYPER_THREADING: u32 = 1 << 28;
/// Extended topology.
const TOPOLOGY: u32 = 0xb;
/// Each class of leaves begins with one whose EAX is the highest.
const CLASS: u32 = 0xc000_0000;

/// What the CPUs of machines can have here. KVM leaves out what depends on its interrupt controllers (Documentation/virt/kvm/api.rst,
/// KVM_GET_SUPPORTED_CPUID), which every machine of ours has.
pub(super) fn supported(kvm: &Kvm) -> Result<CpuId> {
    let mut features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("ask KVM for the CPU's features")?;
    if kvm.check_extension(Cap::TscDeadlineTimer) {
        let first = features.as_mut_slice().iter_mut().filter(|entry| entry.function == 1);
        first.for_each(|entry| entry.ecx |= DEADLINE_TIMER);
    }
    Ok(features)
}

/// Of CPU `index` of `cpus`. The table comes last: nothing is told that it has not.
pub(super) fn of_guest(supported: &[kvm_cpuid_entry2], table: &Table, index: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<kvm_cpuid_entry2> =
        supported.iter().filter(|entry| entry.function != TOPOLOGY).copied().collect();
    entries.iter_mut().for_each(|entry| place(entry, index, cpus));
    // Of the host's own, KVM tells all levels, one or none, by its version.
    if supported.iter().any(|entry| entry.function == TOPOLOGY) {
        entries.extend(topology(index, cpus));
    }
    entries.retain_mut(|entry| narrow(entry, table));
    for class in [0, 0x4000_0000, 0x8000_0000] {
        let leaves = entries.iter().map(|entry| entry.function).filter(|leaf| leaf & CLASS == class);
        let highest = leaves.max().unwrap_or(class);
        let first = entries.iter_mut().filter(|entry| entry.function == class);
        first.for_each(|entry| entry.eax = entry.eax.min(highest));
    }
    entries
}

/// Leaves only what the table allows; false: nothing.
fn narrow(entry: &mut kvm_cpuid_entry2, table: &Table) -> bool {
    let Some(allowed) = table.allowed(entry.function, entry.index) else { return false };
    if allowed.by_subleaf {
        // Without it KVM would answer for each subleaf with this one.
        entry.flags |= KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
    let [eax, ebx, ecx, edx] = allowed.bits;
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & eax, entry.ebx & ebx, entry.ecx & ecx, entry.edx & edx);
    [entry.eax, entry.ebx, entry.ecx, entry.edx] != [0; 4]
}

/// One thread a core, all cores in one package with one last-level cache.
fn place(entry: &mut kvm_cpuid_entry2, index: u8, cpus: u8) {
    let (id, count) = (u32::from(index), u32::from(cpus));
    let ids = count.next_power_of_two();
    match entry.function {
        1 => {
            entry.ebx = (entry.ebx & 0x0000_ffff) | id << 24 | count << 16;
            entry.edx = if cpus > 1 { entry.edx | HYPER_THREADING } else { entry.edx & !HYPER_THREADING };
            entry.ecx |= HYPERVISOR;
        }
        // A cache, if it has a kind: of its level and who shares it.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { ids - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (ids - 1) << 26;
        }
        // AMD's number of cores and its topology.
        0x8000_0008 => entry.ecx = ids.trailing_zeros() << 12 | (count - 1),
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

/// The levels of threads and of cores: how far to shift an id for the next level's, how many CPUs, the level's number and kind.
fn topology(index: u8, cpus: u8) -> [kvm_cpuid_entry2; 2] {
    let core_bits = u32::from(cpus).next_power_of_two().trailing_zeros();
    [(0, 0, 1, 1), (1, core_bits, u32::from(cpus), 2)].map(|(level, shift, count, kind)| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index: level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: level | kind << 8,
        edx: u32::from(index),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// A CPU that has everything, in each leaf that there is or may be.
    fn everything() -> Vec<kvm_cpuid_entry2> {
        let leaves = [0..=0x40, 0x4000_0000..=0x4000_0010, 0x8000_0000..=0x8000_0040, 0xc000_0000..=0xc000_0004];
        let pairs = leaves.into_iter().flatten().flat_map(|leaf| (0..40).map(move |subleaf| (leaf, subleaf)));
        pairs.map(|(leaf, subleaf)| entry(leaf, subleaf, [u32::MAX; 4])).collect()
    }

    fn registers(entries: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        let entry = entries.iter().find(|entry| (entry.function, entry.index) == (leaf, subleaf))?;
        Some([entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    #[test]
    fn of_everything_only_what_is_allowed_is_left() {
        let table = Table::read().unwrap();
        let told = of_guest(&everything(), &table, 2, 3);
        for entry in &told {
            let allowed = table.allowed(entry.function, entry.index).unwrap();
            for (value, may) in [entry.eax, entry.ebx, entry.ecx, entry.edx].into_iter().zip(allowed.bits) {
                assert_eq!(value & !may, 0, "{entry:x?}");
            }
        }
        for (leaf, subleaf, expected) in [
            (0, 0, Some([0xd, u32::MAX, u32::MAX, u32::MAX])),
            // Not dtes64 monitor ds-cpl vmx smx est tm2 cid sdbg xtpr pdcm dca.
            (1, 0, Some([0x0fff_3fff, 0x0203_ff00, 0xfffa_3203, 0x1f8b_fbff])),
            (4, 0, Some([0x3ff | 3 << 14 | 3 << 26, u32::MAX, u32::MAX, 7])),
            (7, 3, None),
            (0xa, 0, None),
            (0xb, 0, Some([0, 1, 1 << 8, 2])),
            (0xb, 1, Some([2, 3, 1 | 2 << 8, 2])),
            (0xb, 2, None),
            (0xd, 8, None),
            (0x14, 0, None),
            (0x1f, 0, None),
            (0x4000_0000, 0, Some([0x4000_0001, u32::MAX, u32::MAX, u32::MAX])),
            (0x4000_0010, 0, None),
            (0x8000_0000, 0, Some([0x8000_0021, u32::MAX, u32::MAX, u32::MAX])),
            (0x8000_000a, 0, None),
            (0x8000_001e, 0, Some([2, 2, 0, 0])),
            (0x8000_001f, 0, None),
            (0x8000_0022, 0, None),
            (0xc000_0001, 0, None),
        ] {
            assert_eq!(registers(&told, leaf, subleaf).map(hex), expected.map(hex), "{leaf:#x} {subleaf}");
        }
        assert_eq!(registers(&told, 0x8000_0001, 0).unwrap()[2] & 1 << 2, 0, "svm");
    }

    fn hex(registers: [u32; 4]) -> String {
        format!("{registers:x?}")
    }

    #[test]
    fn nothing_is_made_up_but_the_topology() {
        let table = Table::read().unwrap();
        let first = everything().into_iter().filter(|entry| entry.index == 0);
        let nothing: Vec<kvm_cpuid_entry2> = first.map(|first| entry(first.function, 0, [0; 4])).collect();
        let told = of_guest(&nothing, &table, 0, 1);
        let left: Vec<(u32, u32)> = told.iter().map(|entry| (entry.function, entry.index)).collect();
        assert_eq!(left, [(1, 0), (0xb, 0), (0xb, 1)]);
        assert_eq!(registers(&told, 1, 0), Some([0, 1 << 16, HYPERVISOR, 0]));
        assert!(of_guest(&[], &table, 0, 1).is_empty());
    }

    #[test]
    fn an_answer_for_one_subleaf_is_not_one_for_all() {
        let told = of_guest(&[entry(7, 0, [0, 1, 0, 0]), entry(1, 0, [1; 4])], &Table::read().unwrap(), 0, 1);
        let flags: Vec<(u32, u32)> = told.iter().map(|entry| (entry.function, entry.flags)).collect();
        assert_eq!(flags, [(7, KVM_CPUID_FLAG_SIGNIFCANT_INDEX), (1, 0)]);
    }
}
