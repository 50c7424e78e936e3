//! The list on cgroup v2: a small BPF program, attached to the app's cgroup. The kernel asks it at each open and mknod of a
//! device node. The system calls are their callers' own.

use super::Rule;
use crate::pod::DeviceKind;
use std::os::fd::{AsRawFd, BorrowedFd};

// linux/bpf.h
/// BPF_PROG_LOAD of bpf(2).
pub const PROG_LOAD: u32 = 5;
/// BPF_PROG_ATTACH of bpf(2).
pub const PROG_ATTACH: u32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u64 = 15;
const CGROUP_DEVICE: u64 = 6;
/// Programs of parents stay in force beside ours.
const ALLOW_MULTI: u64 = 2;

/// The attributes of bpf(2) that load these instructions. They hold the address of `instructions`, which must outlive the call.
pub fn load(instructions: &[u64]) -> [u64; 6] {
    let license = c"Apache-2.0";
    let count = (instructions.len() as u64) << 32;
    // prog_type, insn_cnt; insns; license; then log and flags, all zero.
    [PROG_TYPE_CGROUP_DEVICE | count, instructions.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0]
}

/// The attributes of bpf(2) that attach a program to the directory of a cgroup.
pub fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> [u64; 2] {
    [fd_word(cgroup) | fd_word(program) << 32, CGROUP_DEVICE | ALLOW_MULTI << 32]
}

fn fd_word(fd: BorrowedFd<'_>) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs())
}

// Instructions: opcode, destination and source register, jump offset, immediate.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> u64 {
    opcode as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u64) << 32
}

/// r1 points to `struct bpf_cgroup_dev_ctx { access_type, major, minor }`; the low half of `access_type` is the kind, the
/// high half the access. r0 is the verdict.
pub fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        code.extend(allow(rule));
    }
    code.extend([instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// One rule: each test that does not hold jumps past it.
fn allow(rule: &Rule) -> Vec<u64> {
    let kind = if rule.kind == DeviceKind::Block { 1 } else { 2 };
    let granted = u32::from(rule.mknod) | u32::from(rule.read) << 1 | u32::from(rule.write) << 2;
    let numbers = u16::from(rule.major.is_some()) + u16::from(rule.minor.is_some());
    let length = 1 + 3 + numbers + 2;
    let mut code: Vec<u64> = Vec::with_capacity(usize::from(length));
    // An offset counts from the instruction after the jump to the one after the rule.
    let past = |code: &Vec<u64>| (length - code.len() as u16 - 1) as i16;
    code.push(instruction(JUMP_NOT_EQUAL, 2, 0, past(&code), kind));
    code.push(instruction(MOVE_REGISTER, 6, 3, 0, 0));
    code.push(instruction(AND, 6, 0, 0, !granted & 0x7));
    code.push(instruction(JUMP_NOT_EQUAL, 6, 0, past(&code), 0));
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        if let Some(number) = number {
            code.push(instruction(JUMP_NOT_EQUAL, register, 0, past(&code), number));
        }
    }
    code.extend([instruction(MOVE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::STANDARD;

    /// A small machine for the instructions above, so that the list's meaning is tested without a kernel.
    fn verdict(code: &[u64], access_type: u32, major: u32, minor: u32) -> u64 {
        let mut registers = [0_u64; 7];
        let mut at = 0_usize;
        loop {
            let word = code[at];
            let (opcode, destination) = (word as u8, (word >> 8 & 0xf) as usize);
            let (source, offset, immediate) = ((word >> 12 & 0xf) as usize, (word >> 16) as u16 as i16, word >> 32);
            at += 1;
            match opcode {
                LOAD_WORD => registers[destination] = u64::from([access_type, major, minor][offset as usize / 4]),
                MOVE => registers[destination] = immediate,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] &= immediate,
                SHIFT_RIGHT => registers[destination] >>= immediate,
                JUMP_NOT_EQUAL if registers[destination] != immediate => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_means_the_list() {
        let extra =
            Rule { kind: DeviceKind::Block, major: Some(8), minor: Some(1), read: true, write: false, mknod: false };
        let rules: Vec<Rule> = STANDARD.into_iter().chain([extra]).collect();
        let code = program(&rules);
        let (mknod, read, write) = (1_u32, 2, 4);
        for (kind, access, major, minor, expected) in [
            (2, read, 1, 3, 1),
            (2, read | write, 1, 3, 1),
            (2, read, 1, 1, 0),
            (2, mknod, 1, 1, 1),
            (2, mknod | read, 1, 1, 0),
            (2, read, 5, 1, 0),
            (2, write, 136, 77, 1),
            (1, read, 8, 1, 1),
            (1, write, 8, 1, 0),
            (1, read, 8, 2, 0),
            (1, mknod, 8, 2, 1),
            (1, read, 1, 3, 0),
        ] {
            let shown = format!("{kind} {access} {major}:{minor}");
            assert_eq!(verdict(&code, kind | access << 16, major, minor), expected, "{shown}");
        }
        assert_eq!(verdict(&program(&[]), 2 | read << 16, 1, 3), 0);
    }
}
