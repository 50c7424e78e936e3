//! The guest's network: loopback, and the cards as the interfaces of the pod's network namespace were. The namespace has
//! found out already that its addresses are nobody else's, so they are usable at once.

use anyhow::{Context, Result, bail};
use contract::guest::{Address, Interface, Neighbour, Network, Route};
use netlink::link::{self, Link};
use netlink::uapi::{
    AF_INET, AF_INET6, IFA_ADDRESS, IFA_BROADCAST, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFA_FLAGS, IFA_LOCAL, IFF_UP,
    IFINFOMSG_BYTES, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, NDA_DST, NDA_LLADDR, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
    NUD_PERMANENT, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_VIA, RTM_GETLINK,
    RTM_NEWADDR, RTM_NEWNEIGH, RTM_NEWROUTE, RTNH_F_ONLINK, RTPROT_STATIC,
};
use netlink::{Message, Socket, attribute, u32_at};
use rustix::io::Errno;
use std::collections::HashMap;
use std::net::IpAddr;

/// The loopback interface is the first that a kernel makes.
const LOOPBACK: Link<'static> = Link::Index(1);
const LOOPBACK_INDEX: u32 = 1;
/// No probing for a duplicate, and no route: routes are all named.
const FLAGS_OF_ADDRESSES: u32 = IFA_F_NODAD | IFA_F_NOPREFIXROUTE;

/// Brings loopback up, and the cards if there are any.
pub(super) fn up(network: Option<&Network>) -> Result<()> {
    let kernel = Socket::route().context("speak with the kernel about interfaces")?;
    link::set(&kernel, LOOPBACK, IFF_UP, |message| message).context("bring up the loopback interface")?;
    let Some(network) = network else { return Ok(()) };
    let cards = cards(&kernel).context("look for network cards")?;
    let mut indices = HashMap::new();
    for interface in &network.interfaces {
        let Some(index) = cards.get(&interface.hardware_address) else {
            bail!("the guest has no card for interface `{}`; its kernel may lack virtio_net", interface.name);
        };
        indices.insert(interface.name.as_str(), *index);
    }
    // A name that is wanted may be another card's until all have given theirs up. No user can have chosen these.
    for index in indices.values() {
        let name = format!(".{index}");
        link::set(&kernel, Link::Index(*index), 0, |message| message.with_text(IFLA_IFNAME, &name))
            .context("rename a card")?;
    }
    for interface in &network.interfaces {
        let index = indices[interface.name.as_str()];
        set_up(&kernel, index, interface).with_context(|| format!("set up interface `{}`", interface.name))?;
    }
    for route in &network.routes {
        let index = route.interface.as_ref().map(|name| indices.get(name.as_str()).context("no such interface"));
        let added = index.transpose().and_then(|index| Ok(add_route(&kernel, index.copied(), route)?));
        added.with_context(|| format!("make the route to {}/{}", route.destination, route.prefix_bits))?;
    }
    for neighbour in &network.neighbours {
        let index = indices.get(neighbour.interface.as_str()).copied().context("no such interface");
        let added = index.and_then(|index| Ok(add_neighbour(&kernel, index, neighbour)?));
        added.with_context(|| format!("make the neighbour {}", neighbour.ip))?;
    }
    Ok(())
}

/// The guest's interfaces by their hardware addresses.
fn cards(kernel: &Socket) -> Result<HashMap<[u8; 6], u32>, Errno> {
    let mut found = HashMap::new();
    for (_, body) in kernel.dump(RTM_GETLINK, &[0; IFINFOMSG_BYTES])? {
        let address = attribute(&body, IFINFOMSG_BYTES, IFLA_ADDRESS);
        let address = address.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        if let (Some(address), Some(index)) = (address, u32_at(&body, 4).filter(|index| *index != LOOPBACK_INDEX)) {
            found.insert(address, index);
        }
    }
    Ok(found)
}

fn set_up(kernel: &Socket, index: u32, interface: &Interface) -> Result<()> {
    link::set(kernel, Link::Index(index), 0, |message| {
        message.with_text(IFLA_IFNAME, &interface.name).with(IFLA_MTU, &interface.mtu_bytes.to_ne_bytes())
    })
    .context("set name and MTU")?;
    // All addresses are named, those of the link too.
    link::no_generated_addresses(kernel, Link::Index(index)).context("keep IPv6 from making addresses")?;
    link::set(kernel, Link::Index(index), IFF_UP, |message| message).context("bring it up")?;
    for address in &interface.addresses {
        let added = add_address(kernel, index, address);
        added.with_context(|| format!("give it the address {}/{}", address.ip, address.prefix_bits))?;
    }
    Ok(())
}

fn add_address(kernel: &Socket, index: u32, address: &Address) -> Result<(), Errno> {
    let mut head = [family(address.ip), address.prefix_bits, 0, address.scope, 0, 0, 0, 0];
    head[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head)
        .with(IFA_LOCAL, &octets(address.ip))
        .with(IFA_ADDRESS, &octets(address.peer.unwrap_or(address.ip)))
        .with(IFA_FLAGS, &FLAGS_OF_ADDRESSES.to_ne_bytes());
    if let Some(broadcast) = address.broadcast {
        message = message.with(IFA_BROADCAST, &broadcast.octets());
    }
    kernel.execute(&[&message])
}

fn add_route(kernel: &Socket, index: Option<u32>, route: &Route) -> Result<(), Errno> {
    let flags = if route.on_link { RTNH_F_ONLINK } else { 0 };
    let mut head = [
        family(route.destination),
        route.prefix_bits,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        route.scope,
        route.kind,
        0,
        0,
        0,
        0,
    ];
    head[8..].copy_from_slice(&flags.to_ne_bytes());
    // Routes that differ in their router alone are appended, as the namespace has them.
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &head);
    if route.prefix_bits > 0 {
        message = message.with(RTA_DST, &octets(route.destination));
    }
    if let Some(index) = index {
        message = message.with(RTA_OIF, &index.to_ne_bytes());
    }
    if let Some(source) = route.source {
        message = message.with(RTA_PREFSRC, &octets(source));
    }
    if route.metric != 0 {
        message = message.with(RTA_PRIORITY, &route.metric.to_ne_bytes());
    }
    message = match route.gateway {
        None => message,
        Some(gateway) if family(gateway) == family(route.destination) => message.with(RTA_GATEWAY, &octets(gateway)),
        // struct rtvia: the family, and the address of a router that speaks another protocol than its packets.
        Some(gateway) => {
            message.with(RTA_VIA, &[&u16::from(family(gateway)).to_ne_bytes()[..], &octets(gateway)].concat())
        }
    };
    kernel.execute(&[&message])
}

fn add_neighbour(kernel: &Socket, index: u32, neighbour: &Neighbour) -> Result<(), Errno> {
    let mut head = [family(neighbour.ip), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE, &head);
    kernel.execute(&[&message.with(NDA_DST, &octets(neighbour.ip)).with(NDA_LLADDR, &neighbour.hardware_address)])
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
