//! Names of the kernel's ABI that appear in `pod.json`: capabilities and resource limits.

use serde::{Deserialize, Serialize};

macro_rules! kernel_enum {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[repr(u8)]
        #[allow(missing_docs)] // The kernel's own names.
        pub enum $name {
            $(#[serde(rename = $text)] $variant = $number,)*
        }
        impl $name {
            /// All of them, in the kernel's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The kernel's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The kernel's number.
            pub const fn number(self) -> u8 {
                self as u8
            }
            /// By the kernel's name, exactly.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

kernel_enum!(
    /// capabilities(7).
    Capability {
        Chown = 0, "CAP_CHOWN";
        DacOverride = 1, "CAP_DAC_OVERRIDE";
        DacReadSearch = 2, "CAP_DAC_READ_SEARCH";
        Fowner = 3, "CAP_FOWNER";
        Fsetid = 4, "CAP_FSETID";
        Kill = 5, "CAP_KILL";
        Setgid = 6, "CAP_SETGID";
        Setuid = 7, "CAP_SETUID";
        Setpcap = 8, "CAP_SETPCAP";
        LinuxImmutable = 9, "CAP_LINUX_IMMUTABLE";
        NetBindService = 10, "CAP_NET_BIND_SERVICE";
        NetBroadcast = 11, "CAP_NET_BROADCAST";
        NetAdmin = 12, "CAP_NET_ADMIN";
        NetRaw = 13, "CAP_NET_RAW";
        IpcLock = 14, "CAP_IPC_LOCK";
        IpcOwner = 15, "CAP_IPC_OWNER";
        SysModule = 16, "CAP_SYS_MODULE";
        SysRawio = 17, "CAP_SYS_RAWIO";
        SysChroot = 18, "CAP_SYS_CHROOT";
        SysPtrace = 19, "CAP_SYS_PTRACE";
        SysPacct = 20, "CAP_SYS_PACCT";
        SysAdmin = 21, "CAP_SYS_ADMIN";
        SysBoot = 22, "CAP_SYS_BOOT";
        SysNice = 23, "CAP_SYS_NICE";
        SysResource = 24, "CAP_SYS_RESOURCE";
        SysTime = 25, "CAP_SYS_TIME";
        SysTtyConfig = 26, "CAP_SYS_TTY_CONFIG";
        Mknod = 27, "CAP_MKNOD";
        Lease = 28, "CAP_LEASE";
        AuditWrite = 29, "CAP_AUDIT_WRITE";
        AuditControl = 30, "CAP_AUDIT_CONTROL";
        Setfcap = 31, "CAP_SETFCAP";
        MacOverride = 32, "CAP_MAC_OVERRIDE";
        MacAdmin = 33, "CAP_MAC_ADMIN";
        Syslog = 34, "CAP_SYSLOG";
        WakeAlarm = 35, "CAP_WAKE_ALARM";
        BlockSuspend = 36, "CAP_BLOCK_SUSPEND";
        AuditRead = 37, "CAP_AUDIT_READ";
        Perfmon = 38, "CAP_PERFMON";
        Bpf = 39, "CAP_BPF";
        CheckpointRestore = 40, "CAP_CHECKPOINT_RESTORE";
    }
);

kernel_enum!(
    /// Resource numbers of getrlimit(2), as on x86_64 and aarch64.
    Resource {
        Cpu = 0, "RLIMIT_CPU";
        Fsize = 1, "RLIMIT_FSIZE";
        Data = 2, "RLIMIT_DATA";
        Stack = 3, "RLIMIT_STACK";
        Core = 4, "RLIMIT_CORE";
        Rss = 5, "RLIMIT_RSS";
        Nproc = 6, "RLIMIT_NPROC";
        Nofile = 7, "RLIMIT_NOFILE";
        Memlock = 8, "RLIMIT_MEMLOCK";
        As = 9, "RLIMIT_AS";
        Locks = 10, "RLIMIT_LOCKS";
        Sigpending = 11, "RLIMIT_SIGPENDING";
        Msgqueue = 12, "RLIMIT_MSGQUEUE";
        Nice = 13, "RLIMIT_NICE";
        Rtprio = 14, "RLIMIT_RTPRIO";
        Rttime = 15, "RLIMIT_RTTIME";
    }
);
