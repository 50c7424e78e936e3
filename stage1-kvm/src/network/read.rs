//! What is in a network namespace, by rtnetlink(7): interfaces that are up, and what belongs to them. What a guest could not be
//! given is refused by name, never left out in silence; what the kernel makes by itself, or learns from advertisements that the
//! guest hears too, is left to the guest's kernel.

use anyhow::{Context, Result, bail, ensure};
use contract::guest::{Address, INTERFACES_MAX, Interface, Neighbour, Network, Route};
use rustix::io::Errno;
use stage2::netlink::{Message, Socket, attributes, u16_at, u32_at};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const GET_NEIGHBOUR: u16 = 30;

/// Bytes of the structures that messages begin with.
const LINK_HEAD: usize = 16;
const ADDRESS_HEAD: usize = 8;
const ROUTE_HEAD: usize = 12;
const NEIGHBOUR_HEAD: usize = 12;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const ETHERNET: u16 = 1;
const FAMILY_4: u8 = 2;
const FAMILY_6: u8 = 10;
/// An address that does not go away by itself, and one that another host has, too.
const ADDRESS_PERMANENT: u32 = 0x80;
const ADDRESS_DUPLICATE: u32 = 8;
const TABLE_MAIN: u32 = 254;
const PROTOCOL_ADVERTISEMENT: u8 = 9;
const ROUTE_CLONED: u32 = 0x200;
const ON_LINK: u32 = 4;
const NEIGHBOUR_PERMANENT: u16 = 0x80;
/// More than a guest is told of; a router is not what a pod is.
const ENTRIES_MAX: usize = 1024;

/// What a dump gives a body of.
type Bodies = Vec<Vec<u8>>;

/// Everything of this thread's namespace, and the numbers of its interfaces.
pub(super) fn network(kernel: &Socket) -> Result<(Network, Vec<u32>)> {
    let links = dump(kernel, GET_LINK, LINK_HEAD).context("list the interfaces")?;
    let mut found: Vec<(u32, Interface)> = Vec::new();
    for body in &links {
        found.extend(interface(body)?);
    }
    ensure!(
        found.len() <= INTERFACES_MAX,
        "the namespace has {} interfaces beside loopback; a microVM has at most {INTERFACES_MAX}",
        found.len()
    );
    for (place, (_, one)) in found.iter().enumerate() {
        if let Some((_, other)) =
            found[..place].iter().find(|(_, other)| other.hardware_address == one.hardware_address)
        {
            bail!("interfaces `{}` and `{}` have the same hardware address", other.name, one.name);
        }
    }
    for body in dump(kernel, GET_ADDRESS, ADDRESS_HEAD).context("list the addresses")? {
        let owner = u32_at(&body, 4).and_then(|index| found.iter_mut().find(|(number, _)| *number == index));
        if let (Some((_, interface)), Some(address)) = (owner, address(&body)) {
            interface.addresses.push(address);
        }
    }
    let names: HashMap<u32, String> = found.iter().map(|(index, interface)| (*index, interface.name.clone())).collect();
    let mut routes = Vec::new();
    for body in dump(kernel, GET_ROUTE, ROUTE_HEAD).context("list the routes")? {
        routes.extend(route(&body, &names)?);
    }
    // A router must be reachable before a route over it can be made. The sort is stable.
    routes.sort_by_key(|route| route.gateway.is_some());
    let neighbours: Vec<Neighbour> = dump(kernel, GET_NEIGHBOUR, NEIGHBOUR_HEAD)
        .context("list the neighbours")?
        .iter()
        .filter_map(|body| neighbour(body, &names))
        .collect();
    let addresses = found.iter().map(|(_, interface)| interface.addresses.len()).sum::<usize>();
    let entries = addresses + routes.len() + neighbours.len();
    ensure!(entries <= ENTRIES_MAX, "the namespace has {entries} addresses, routes and neighbours; {ENTRIES_MAX} fit");
    let (indices, interfaces) = found.into_iter().unzip();
    Ok((Network { interfaces, routes, neighbours }, indices))
}

/// The number of the interface of this name.
pub(super) fn index(kernel: &Socket, name: &str) -> Result<u32> {
    let links = dump(kernel, GET_LINK, LINK_HEAD).context("list the interfaces")?;
    let found = links.iter().find(|body| text(body, LINK_HEAD, 3).as_deref() == Some(name));
    found.and_then(|body| u32_at(body, 4)).with_context(|| format!("no interface `{name}`"))
}

