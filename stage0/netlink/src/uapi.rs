//! The kernel's constants by the kernel's names, in the types of the fields that they stand in. Values are libc's, or those of
//! the header that is named where libc has none.

use libc::c_int;

/// The constants of libc that stand in 16-bit fields and have another type there.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // All are between 0 and 0xffff.
const fn short(value: c_int) -> u16 {
    value as u16
}

macro_rules! shorts {
    ($($name:ident)*) => { $(#[allow(missing_docs)] pub const $name: u16 = short(libc::$name);)* };
}

macro_rules! values {
    ($($name:ident: $kind:ty = $value:expr;)*) => { $(#[allow(missing_docs)] pub const $name: $kind = $value;)* };
}

// linux/netlink.h
shorts!(NLMSG_ERROR NLMSG_DONE NLM_F_REQUEST NLM_F_ACK NLM_F_DUMP NLM_F_DUMP_INTR NLM_F_CREATE NLM_F_EXCL NLM_F_APPEND);
shorts!(NLA_F_NESTED);
values! {
    NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | short(libc::NLA_F_NET_BYTEORDER));
}

// linux/rtnetlink.h
pub use libc::{RT_TABLE_MAIN, RTM_F_CLONED, RTN_UNICAST, RTPROT_STATIC};
pub use libc::{RTA_DST, RTA_GATEWAY, RTA_MULTIPATH, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTA_VIA};
pub use libc::{
    RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE,
};
values! {
    RTPROT_RA: u8 = 9;
    RTNH_F_ONLINK: u32 = 4;
}

// linux/if_link.h, linux/if.h, linux/if_arp.h
pub use libc::{ARPHRD_ETHER, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_IFNAME, IFLA_MASTER, IFLA_MTU};
values! {
    IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    IFF_UP: u32 = 1;
    IFF_LOOPBACK: u32 = 8;
}

// linux/if_addr.h
pub use libc::{IFA_ADDRESS, IFA_BROADCAST, IFA_F_DADFAILED, IFA_F_NODAD, IFA_F_PERMANENT, IFA_LOCAL};
values! {
    IFA_FLAGS: u16 = 8;
    IFA_F_NOPREFIXROUTE: u32 = 0x200;
}

// linux/neighbour.h
pub use libc::{NDA_DST, NDA_LLADDR, NUD_PERMANENT};

// linux/socket.h
values! {
    AF_INET: u8 = 2;
    AF_INET6: u8 = 10;
}

// linux/netfilter/nfnetlink.h, linux/netfilter.h
shorts!(NFNL_SUBSYS_NFTABLES NFNL_MSG_BATCH_BEGIN NFNL_MSG_BATCH_END NFT_MSG_NEWTABLE NFT_MSG_NEWCHAIN NFT_MSG_NEWRULE);
values! {
    NFPROTO_UNSPEC: u8 = 0;
    NFPROTO_NETDEV: u8 = 5;
    NF_NETDEV_INGRESS: u32 = 0;
}

// linux/netfilter/nf_tables.h; numbers in attributes are big-endian there.
values! {
    NFT_TABLE_F_OWNER: u32 = 2;
    NFT_REG_1: u32 = 1;
    NFTA_TABLE_NAME: u16 = 1;
    NFTA_TABLE_FLAGS: u16 = 2;
    NFTA_CHAIN_TABLE: u16 = 1;
    NFTA_CHAIN_NAME: u16 = 3;
    NFTA_CHAIN_HOOK: u16 = 4;
    NFTA_CHAIN_TYPE: u16 = 7;
    NFTA_HOOK_HOOKNUM: u16 = 1;
    NFTA_HOOK_PRIORITY: u16 = 2;
    NFTA_HOOK_DEV: u16 = 3;
    NFTA_RULE_TABLE: u16 = 1;
    NFTA_RULE_CHAIN: u16 = 2;
    NFTA_RULE_EXPRESSIONS: u16 = 4;
    NFTA_LIST_ELEM: u16 = 1;
    NFTA_EXPR_NAME: u16 = 1;
    NFTA_EXPR_DATA: u16 = 2;
    NFTA_IMMEDIATE_DREG: u16 = 1;
    NFTA_IMMEDIATE_DATA: u16 = 2;
    NFTA_DATA_VALUE: u16 = 1;
    NFTA_FWD_SREG_DEV: u16 = 1;
}

/// Bytes of `struct ifinfomsg`.
pub const IFINFOMSG_BYTES: usize = 16;
/// Bytes of `struct ifaddrmsg`.
pub const IFADDRMSG_BYTES: usize = 8;
/// Bytes of `struct rtmsg`.
pub const RTMSG_BYTES: usize = 12;
/// Bytes of `struct ndmsg`.
pub const NDMSG_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_libc_has_too() {
        assert_eq!(c_int::from(AF_INET), libc::AF_INET);
        assert_eq!(c_int::from(AF_INET6), libc::AF_INET6);
        assert_eq!(i64::from(IFF_UP), i64::from(libc::IFF_UP));
        assert_eq!(i64::from(IFF_LOOPBACK), i64::from(libc::IFF_LOOPBACK));
        assert_eq!(c_int::from(NFPROTO_NETDEV), libc::NFPROTO_NETDEV);
        assert_eq!(i64::from(NFT_REG_1), i64::from(libc::NFT_REG_1));
        assert_eq!(NLA_TYPE_MASK, 0x3fff);
    }
}
