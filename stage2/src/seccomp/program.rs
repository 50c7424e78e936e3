//! From ranges of numbers to the instructions of a classic BPF program.
//!
//! The program is written from its end to its start, because a jump can only lead forward and its target is then known.

use contract::syscalls::Architecture;
use libc::sock_filter;

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Carries it out.
    Allow,
    /// Returns this error instead.
    Errno(u16),
    /// Kills the process by SIGSYS.
    Kill,
}

impl Action {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// A decision about one system call. Of an argument only the low 32 bits are looked at, as the kernel does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Whatever the arguments are.
    Always(Action),
    /// By bits of an argument.
    Bits {
        /// Which argument, from 0.
        argument: u32,
        /// Mask.
        any_of: u32,
        /// When one of the bits is set.
        then: Action,
        /// When none is.
        otherwise: Action,
    },
    /// By the value of an argument.
    Value {
        /// Which argument, from 0.
        argument: u32,
        /// What follows from each value.
        values: Ranges<Action>,
    },
}

/// A total map from numbers to `T`: each entry holds from its number up to the next one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges<T>(Vec<(u32, T)>);

impl<T: Clone + PartialEq> Ranges<T> {
    /// The same for all numbers.
    pub(super) fn new(all: T) -> Self {
        Self(vec![(0, all)])
    }

    /// Changes what holds from `first` to `last`, both included.
    pub(super) fn set(&mut self, first: u32, last: u32, value: T) {
        let after = last.checked_add(1).map(|next| (next, self.get(next).clone()));
        let start = self.0.partition_point(|(number, _)| *number < first);
        let end = self.0.partition_point(|(number, _)| *number <= last);
        // A start that is exactly at `last + 1` stays where it is.
        let after = after.filter(|(next, _)| self.0.get(end).is_none_or(|(number, _)| number != next));
        self.0.splice(start..end, [(first, value)].into_iter().chain(after));
        self.0.dedup_by(|right, left| right.1 == left.1);
    }

    /// What holds for `number`.
    pub(super) fn get(&self, number: u32) -> &T {
        &self.0[self.0.partition_point(|(start, _)| *start <= number) - 1].1
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const GOTO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64: ELF machine, 64 bits, little endian.
pub(super) const fn audit(architecture: Architecture) -> u32 {
    match architecture {
        Architecture::X86_64 => 0xc000_003e,
        Architecture::Aarch64 => 0xc000_00b7,
    }
}

/// The program for these decisions. Calls of another architecture, such as i386 ones, have other numbers: they kill. x32
/// ones are numbers of their own far above all others, so they are treated as unknown ones.
pub(super) fn assemble(decisions: &Ranges<Test>, architecture: Architecture) -> Vec<sock_filter> {
    let mut code = Reversed::default();
    let foreign = code.leaf(Action::Kill);
    let start = code.tree(&decisions.0, &mut |code, test| code.test(test));
    code.goto(start);
    code.push(LOAD, 0, 0, NUMBER);
    let next = code.here();
    code.branch(IF_EQUAL, audit(architecture), next, foreign);
    code.push(LOAD, 0, 0, ARCHITECTURE);
    code.finish()
}

/// A position in the program, counted from its end.
type Label = usize;

#[derive(Default)]
struct Reversed {
    code: Vec<sock_filter>,
    /// The last place of each action's return instruction.
    leaves: Vec<(Action, Label)>,
}

impl Reversed {
    /// The label of the instruction that was pushed last.
    fn here(&self) -> Label {
        self.code.len() - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.code.push(sock_filter { code, jt, jf, k });
        self.here()
    }

    /// How far the next instruction is before `label`.
    fn distance(&self, label: Label) -> usize {
        self.code.len() - label - 1
    }

    /// Makes the next instruction be followed by `label`.
    fn goto(&mut self, label: Label) {
        match self.distance(label) {
            0 => {}
            far => {
                self.push(GOTO, 0, 0, u32::try_from(far).expect("programs have at most 4096 instructions"));
            }
        }
    }

    /// A label that a conditional jump, pushed within the next few instructions, can reach: their offsets have 8 bits.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) < 250 {
            return label;
        }
        self.goto(label);
        self.here()
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let offset = |label| u8::try_from(self.distance(label)).expect("`near` made it so");
        let (jt, jf) = (offset(yes), offset(no));
        self.push(code, jt, jf, k)
    }

    /// A return instruction for `action`; one that is near enough is shared.
    fn leaf(&mut self, action: Action) -> Label {
        if let Some((_, label)) = self.leaves.iter().rev().find(|(other, _)| *other == action)
            && self.distance(*label) < 200
        {
            return *label;
        }
        let label = self.push(RETURN, 0, 0, action.code());
        self.leaves.push((action, label));
        label
    }

    fn test(&mut self, test: &Test) -> Label {
        match test {
            Test::Always(action) => self.leaf(*action),
            Test::Bits { argument, any_of, then, otherwise } => {
                let (then, otherwise) = (self.leaf(*then), self.leaf(*otherwise));
                self.branch(IF_ANY_BIT, *any_of, then, otherwise);
                self.push(LOAD, 0, 0, ARGUMENTS + 8 * argument)
            }
            Test::Value { argument, values } => {
                let start = self.tree(&values.0, &mut |code, action| code.leaf(*action));
                self.goto(start);
                self.push(LOAD, 0, 0, ARGUMENTS + 8 * argument)
            }
        }
    }

    /// A balanced tree over the starts of ranges; `each` writes what a range leads to.
    fn tree<T>(&mut self, ranges: &[(u32, T)], each: &mut impl FnMut(&mut Self, &T) -> Label) -> Label {
        if let [(_, only)] = ranges {
            return each(self, only);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let yes = self.tree(high, each);
        let no = self.tree(low, each);
        self.branch(IF_GREATER_OR_EQUAL, high[0].0, yes, no)
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.code.reverse();
        self.code
    }
}
