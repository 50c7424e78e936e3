//! What a guest's CPUs tell, beside the table of what they may tell. The table is read here by a second reader, and the guest by
//! the probe; the hypervisor's own reading of either takes no part.

use crate::Test;
use std::collections::{BTreeMap, BTreeSet};

/// The table that both hypervisors are built by.
const TABLE: &str = include_str!("../../stage1-kvm/src/cpuid.table");
const REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];
/// Subleaf of an entry for all.
const ALL: u32 = u32::MAX;

/// The bits that may be set, by leaf and subleaf.
type Allowed = BTreeMap<(u32, u32), [u32; 4]>;

/// Of one leaf and some subleaves, what a guest reads.
#[derive(Debug)]
pub struct Answer {
    /// EAX before CPUID.
    pub leaf: u32,
    /// ECX before CPUID, the first and the last.
    pub subleaves: (u32, u32),
    /// EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// Runs a pod with these flags; every bit that its app reads must be in the table. Gives what it read.
pub fn assert_within_table(t: &Test, flags: &str) -> Vec<Answer> {
    let ran = t.pod().flag(flags).app("a", "cpuid").run();
    let json: Vec<(u32, u32, u32, [u32; 4])> =
        serde_json::from_str(&ran.assert_exit(0).stdout).expect("the probe's JSON");
    let answers: Vec<Answer> = json
        .into_iter()
        .map(|(leaf, first, last, registers)| Answer { leaf, subleaves: (first, last), registers })
        .collect();
    let allowed = allowed();
    let strange: Vec<String> = answers.iter().flat_map(|answer| beyond(&allowed, answer)).collect();
    assert!(strange.is_empty(), "the guest reads what is not in cpuid.table:\n{}", strange.join("\n"));
    for (leaf, register, bit) in [(1, 3, 26), (1, 2, 31), (0x8000_0001, 3, 29)] {
        assert!(is_set(&answers, leaf, register, bit), "a 64-bit guest reads leaf {leaf:#x} bit {bit}: {answers:x?}");
    }
    answers
}

/// Whether a guest reads this bit, of the first subleaf.
pub fn is_set(answers: &[Answer], leaf: u32, register: usize, bit: u32) -> bool {
    let answer = answers.iter().find(|answer| answer.leaf == leaf && answer.subleaves.0 == 0);
    answer.is_some_and(|answer| answer.registers[register] & 1 << bit != 0)
}

fn beyond(allowed: &Allowed, answer: &Answer) -> Vec<String> {
    let (first, last) = answer.subleaves;
    // Many subleaves with one answer: only an entry for all of them stands for each.
    let subleaves: Vec<u32> =
        if allowed.contains_key(&(answer.leaf, ALL)) { vec![ALL] } else { (first..=last).collect() };
    let mut strange = BTreeSet::new();
    for subleaf in subleaves {
        let may = allowed.get(&(answer.leaf, subleaf)).copied().unwrap_or_default();
        for ((name, value), may) in REGISTERS.iter().zip(answer.registers).zip(may) {
            if value & !may != 0 {
                strange.insert(format!("leaf {:#x} subleaves {first}-{last} {name}: {:#x}", answer.leaf, value & !may));
            }
        }
    }
    strange.into_iter().collect()
}

fn allowed() -> Allowed {
    let mut allowed = Allowed::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hexadecimal = words[0].strip_prefix("0x").expect("a leaf in hexadecimal");
        let leaf = u32::from_str_radix(hexadecimal, 16).expect("a leaf");
        let subleaf = if words[1] == "*" { ALL } else { words[1].parse().expect("a subleaf") };
        let register = REGISTERS.iter().position(|name| *name == words[2]).expect("a register");
        for word in &words[3..] {
            let (bits, _) = word.split_once(':').expect("bits:name");
            let (first, last) = bits.split_once('-').unwrap_or((bits, bits));
            for bit in first.parse().expect("a bit")..=last.parse::<u32>().expect("a bit") {
                allowed.entry((leaf, subleaf)).or_default()[register] |= 1 << bit;
            }
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_beyond_the_table_is_found() {
        let allowed = allowed();
        let answer = |leaf, registers| Answer { leaf, subleaves: (0, 63), registers };
        assert_eq!(beyond(&allowed, &answer(1, [0, 0, 1, 1])), [""; 0]);
        // VMX, SVM, the performance counters, a leaf of nobody's.
        assert_eq!(beyond(&allowed, &answer(1, [0, 0, 1 << 5, 0])), ["leaf 0x1 subleaves 0-63 ecx: 0x20"]);
        for (leaf, registers) in [(0x8000_0001, [0, 0, 4, 0]), (0xa, [2, 0, 0, 0]), (0x77, [0, 0, 0, 1])] {
            assert!(!beyond(&allowed, &answer(leaf, registers)).is_empty(), "{leaf:#x}");
        }
        // Only the first subleaf may say this.
        assert_eq!(beyond(&allowed, &answer(7, [0, 1, 0, 0])), ["leaf 0x7 subleaves 0-63 ebx: 0x1"]);
    }
}
