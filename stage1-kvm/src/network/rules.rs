//! The rules of nftables that join interfaces: for each device one chain at its ingress, with one rule that forwards every
//! frame. linux/netfilter/nf_tables.h; numbers in attributes are big-endian there.

use netlink::uapi::*;
use netlink::{Message, Socket};
use rustix::io::Errno;

const TABLE: &str = "pod";
/// After all others at this place, so that filters of the namespace's maker see the frames first.
const PRIORITY_LAST: i32 = i32::MAX;

/// Forwards what arrives at each named device to the device of this number, as long as the socket is open.
pub(super) fn forward(pairs: &[[(String, u32); 2]]) -> Result<Socket, Errno> {
    let socket = Socket::netfilter()?;
    let mut messages = vec![
        Message::without_answer(NFNL_MSG_BATCH_BEGIN, &head(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES)),
        // NFT_TABLE_F_OWNER: the kernel deletes the table when this socket is closed.
        request(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL)
            .with_text(NFTA_TABLE_NAME, TABLE)
            .with(NFTA_TABLE_FLAGS, &NFT_TABLE_F_OWNER.to_be_bytes()),
    ];
    for (from, to) in pairs.iter().flatten() {
        messages.push(chain(from));
        messages.push(rule(from, *to));
    }
    messages.push(Message::without_answer(NFNL_MSG_BATCH_END, &head(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES)));
    socket.execute(&messages.iter().collect::<Vec<_>>())?;
    Ok(socket)
}

/// struct nfgenmsg.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A request about the tables of devices.
fn request(message: u16, flags: u16) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | message, flags, &head(NFPROTO_NETDEV, 0))
}

fn chain(device: &str) -> Message {
    request(NFT_MSG_NEWCHAIN, NLM_F_CREATE)
        .with_text(NFTA_CHAIN_TABLE, TABLE)
        .with_text(NFTA_CHAIN_NAME, device)
        .with_nested(NFTA_CHAIN_HOOK, |hook| {
            hook.with(NFTA_HOOK_HOOKNUM, &NF_NETDEV_INGRESS.to_be_bytes())
                .with(NFTA_HOOK_PRIORITY, &PRIORITY_LAST.to_be_bytes())
                .with_text(NFTA_HOOK_DEV, device)
        })
        .with_text(NFTA_CHAIN_TYPE, "filter")
}

/// Loads the number of the device into a register and forwards to it.
fn rule(chain: &str, to: u32) -> Message {
    let expression = |list: Message, name: &str, data: &dyn Fn(Message) -> Message| {
        list.with_nested(NFTA_LIST_ELEM, |element| {
            element.with_text(NFTA_EXPR_NAME, name).with_nested(NFTA_EXPR_DATA, data)
        })
    };
    let register = NFT_REG_1.to_be_bytes();
    request(NFT_MSG_NEWRULE, NLM_F_CREATE)
        .with_text(NFTA_RULE_TABLE, TABLE)
        .with_text(NFTA_RULE_CHAIN, chain)
        .with_nested(NFTA_RULE_EXPRESSIONS, |list| {
            let list = expression(list, "immediate", &|data| {
                data.with(NFTA_IMMEDIATE_DREG, &register)
                    .with_nested(NFTA_IMMEDIATE_DATA, |value| value.with(NFTA_DATA_VALUE, &to.to_ne_bytes()))
            });
            expression(list, "fwd", &|data| data.with(NFTA_FWD_SREG_DEV, &register))
        })
}
