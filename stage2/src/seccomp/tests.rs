//! The compiled programs against the declarative profile, for every number, by an interpreter of the instructions.

use super::program::{assemble, audit};
use super::*;
use contract::kernel::Capability as C;
use libc::sock_filter;
use proptest::prelude::*;

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const EPERM_CODE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Runs a program as the kernel would; also says how many instructions it took.
fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&architecture.to_le_bytes());
    for (index, argument) in arguments.iter().enumerate() {
        data[16 + 8 * index..][..8].copy_from_slice(&argument.to_le_bytes());
    }
    let (mut at, mut a, mut steps) = (0usize, 0u32, 0);
    loop {
        let one = program[at];
        (at, steps) = (at + 1, steps + 1);
        let jump = |yes| usize::from(if yes { one.jt } else { one.jf });
        match one.code {
            0x20 => a = u32::from_le_bytes(data[one.k as usize..][..4].try_into().unwrap()),
            0x06 => return (one.k, steps),
            0x05 => at += one.k as usize,
            0x15 => at += jump(a == one.k),
            0x35 => at += jump(a >= one.k),
            0x45 => at += jump(a & one.k != 0),
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn program(seccomp: &Seccomp, capabilities: &[C], architecture: Architecture) -> Vec<sock_filter> {
    assemble(&ranges(seccomp, capabilities, architecture).unwrap(), architecture)
}

/// The profile, said once more and without ranges.
fn expected(number: u32, argument: [u64; 6], capabilities: &[C], architecture: Architecture) -> u32 {
    let Some(syscall) = syscalls::all().iter().find(|syscall| syscall.number(architecture) == Some(number)) else {
        return ENOSYS;
    };
    let admin = capabilities.contains(&C::SysAdmin);
    let (first, second) = (argument[0] as u32, argument[1] as u32);
    let yes = match syscall.default1 {
        Default1::Yes => true,
        Default1::No => false,
        Default1::With(any) => any.iter().any(|one| capabilities.contains(one)),
        Default1::By(Rule::Clone) => admin || first & NAMESPACES == 0,
        Default1::By(Rule::Unshare) => admin || first & (NAMESPACES | 0x80) == 0,
        Default1::By(Rule::Clone3) if !admin => return ENOSYS,
        Default1::By(Rule::Clone3) => true,
        Default1::By(Rule::Personality) => DOMAINS.contains(&first),
        Default1::By(Rule::Socket) => first < 46 && ![12, 19, 20, 23, 25, 34, 37, 38, 40].contains(&first),
        Default1::By(Rule::Ioctl) => second != 0x5412 && second != 0x541c,
    };
    if yes { ALLOW } else { EPERM_CODE }
}

#[test]
fn default_1_is_the_profile_for_every_number() {
    let arguments = [
        [0; 6],
        [1; 6],
        [0x5412; 6],
        [0x541c; 6],
        [0x1_0000_5412; 6], // The kernel ignores the high half, so must we.
        [40; 6],
        [0x7_0000_0028; 6],
        [38; 6],
        [u64::MAX; 6],
        [0xffff_ffff; 6],
        [0x0002_0008; 6],
        [0x1000_0000; 6], // CLONE_NEWUSER
        [0x0001_0011; 6],
        [0x80; 6],
    ];
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        for capabilities in [&[][..], &[C::SysAdmin], &[C::SysPtrace, C::Bpf], &[C::SysChroot, C::Mknod], C::ALL] {
            let program = program(&Seccomp::Default1, capabilities, architecture);
            for number in (0..1024).chain([0x4000_0000, 0x4000_0001, 0x4000_0200, u32::MAX, u32::MAX - 1, 1 << 31]) {
                for arguments in arguments {
                    let (verdict, _) = run(&program, audit(architecture), number, arguments);
                    assert_eq!(
                        verdict,
                        expected(number, arguments, capabilities, architecture),
                        "{number} {arguments:x?}"
                    );
                }
            }
            assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]).0, KILL, "i386");
        }
    }
}

#[test]
fn default_1_is_short_and_flat() {
    let rkt = [C::Chown, C::SysChroot, C::Mknod, C::NetRaw];
    let program = program(&Seccomp::Default1, &rkt, Architecture::X86_64);
    let longest = (0..512).map(|number| run(&program, audit(Architecture::X86_64), number, [0; 6]).1).max().unwrap();
    assert!(program.len() < 140, "{} instructions", program.len());
    assert!(longest <= 20, "{longest} steps");
}

