//! All that the CPU tells by CPUID, as this process reads it.

use serde_json::{Value, json};
use std::arch::x86_64::{__cpuid_count, CpuidResult};

/// As many subleaves as any leaf has.
const SUBLEAVES: u32 = 64;
/// The classes of leaves: Intel's, the hypervisor's, AMD's, Zhaoxin's.
const CLASSES: [u32; 4] = [0, 0x4000_0000, 0x8000_0000, 0xc000_0000];
/// The longest class that is believed.
const LEAVES: u32 = 256;

/// Ranges of subleaves with the same answer, but for those that are all zero: leaf, first and last subleaf, the four registers.
pub(crate) fn read() -> Value {
    let mut found = Vec::new();
    for class in CLASSES {
        let highest = __cpuid_count(class, 0).eax;
        // Beyond its highest leaf Intel's CPU repeats another one.
        if class != 0 && (highest <= class || highest - class >= LEAVES) {
            continue;
        }
        for leaf in class..=highest.min(class + LEAVES) {
            found.extend(leaf_ranges(leaf));
        }
    }
    found.into()
}

fn leaf_ranges(leaf: u32) -> Vec<Value> {
    let mut ranges: Vec<(u32, u32, [u32; 4])> = Vec::new();
    for subleaf in 0..SUBLEAVES {
        let CpuidResult { eax, ebx, ecx, edx } = __cpuid_count(leaf, subleaf);
        let registers = [eax, ebx, ecx, edx];
        match ranges.last_mut() {
            Some((_, last, before)) if *before == registers => *last = subleaf,
            _ => ranges.push((subleaf, subleaf, registers)),
        }
    }
    ranges.retain(|(_, _, registers)| *registers != [0; 4]);
    ranges.into_iter().map(|(first, last, registers)| json!([leaf, first, last, registers])).collect()
}
