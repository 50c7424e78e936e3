//! The guest's network: loopback, and the cards as the interfaces of the pod's network namespace were. The namespace has
//! found out already that its addresses are nobody else's, so they are usable at once.

use crate::netlink::{APPEND, CREATE, EXCLUSIVE, Message, Socket, attributes, u32_at};
use anyhow::{Context, Result, bail};
use contract::guest::{Address, Interface, Neighbour, Network, Route};
use rustix::io::Errno;
use std::collections::HashMap;
use std::net::IpAddr;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;

/// The loopback interface is the first that a kernel makes.
const LOOPBACK: u32 = 1;
const IFF_UP: u32 = 1;
/// struct ifinfomsg.
const LINK_HEAD_BYTES: usize = 16;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_OF_FAMILIES: u16 = 26;
/// In AF_INET6's part: how it makes addresses by itself.
const GENERATION: u16 = 8;
const GENERATE_NONE: u8 = 1;

const ADDRESS_PEER: u16 = 1;
const ADDRESS_OWN: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_FLAGS: u16 = 8;
/// No probing for a duplicate, and no route: routes are all named.
const FLAGS_OF_ADDRESSES: u32 = 0x02 | 0x200;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_METRIC: u16 = 6;
const ROUTE_SOURCE: u16 = 7;
const ROUTE_VIA: u16 = 18;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const ON_LINK: u32 = 4;

const NEIGHBOUR_IP: u16 = 1;
const NEIGHBOUR_ADDRESS: u16 = 2;
const NEIGHBOUR_PERMANENT: u16 = 0x80;

/// Brings loopback up, and the cards if there are any.
pub(super) fn up(network: Option<&Network>) -> Result<()> {
    let kernel = Socket::route().context("speak with the kernel about interfaces")?;
    set_link(&kernel, LOOPBACK, IFF_UP, |message| message).context("bring up the loopback interface")?;
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
        set_link(&kernel, *index, 0, |message| message.with_text(LINK_NAME, &name)).context("rename a card")?;
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
    kernel.dump(Message::new(GET_LINK, 0, &[0; LINK_HEAD_BYTES]), |_, body| {
        let address = attributes(body, LINK_HEAD_BYTES).find(|(kind, _)| *kind == LINK_ADDRESS);
        let address = address.and_then(|(_, bytes)| <[u8; 6]>::try_from(bytes).ok());
        if let (Some(address), Some(index)) = (address, u32_at(body, 4).filter(|index| *index != LOOPBACK)) {
            found.insert(address, index);
        }
    })?;
    Ok(found)
}

/// Sets these flags of an interface, and the attributes that `more` adds.
fn set_link(kernel: &Socket, index: u32, flags: u32, more: impl FnOnce(Message) -> Message) -> Result<(), Errno> {
    let mut head = [0; LINK_HEAD_BYTES];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes()); // Which of them count.
    kernel.execute(&[&more(Message::new(NEW_LINK, 0, &head))])
}

fn set_up(kernel: &Socket, index: u32, interface: &Interface) -> Result<()> {
    set_link(kernel, index, 0, |message| {
        message.with_text(LINK_NAME, &interface.name).with(LINK_MTU, &interface.mtu_bytes.to_ne_bytes())
    })
    .context("set name and MTU")?;
    // All addresses are named, those of the link too. A kernel without IPv6 has nothing to be told.
    let no_own_addresses = |message: Message| {
        message.with_nested(LINK_OF_FAMILIES, |families| {
            families.with_nested(FAMILY_6.into(), |family| family.with(GENERATION, &[GENERATE_NONE]))
        })
    };
    match set_link(kernel, index, 0, no_own_addresses) {
        Ok(()) | Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error).context("keep IPv6 from making addresses"),
    }
    set_link(kernel, index, IFF_UP, |message| message).context("bring it up")?;
    for address in &interface.addresses {
        let added = add_address(kernel, index, address);
        added.with_context(|| format!("give it the address {}/{}", address.ip, address.prefix_bits))?;
    }
    Ok(())
}

fn add_address(kernel: &Socket, index: u32, address: &Address) -> Result<(), Errno> {
    let mut head = [family(address.ip), address.prefix_bits, 0, address.scope, 0, 0, 0, 0];
    head[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &head)
        .with(ADDRESS_OWN, &octets(address.ip))
        .with(ADDRESS_PEER, &octets(address.peer.unwrap_or(address.ip)))
        .with(ADDRESS_FLAGS, &FLAGS_OF_ADDRESSES.to_ne_bytes());
    if let Some(broadcast) = address.broadcast {
        message = message.with(ADDRESS_BROADCAST, &broadcast.octets());
    }
    kernel.execute(&[&message])
}

fn add_route(kernel: &Socket, index: Option<u32>, route: &Route) -> Result<(), Errno> {
    let flags = if route.on_link { ON_LINK } else { 0 };
    let mut head = [
        family(route.destination),
        route.prefix_bits,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        route.scope,
        route.kind,
        0,
        0,
        0,
        0,
    ];
    head[8..].copy_from_slice(&flags.to_ne_bytes());
    // Routes that differ in their router alone are appended, as the namespace has them.
    let mut message = Message::new(NEW_ROUTE, CREATE | APPEND, &head);
    if route.prefix_bits > 0 {
        message = message.with(ROUTE_DESTINATION, &octets(route.destination));
    }
    if let Some(index) = index {
        message = message.with(ROUTE_INTERFACE, &index.to_ne_bytes());
    }
    if let Some(source) = route.source {
        message = message.with(ROUTE_SOURCE, &octets(source));
    }
    if route.metric != 0 {
        message = message.with(ROUTE_METRIC, &route.metric.to_ne_bytes());
    }
    message = match route.gateway {
        None => message,
        Some(gateway) if family(gateway) == family(route.destination) => message.with(ROUTE_GATEWAY, &octets(gateway)),
        // struct rtvia: the family, and the address of a router that speaks another protocol than its packets.
        Some(gateway) => {
            message.with(ROUTE_VIA, &[&u16::from(family(gateway)).to_ne_bytes()[..], &octets(gateway)].concat())
        }
    };
    kernel.execute(&[&message])
}

fn add_neighbour(kernel: &Socket, index: u32, neighbour: &Neighbour) -> Result<(), Errno> {
    let mut head = [family(neighbour.ip), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..10].copy_from_slice(&NEIGHBOUR_PERMANENT.to_ne_bytes());
    let message = Message::new(NEW_NEIGHBOUR, CREATE, &head);
    kernel.execute(&[&message
        .with(NEIGHBOUR_IP, &octets(neighbour.ip))
        .with(NEIGHBOUR_ADDRESS, &neighbour.hardware_address)])
}

const FAMILY_4: u8 = 2;
const FAMILY_6: u8 = 10;

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { FAMILY_4 } else { FAMILY_6 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
