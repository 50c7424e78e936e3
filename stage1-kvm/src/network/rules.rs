//! The rules of nftables that join interfaces: for each device one chain at its ingress, with one rule that forwards every
//! frame. linux/netfilter/nf_tables.h; numbers in attributes are big-endian there.

use rustix::io::Errno;
use stage2::netlink::{CREATE, EXCLUSIVE, Message, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// NFPROTO_NETDEV: tables of devices.
const FAMILY: u8 = 5;

const TABLE: &str = "pod";
/// The table goes when the socket that made it does.
const OWNER: u32 = 2;
/// After all others at this place, so that filters of the namespace's maker see the frames first.
const PRIORITY_LAST: i32 = i32::MAX;
const HOOK_INGRESS: u32 = 0;
const REGISTER: u32 = 1;

/// Forwards what arrives at each named device to the device of this number, as long as the socket is open.
pub(super) fn forward(pairs: &[[(String, u32); 2]]) -> Result<Socket, Errno> {
    let socket = Socket::netfilter()?;
    let mut messages = vec![
        Message::without_answer(BATCH_BEGIN, &head(0, NFTABLES)),
        Message::new(NEW_TABLE, CREATE | EXCLUSIVE, &head(FAMILY, 0)).with_text(1, TABLE).with(2, &OWNER.to_be_bytes()),
    ];
    for (from, to) in pairs.iter().flatten() {
        messages.push(chain(from));
        messages.push(rule(from, *to));
    }
    messages.push(Message::without_answer(BATCH_END, &head(0, NFTABLES)));
    socket.execute(&messages.iter().collect::<Vec<_>>())?;
    Ok(socket)
}

/// struct nfgenmsg.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn chain(device: &str) -> Message {
    Message::new(NEW_CHAIN, CREATE, &head(FAMILY, 0))
        .with_text(1, TABLE)
        .with_text(3, device)
        .with_nested(4, |hook| {
            hook.with(1, &HOOK_INGRESS.to_be_bytes()).with(2, &PRIORITY_LAST.to_be_bytes()).with_text(3, device)
        })
        .with_text(7, "filter")
}

/// Loads the number of the device into a register and forwards to it.
fn rule(chain: &str, to: u32) -> Message {
    let expression = |list: Message, name: &str, data: &dyn Fn(Message) -> Message| {
        list.with_nested(1, |element| element.with_text(1, name).with_nested(2, data))
    };
    Message::new(NEW_RULE, CREATE, &head(FAMILY, 0)).with_text(1, TABLE).with_text(2, chain).with_nested(4, |list| {
        let list = expression(list, "immediate", &|data| {
            data.with(1, &REGISTER.to_be_bytes()).with_nested(2, |value| value.with(1, &to.to_ne_bytes()))
        });
        expression(list, "fwd", &|data| data.with(1, &REGISTER.to_be_bytes()))
    })
}
