//! ACPI tables of a hardware-reduced machine: CPUs, one I/O APIC, virtio-mmio devices, a serial port for `--debug`, and the
//! registers for power-off and reset. An unmodified distribution kernel finds all its devices here.

use super::memory::{ACPI_END, ACPI_START, DEVICE_BYTES, Memory};
use super::port;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use anyhow::{Context, Result, ensure};
use vm_memory::{Bytes, GuestAddress};

const OEM: [u8; 6] = *b"POD   ";
const TABLE: [u8; 8] = *b"PODMICRO";
/// Where KVM's local APICs and I/O APIC are.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// `IAPC_BOOT_ARCH`: no VGA to probe, no CMOS clock (8042 and legacy devices: their bits are clear).
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// What the tables describe.
#[derive(Debug)]
pub(super) struct Platform {
    /// CPUs, numbered from 0 like their APICs.
    pub(super) cpus: u8,
    /// Address and interrupt of each virtio-mmio device.
    pub(super) devices: Vec<(u64, u32)>,
    /// The serial port is there.
    pub(super) serial: bool,
}

/// Writes the tables and gives the address of the root pointer.
pub(super) fn write(memory: &Memory, platform: &Platform) -> Result<u64> {
    let mut next = ACPI_START;
    let mut put = |bytes: &[u8]| -> Result<u64> {
        let at = next;
        next = (at + bytes.len() as u64).next_multiple_of(16);
        ensure!(next <= ACPI_END, "the ACPI tables do not fit their area");
        memory.write_slice(bytes, GuestAddress(at)).context("write the ACPI tables")?;
        Ok(at)
    };
    // The root pointer comes first, where a kernel that was not told its address searches for it.
    let rsdp = put(&[0; 36])?;
    let dsdt = put(dsdt(platform)?.as_slice())?;
    let fadt = put(&bytes(&fadt(dsdt)))?;
    let madt = put(&bytes(&madt(platform)))?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&bytes(&xsdt))?;
    memory.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(rsdp)).context("write the ACPI tables")?;
    Ok(rsdp)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = register(port::RESET);
    fadt.reset_value = port::RESET_VALUE;
    fadt.sleep_control_reg = register(port::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(port::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(platform: &Platform) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..platform.cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}

fn dsdt(platform: &Platform) -> Result<Sdt> {
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    let sleep = aml::Package::new(vec![&port::SLEEP_TYPE_OFF, &0_u8]);
    append(&mut table, &aml::Name::new("_S5_".into(), &sleep));
    for (index, (address, interrupt)) in (0_u32..).zip(&platform.devices) {
        let memory = aml::Memory32Fixed::new(true, u32::try_from(*address)?, u32::try_from(DEVICE_BYTES)?);
        let interrupt = aml::Interrupt::new(true, true, false, false, *interrupt);
        let resources = aml::ResourceTemplate::new(vec![&memory, &interrupt]);
        let name = format!("_SB_.V{index:03}");
        let (hardware, unique) = (aml::Name::new("_HID".into(), &"LNRO0005"), aml::Name::new("_UID".into(), &index));
        let (coherent, resources) =
            (aml::Name::new("_CCA".into(), &aml::ONE), aml::Name::new("_CRS".into(), &resources));
        let children: Vec<&dyn Aml> = vec![&hardware, &unique, &coherent, &resources];
        append(&mut table, &aml::Device::new(name.as_str().into(), children));
    }
    if platform.serial {
        let ports = aml::IO::new(port::SERIAL, port::SERIAL, 1, 8);
        let interrupt = aml::Interrupt::new(true, true, false, false, port::SERIAL_INTERRUPT);
        let resources = aml::ResourceTemplate::new(vec![&interrupt, &ports]);
        let hardware = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
        let unique = aml::Name::new("_UID".into(), &aml::ZERO);
        let resources = aml::Name::new("_CRS".into(), &resources);
        append(&mut table, &aml::Device::new("_SB_.COM1".into(), vec![&hardware, &unique, &resources]));
    }
    table.update_checksum();
    Ok(table)
}

fn append(table: &mut Sdt, object: &dyn Aml) {
    table.append_slice(&bytes(object));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::memory;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let memory = memory::map(4 << 20, false).unwrap();
        let devices = (0..16).map(|index| (memory::DEVICES + index * DEVICE_BYTES, 5)).collect();
        let rsdp = write(&memory, &Platform { cpus: 8, devices, serial: true }).unwrap();
        let mut root = [0; 36];
        memory.read_slice(&mut root, GuestAddress(rsdp)).unwrap();
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
        let table = |at: u64| {
            let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
            let mut bytes = vec![0; length as usize];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            assert_eq!(sum(&bytes), 0, "{}", String::from_utf8_lossy(&bytes[..4]));
            bytes
        };
        let xsdt = table(u64::from_le_bytes(root[24..32].try_into().unwrap()));
        let entries: Vec<Vec<u8>> =
            xsdt[36..].chunks(8).map(|entry| table(u64::from_le_bytes(entry.try_into().unwrap()))).collect();
        assert_eq!(entries.iter().map(|entry| &entry[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC"]);
        let dsdt = table(u64::from_le_bytes(entries[0][140..148].try_into().unwrap()));
        assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 16);
    }
}
