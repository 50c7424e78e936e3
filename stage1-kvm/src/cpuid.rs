//! What a guest's CPUs may tell by CPUID: `cpuid.table`, read for both hypervisors. An allow-list, so that what a new CPU, a new
//! KVM or a new qemu can do reaches no guest before somebody has decided it. Pure.

use anyhow::{Context, Result, ensure};

const TABLE: &str = include_str!("cpuid.table");
const REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];

/// The allow-list.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<Line>,
    /// Features by qemu's names, each once.
    pub(crate) features: Vec<&'static str>,
}

/// Some bits of one register.
#[derive(Debug)]
struct Line {
    leaf: u32,
    /// None: of all.
    subleaf: Option<u32>,
    register: usize,
    bits: u32,
}

/// What may be told of one leaf and subleaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Bits of EAX, EBX, ECX, EDX.
    pub(crate) bits: [u32; 4],
    /// Other subleaves have entries of their own, or none.
    pub(crate) by_subleaf: bool,
}

impl Table {
    /// The project's own.
    pub(crate) fn read() -> Result<Self> {
        Self::parse(TABLE)
    }

    fn parse(text: &'static str) -> Result<Self> {
        let mut table = Self { lines: Vec::new(), features: Vec::new() };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (number, line) in lines {
            table.add(line).with_context(|| format!("line {} of cpuid.table", number + 1))?;
        }
        Ok(table)
    }

    fn add(&mut self, line: &'static str) -> Result<()> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().context("a word is missing");
        let leaf = next()?.strip_prefix("0x").context("a leaf begins with 0x")?;
        let leaf = u32::from_str_radix(leaf, 16).context("a leaf is a number")?;
        let subleaf = match next()? {
            "*" => None,
            number => Some(number.parse().context("a subleaf is a number or *")?),
        };
        let register = next()?;
        let register =
            REGISTERS.iter().position(|name| *name == register).context("a register is eax, ebx, ecx, edx")?;
        let mut bits = 0;
        for word in words {
            let (range, name) = word.split_once(':').context("bits have a name")?;
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse()?, last.parse()?);
            ensure!(first <= last && last < 32, "bits are between 0 and 31");
            bits |= u32::MAX >> (31 - last) & u32::MAX << first;
            if !name.starts_with('(') && !self.features.contains(&name) {
                self.features.push(name);
            }
        }
        self.lines.push(Line { leaf, subleaf, register, bits });
        Ok(())
    }

    /// None: nothing may be told.
    pub(crate) fn allowed(&self, leaf: u32, subleaf: u32) -> Option<Allowed> {
        let mut found: Option<Allowed> = None;
        let lines = self.lines.iter().filter(|line| line.leaf == leaf);
        for line in lines.filter(|line| line.subleaf.is_none_or(|this| this == subleaf)) {
            let allowed = found.get_or_insert(Allowed { bits: [0; 4], by_subleaf: line.subleaf.is_some() });
            allowed.bits[line.register] |= line.bits;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# a comment\n\n0x7 0 ebx 0:a 3-5:(b)\n0x7 0 ebx 31:c\n0x7 2 edx 0-31:(d)\n0x40000001 * eax 1:e 3:e";
        let table = Table::parse(text).unwrap();
        assert_eq!(table.features, ["a", "c", "e"]);
        for (leaf, subleaf, expected) in [
            (7, 0, Some(Allowed { bits: [0, 0x8000_0039, 0, 0], by_subleaf: true })),
            (7, 1, None),
            (7, 2, Some(Allowed { bits: [0, 0, 0, u32::MAX], by_subleaf: true })),
            (0x4000_0001, 9, Some(Allowed { bits: [10, 0, 0, 0], by_subleaf: false })),
            (0x4000_0000, 0, None),
        ] {
            assert_eq!(table.allowed(leaf, subleaf), expected, "{leaf:#x} {subleaf}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for text in
            ["7 0 eax 0:a", "0x7 x eax 0:a", "0x7 0 rax 0:a", "0x7 0 eax 0", "0x7 0 eax 32:a", "0x7 0 eax 3-1:a", "0x7"]
        {
            assert!(Table::parse(text).is_err(), "{text}");
        }
    }

    // CVE-2026-53359, CVE-2021-3653, CVE-2021-3656: ways from a guest to its host, open only to a guest that is given SVM or VMX.
    #[test]
    fn cve_2026_53359_the_table_has_no_nested_virtualization_and_no_counters() {
        let table = Table::read().unwrap();
        let never = [
            (1, 2, 1 << 5 | 1 << 15 | 1 << 3 | 1 << 6),  // vmx pdcm monitor smx
            (1, 3, 1 << 21 | 1 << 18),                   // ds, serial number
            (7, 1, 1 << 2 | 1 << 4 | 1 << 11 | 1 << 25), // sgx hle rtm processor trace
            (0x8000_0001, 2, 1 << 2 | 1 << 10 | 1 << 12 | 3 << 23 | 1 << 28), // svm ibs skinit perfctr
            (0x4000_0001, 0, 1 << 10 | 1 << 17),         // faults of a nested guest, migration
        ];
        for (leaf, register, bits) in never {
            assert_eq!(table.allowed(leaf, 0).unwrap().bits[register] & bits, 0, "{leaf:#x}");
        }
        for leaf in [0xa, 0x12, 0x14, 0x15, 0x16, 0x1f, 0x4000_0010, 0x8000_000a, 0x8000_001b, 0x8000_001f, 0x8000_0022]
        {
            assert_eq!(table.allowed(leaf, 0), None, "{leaf:#x}");
        }
        for name in ["vmx", "svm", "npt", "pmu", "pdcm"] {
            assert!(!table.features.contains(&name), "{name}");
        }
    }
}