#[test]
fn known_verdicts() {
    let default = program(&Seccomp::Default1, &[C::SysChroot], Architecture::X86_64);
    for (name, arguments, verdict) in [
        ("read", [0; 6], ALLOW),
        ("mount", [0; 6], EPERM_CODE),
        ("chroot", [0; 6], ALLOW),
        ("unshare", [0x200; 6], ALLOW), // CLONE_FS
        ("unshare", [0x2_0000; 6], EPERM_CODE),
        ("unshare", [0x80; 6], EPERM_CODE),
        ("clone3", [0; 6], ENOSYS),
        ("clone", [0x11; 6], ALLOW),
        ("clone", [0x1000_0011; 6], EPERM_CODE),
        ("keyctl", [0; 6], EPERM_CODE),
        ("io_uring_setup", [0; 6], EPERM_CODE),
        ("bpf", [0; 6], EPERM_CODE),
        ("socket", [40, 1, 0, 0, 0, 0], EPERM_CODE),
        ("socket", [2, 1, 0, 0, 0, 0], ALLOW),
        ("ioctl", [0, 0x5412, 0, 0, 0, 0], EPERM_CODE),
        ("ioctl", [0, 0x5401, 0, 0, 0, 0], ALLOW),
    ] {
        let number = syscalls::find(name).unwrap().number(Architecture::X86_64).unwrap();
        assert_eq!(run(&default, audit(Architecture::X86_64), number, arguments).0, verdict, "{name} {arguments:x?}");
    }
}

#[test]
fn bad_lists_are_refused() {
    let list = |name: &str, errno| Seccomp::Retain { syscalls: vec![name.to_owned()], errno, within_default: false };
    assert!(compile(&list("raed", None), &[]).is_err());
    for errno in [0, -1, 4096] {
        assert!(compile(&list("read", Some(errno)), &[]).is_err());
    }
    assert!(compile(&Seccomp::Unconfined, &[]).unwrap().is_empty());
}

fn some_names() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(0..syscalls::all().len(), 0..200)
        .prop_map(|indices| indices.into_iter().map(|index| syscalls::all()[index].name.to_owned()).collect())
}

proptest! {
    #[test]
    fn lists_hold_for_every_number(names in some_names(), errno in proptest::option::of(1..4096i32), retain: bool) {
        let refused = errno.map_or(KILL, |errno| libc::SECCOMP_RET_ERRNO | errno as u32);
        let seccomp = if retain {
            Seccomp::Retain { syscalls: names.clone(), errno, within_default: false }
        } else {
            Seccomp::Remove { syscalls: names.clone(), errno, within_default: false }
        };
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let program = program(&seccomp, &[], architecture);
            prop_assert!(program.len() <= 4096);
            for number in 0..600 {
                let found = syscalls::all().iter().find(|syscall| syscall.number(architecture) == Some(number));
                let listed = found.is_some_and(|syscall| names.iter().any(|name| name == syscall.name));
                let implied = found.is_some_and(|syscall| IMPLIED.contains(&syscall.name));
                let allowed = if retain { listed || implied } else { !listed };
                let (verdict, _) = run(&program, audit(architecture), number, [0; 6]);
                prop_assert_eq!(verdict, if allowed { ALLOW } else { refused });
                if found.is_some_and(|syscall| syscall.name == "ioctl") && allowed {
                    prop_assert_eq!(run(&program, audit(architecture), number, [0x5412; 6]).0, EPERM_CODE);
                }
            }
        }
    }

    #[test]
    fn ranges_are_maps(sets in proptest::collection::vec((0..40u32, 0..40u32, 0..3u8), 0..30)) {
        let mut ranges = Ranges::new(9);
        let mut plain = [9; 64];
        for (one, other, value) in sets {
            let (first, last) = (one.min(other), one.max(other));
            ranges.set(first, last, value);
            plain[first as usize..=last as usize].fill(value);
        }
        for (number, value) in plain.iter().enumerate() {
            prop_assert_eq!(ranges.get(number as u32), value);
        }
    }
}
