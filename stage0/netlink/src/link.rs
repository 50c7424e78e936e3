//! Requests about network interfaces (rtnetlink(7)) that more than one stage makes.

use crate::uapi::{
    AF_INET6, IFINFOMSG_BYTES, IFLA_AF_SPEC, IFLA_IFNAME, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE, RTM_NEWLINK,
};
use crate::{Message, Socket};
use rustix::io::Errno;

/// Which interface a request is about.
#[derive(Clone, Copy, Debug)]
pub enum Link<'a> {
    /// By its number.
    Index(u32),
    /// By its name.
    Name(&'a str),
}

/// Sets these `IFF_` flags of an interface, leaves the others, and sets the attributes that `more` adds.
///
/// # Errors
/// ENODEV for no such interface, EPERM without CAP_NET_ADMIN, and what the kernel says of the attributes.
pub fn set(kernel: &Socket, link: Link<'_>, flags: u32, more: impl FnOnce(Message) -> Message) -> Result<(), Errno> {
    let mut head = [0; IFINFOMSG_BYTES];
    if let Link::Index(index) = link {
        head[4..8].copy_from_slice(&index.to_ne_bytes()); // ifi_index
    }
    head[8..12].copy_from_slice(&flags.to_ne_bytes()); // ifi_flags
    head[12..].copy_from_slice(&flags.to_ne_bytes()); // ifi_change
    let mut message = Message::new(RTM_NEWLINK, 0, &head);
    if let Link::Name(name) = link {
        message = message.with_text(IFLA_IFNAME, name);
    }
    kernel.execute(&[&more(message)])
}

/// Keeps IPv6 from giving the interface a link-local address. A kernel without IPv6 has nothing to be told.
///
/// # Errors
/// As [`set`].
pub fn no_generated_addresses(kernel: &Socket, link: Link<'_>) -> Result<(), Errno> {
    let generate_none = |message: Message| {
        message.with_nested(IFLA_AF_SPEC, |families| {
            families
                .with_nested(AF_INET6.into(), |family| family.with(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]))
        })
    };
    match set(kernel, link, 0, generate_none) {
        Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}
