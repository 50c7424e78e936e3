//! The CPU that qemu gives a guest: a model without any feature, and then those of the table by name. qemu itself leaves out what
//! KVM, or its translator, has not. `-cpu host` or `max` would be the reverse: all that this qemu knows.

use super::Accelerator;
use crate::cpuid::Table;
use anyhow::Result;
use std::arch::x86_64::__cpuid;

/// What remedies against speculation the CPU does not need: not CPUID's, but bits of the register IA32_ARCH_CAPABILITIES.
const NOT_NEEDED: [&str; 9] =
    ["rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no", "pschange-mc-no", "tsx-ctrl", "taa-no"];

/// Which CPU it is.
#[derive(Debug)]
struct Identity {
    vendor: String,
    family: u32,
    model: u32,
    stepping: u32,
    name: String,
}

/// The value of `-cpu`.
pub(super) fn model(accelerator: Accelerator) -> Result<String> {
    let table = Table::read()?;
    let (identity, settings) = match accelerator {
        // A paravirtual feature that is not told is not there; addresses are as wide as the host's. Caches are as large as qemu
        // says: only `host` and `max` can tell the host's sizes.
        Accelerator::Kvm => (
            identity_of(|leaf| {
                let registers = __cpuid(leaf);
                [registers.eax, registers.ebx, registers.ecx, registers.edx]
            }),
            &["host-phys-bits=on", "kvm-pv-enforce-cpuid=on", "vmware-cpuid-freq=off"][..],
        ),
        // As qemu's own `max` in software.
        Accelerator::Software { .. } => {
            let (vendor, name) = ("AuthenticAMD".to_owned(), "QEMU TCG CPU".to_owned());
            (Identity { vendor, family: 15, model: 107, stepping: 1, name }, &[][..])
        }
    };
    Ok(words(&identity, settings, &table.features))
}

/// `check=off`: qemu does not complain of each feature that it has not.
fn words(identity: &Identity, settings: &[&str], features: &[&str]) -> String {
    let Identity { vendor, family, model, stepping, name } = identity;
    let mut words = format!("base,check=off,pmu=off,vendor={vendor},family={family},model={model},stepping={stepping}");
    words.push_str(&format!(",model-id={name}"));
    for setting in settings {
        words.push_str(&format!(",{setting}"));
    }
    for feature in features.iter().chain(&NOT_NEEDED) {
        words.push_str(&format!(",{feature}=on"));
    }
    words
}

/// Of a CPU with these answers: EAX, EBX, ECX, EDX of a leaf.
fn identity_of(cpuid: impl Fn(u32) -> [u32; 4]) -> Identity {
    let [_, ebx, ecx, edx] = cpuid(0);
    let signature = cpuid(1)[0];
    let family = signature >> 8 & 0xf;
    let mut model = signature >> 4 & 0xf;
    if matches!(family, 6 | 15) {
        model |= (signature >> 16 & 0xf) << 4;
    }
    let name = if cpuid(0x8000_0000)[0] >= 0x8000_0004 {
        text(&[cpuid(0x8000_0002), cpuid(0x8000_0003), cpuid(0x8000_0004)].concat())
    } else {
        String::new()
    };
    Identity {
        vendor: text(&[ebx, edx, ecx]),
        family: if family == 15 { family + (signature >> 20 & 0xff) } else { family },
        model,
        stepping: signature & 0xf,
        name,
    }
}

/// What stands in registers, up to a NUL. qemu's list of settings is parted by commas.
fn text(registers: &[u32]) -> String {
    let bytes = registers.iter().flat_map(|register| register.to_le_bytes()).take_while(|byte| *byte != 0);
    let plain = bytes.map(char::from).filter(|letter| matches!(letter, ' '..='~') && *letter != ',');
    plain.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(signature: u32, name: &[u8; 48]) -> impl Fn(u32) -> [u32; 4] {
        let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        let name: Vec<u32> = (0..12).map(|index| word(index * 4)).collect();
        move |leaf| match leaf {
            0 => [0x10, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI")],
            1 => [signature, 0, 0, 0],
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 4;
                [name[at], name[at + 1], name[at + 2], name[at + 3]]
            }
            _ => [0; 4],
        }
    }

    #[test]
    fn identities() {
        let mut name = [0; 48];
        name[..17].copy_from_slice(b"  A CPU, svm=on  ");
        for (signature, expected) in [
            (0x0005_0657, (6, 0x55, 7)),  // Cascade Lake
            (0x00a1_0f11, (25, 0x11, 1)), // Genoa
            (0x0000_0512, (5, 1, 2)),
        ] {
            let found = identity_of(cpu(signature, &name));
            assert_eq!((found.family, found.model, found.stepping), expected, "{signature:#x}");
            assert_eq!((found.vendor.as_str(), found.name.as_str()), ("GenuineIntel", "A CPU svm=on"));
        }
    }

    // Nothing is on that the table does not name, whatever qemu can do: the model has no feature of its own.
    #[test]
    fn only_features_of_the_table_are_on() {
        for accelerator in [Accelerator::Kvm, Accelerator::Software { tsc_khz: None }] {
            let model = model(accelerator).unwrap();
            let mut words = model.split(',');
            assert_eq!(words.next(), Some("base"));
            let ours = ["host-phys-bits", "kvm-pv-enforce-cpuid"];
            let on: Vec<&str> =
                words.filter_map(|word| word.strip_suffix("=on")).filter(|on| !ours.contains(on)).collect();
            assert_eq!(on, [Table::read().unwrap().features.as_slice(), &NOT_NEEDED].concat());
        }
    }
}