/// A dump that somebody changed things under is taken again.
fn dump(kernel: &Socket, kind: u16, head: usize) -> Result<Bodies, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..3 {
        let mut bodies = Vec::new();
        result = kernel.dump(Message::new(kind, 0, &vec![0; head]), |_, body| bodies.push(body.to_vec()));
        match result {
            Ok(()) => return Ok(bodies),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    result.map(|()| Vec::new())
}

/// None for loopback, for what is down, and for a part of another interface (a bridge's port).
fn interface(body: &[u8]) -> Result<Option<(u32, Interface)>> {
    const HARDWARE_ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const MASTER: u16 = 10;
    let flags = u32_at(body, 8).unwrap_or(0);
    let has = |wanted| attributes(body, LINK_HEAD).any(|(kind, _)| kind == wanted);
    if flags & (IFF_UP | IFF_LOOPBACK) != IFF_UP || has(MASTER) {
        return Ok(None);
    }
    let name = text(body, LINK_HEAD, NAME).context("an interface has no name")?;
    let kind = u16_at(body, 2).unwrap_or(0);
    let address = value(body, LINK_HEAD, HARDWARE_ADDRESS).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    let (ETHERNET, Some(hardware_address), Some(index)) = (kind, address, u32_at(body, 4)) else {
        bail!("interface `{name}` is not Ethernet, which is all that a microVM has");
    };
    let mtu_bytes = value(body, LINK_HEAD, MTU).and_then(|bytes| u32_at(bytes, 0)).unwrap_or(1500);
    Ok(Some((index, Interface { name, hardware_address, mtu_bytes, addresses: Vec::new() })))
}

fn address(body: &[u8]) -> Option<Address> {
    const PEER: u16 = 1;
    const OWN: u16 = 2;
    const BROADCAST: u16 = 4;
    const FLAGS: u16 = 8;
    let (family, prefix_bits, scope) = (*body.first()?, *body.get(1)?, *body.get(3)?);
    let flags = value(body, ADDRESS_HEAD, FLAGS).and_then(|bytes| u32_at(bytes, 0));
    let flags = flags.unwrap_or_else(|| body.get(2).copied().unwrap_or(0).into());
    // IPv4's are all permanent unless they were given a lifetime.
    if flags & ADDRESS_PERMANENT == 0 || flags & ADDRESS_DUPLICATE != 0 {
        return None;
    }
    let ip = |kind| value(body, ADDRESS_HEAD, kind).and_then(|bytes| ip(family, bytes));
    let peer = ip(PEER);
    let own = ip(OWN).or(peer)?;
    let broadcast = value(body, ADDRESS_HEAD, BROADCAST).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    Some(Address {
        ip: own,
        peer: peer.filter(|peer| *peer != own),
        prefix_bits,
        broadcast: broadcast.map(Ipv4Addr::from),
        scope,
    })
}

/// None for what is not of the main table, what the guest's kernel makes or hears by itself, and what leads over loopback.
fn route(body: &[u8], names: &HashMap<u32, String>) -> Result<Option<Route>> {
    const DESTINATION: u16 = 1;
    const INTERFACE: u16 = 4;
    const GATEWAY: u16 = 5;
    const METRIC: u16 = 6;
    const SOURCE: u16 = 7;
    const MULTIPATH: u16 = 9;
    const TABLE: u16 = 15;
    const VIA: u16 = 18;
    const UNICAST: u8 = 1;
    let Some(&[family, prefix_bits, _, _, table, protocol, scope, kind]) = body.first_chunk::<8>() else {
        return Ok(None);
    };
    let flags = u32_at(body, 8).unwrap_or(0);
    let number = |kind| value(body, ROUTE_HEAD, kind).and_then(|bytes| u32_at(bytes, 0));
    if !matches!(family, FAMILY_4 | FAMILY_6)
        || number(TABLE).unwrap_or(table.into()) != TABLE_MAIN
        || protocol == PROTOCOL_ADVERTISEMENT
        || flags & ROUTE_CLONED != 0
    {
        return Ok(None);
    }
    let ip_of = |kind| value(body, ROUTE_HEAD, kind).and_then(|bytes| ip(family, bytes));
    let nowhere: IpAddr = if family == FAMILY_4 { [0; 4].into() } else { [0; 16].into() };
    let destination = ip_of(DESTINATION).unwrap_or(nowhere);
    if value(body, ROUTE_HEAD, MULTIPATH).is_some() {
        bail!("the route to {destination}/{prefix_bits} has several routers, which a microVM's cannot");
    }
    let interface = number(INTERFACE).and_then(|index| names.get(&index)).cloned();
    if kind == UNICAST && interface.is_none() {
        return Ok(None);
    }
    // struct rtvia.
    let via = value(body, ROUTE_HEAD, VIA)
        .and_then(|bytes| Some((u16_at(bytes, 0)?, bytes.get(2..)?)))
        .and_then(|(family, bytes)| ip(u8::try_from(family).ok()?, bytes));
    Ok(Some(Route {
        destination,
        prefix_bits,
        interface,
        gateway: ip_of(GATEWAY).or(via),
        source: ip_of(SOURCE),
        metric: number(METRIC).unwrap_or(0),
        scope,
        kind,
        on_link: flags & ON_LINK != 0,
    }))
}

fn neighbour(body: &[u8], names: &HashMap<u32, String>) -> Option<Neighbour> {
    const IP: u16 = 1;
    const HARDWARE_ADDRESS: u16 = 2;
    let interface = names.get(&u32_at(body, 4)?)?.clone();
    if u16_at(body, 8)? & NEIGHBOUR_PERMANENT == 0 {
        return None;
    }
    let ip = ip(*body.first()?, value(body, NEIGHBOUR_HEAD, IP)?)?;
    let hardware_address = value(body, NEIGHBOUR_HEAD, HARDWARE_ADDRESS)?.try_into().ok()?;
    Some(Neighbour { interface, ip, hardware_address })
}

fn value(body: &[u8], head: usize, wanted: u16) -> Option<&[u8]> {
    attributes(body, head).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(body: &[u8], head: usize, kind: u16) -> Option<String> {
    let bytes = value(body, head, kind)?;
    String::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec()).ok()
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        FAMILY_4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        FAMILY_6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
