//! What is in a network namespace, by rtnetlink(7): interfaces that are up, and what belongs to them. What a guest could not be
//! given is refused by name, never left out in silence; what the kernel makes by itself, or learns from advertisements that the
//! guest hears too, is left to the guest's kernel.

use anyhow::{Context, Result, bail, ensure};
use contract::guest::{Address, INTERFACES_MAX, Interface, Neighbour, Network, Route};
use netlink::uapi::{
    AF_INET, AF_INET6, ARPHRD_ETHER, IFA_ADDRESS, IFA_BROADCAST, IFA_F_DADFAILED, IFA_F_PERMANENT, IFA_FLAGS,
    IFA_LOCAL, IFADDRMSG_BYTES, IFF_LOOPBACK, IFF_UP, IFINFOMSG_BYTES, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER,
    IFLA_MTU, NDA_DST, NDA_LLADDR, NDMSG_BYTES, NUD_PERMANENT, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_MULTIPATH,
    RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTA_VIA, RTM_F_CLONED, RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH,
    RTM_GETROUTE, RTMSG_BYTES, RTN_UNICAST, RTNH_F_ONLINK, RTPROT_RA,
};
use netlink::{Socket, attribute, text, u16_at, u32_at};
use rustix::io::Errno;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// Limit on what a guest is told of; a pod is not expected to be a router.
const ENTRIES_MAX: usize = 1024;

/// Everything of this thread's namespace, and the numbers of its interfaces.
pub(super) fn network(kernel: &Socket) -> Result<(Network, Vec<u32>)> {
    let links = dump(kernel, RTM_GETLINK, IFINFOMSG_BYTES).context("list the interfaces")?;
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
    for body in dump(kernel, RTM_GETADDR, IFADDRMSG_BYTES).context("list the addresses")? {
        let owner = u32_at(&body, 4).and_then(|index| found.iter_mut().find(|(number, _)| *number == index));
        if let (Some((_, interface)), Some(address)) = (owner, address(&body)) {
            interface.addresses.push(address);
        }
    }
    let names: HashMap<u32, String> = found.iter().map(|(index, interface)| (*index, interface.name.clone())).collect();
    let mut routes = Vec::new();
    for body in dump(kernel, RTM_GETROUTE, RTMSG_BYTES).context("list the routes")? {
        routes.extend(route(&body, &names)?);
    }
    // A router must be reachable before a route over it can be made. The sort is stable.
    routes.sort_by_key(|route| route.gateway.is_some());
    let neighbours: Vec<Neighbour> = dump(kernel, RTM_GETNEIGH, NDMSG_BYTES)
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
    let links = dump(kernel, RTM_GETLINK, IFINFOMSG_BYTES).context("list the interfaces")?;
    let found = links.iter().find(|body| text(body, IFINFOMSG_BYTES, IFLA_IFNAME).as_deref() == Some(name));
    found.and_then(|body| u32_at(body, 4)).with_context(|| format!("no interface `{name}`"))
}

fn dump(kernel: &Socket, kind: u16, head_bytes: usize) -> Result<Vec<Vec<u8>>, Errno> {
    Ok(kernel.dump(kind, &vec![0; head_bytes])?.into_iter().map(|(_, body)| body).collect())
}

/// None for loopback, for what is down, and for a part of another interface (a bridge's port).
fn interface(body: &[u8]) -> Result<Option<(u32, Interface)>> {
    let flags = u32_at(body, 8).unwrap_or(0);
    let has = |wanted| attribute(body, IFINFOMSG_BYTES, wanted).is_some();
    if flags & (IFF_UP | IFF_LOOPBACK) != IFF_UP || has(IFLA_MASTER) {
        return Ok(None);
    }
    let name = text(body, IFINFOMSG_BYTES, IFLA_IFNAME).context("an interface has no name")?;
    let kind = u16_at(body, 2).unwrap_or(0);
    let address = attribute(body, IFINFOMSG_BYTES, IFLA_ADDRESS).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    let (ARPHRD_ETHER, Some(hardware_address), Some(index)) = (kind, address, u32_at(body, 4)) else {
        bail!("interface `{name}` is not Ethernet, which is all that a microVM has");
    };
    let mtu_bytes = attribute(body, IFINFOMSG_BYTES, IFLA_MTU).and_then(|bytes| u32_at(bytes, 0)).unwrap_or(1500);
    Ok(Some((index, Interface { name, hardware_address, mtu_bytes, addresses: Vec::new() })))
}

fn address(body: &[u8]) -> Option<Address> {
    let (family, prefix_bits, scope) = (*body.first()?, *body.get(1)?, *body.get(3)?);
    let flags = attribute(body, IFADDRMSG_BYTES, IFA_FLAGS).and_then(|bytes| u32_at(bytes, 0));
    let flags = flags.unwrap_or_else(|| body.get(2).copied().unwrap_or(0).into());
    // IPv4's are all permanent unless they were given a lifetime.
    if flags & IFA_F_PERMANENT == 0 || flags & IFA_F_DADFAILED != 0 {
        return None;
    }
    let ip = |kind| attribute(body, IFADDRMSG_BYTES, kind).and_then(|bytes| ip(family, bytes));
    let peer = ip(IFA_ADDRESS);
    let own = ip(IFA_LOCAL).or(peer)?;
    let broadcast = attribute(body, IFADDRMSG_BYTES, IFA_BROADCAST).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
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
    let Some(&[family, prefix_bits, _, _, table, protocol, scope, kind]) = body.first_chunk::<8>() else {
        return Ok(None);
    };
    let flags = u32_at(body, 8).unwrap_or(0);
    let number = |kind| attribute(body, RTMSG_BYTES, kind).and_then(|bytes| u32_at(bytes, 0));
    if !matches!(family, AF_INET | AF_INET6)
        || number(RTA_TABLE).unwrap_or(table.into()) != u32::from(RT_TABLE_MAIN)
        || protocol == RTPROT_RA
        || flags & RTM_F_CLONED != 0
    {
        return Ok(None);
    }
    let ip_of = |kind| attribute(body, RTMSG_BYTES, kind).and_then(|bytes| ip(family, bytes));
    let nowhere: IpAddr = if family == AF_INET { [0; 4].into() } else { [0; 16].into() };
    let destination = ip_of(RTA_DST).unwrap_or(nowhere);
    if attribute(body, RTMSG_BYTES, RTA_MULTIPATH).is_some() {
        bail!("the route to {destination}/{prefix_bits} has several routers, which a microVM's cannot");
    }
    let interface = number(RTA_OIF).and_then(|index| names.get(&index)).cloned();
    if kind == RTN_UNICAST && interface.is_none() {
        return Ok(None);
    }
    // struct rtvia.
    let via = attribute(body, RTMSG_BYTES, RTA_VIA)
        .and_then(|bytes| Some((u16_at(bytes, 0)?, bytes.get(2..)?)))
        .and_then(|(family, bytes)| ip(u8::try_from(family).ok()?, bytes));
    Ok(Some(Route {
        destination,
        prefix_bits,
        interface,
        gateway: ip_of(RTA_GATEWAY).or(via),
        source: ip_of(RTA_PREFSRC),
        metric: number(RTA_PRIORITY).unwrap_or(0),
        scope,
        kind,
        on_link: flags & RTNH_F_ONLINK != 0,
    }))
}

fn neighbour(body: &[u8], names: &HashMap<u32, String>) -> Option<Neighbour> {
    let interface = names.get(&u32_at(body, 4)?)?.clone();
    if u16_at(body, 8)? & NUD_PERMANENT == 0 {
        return None;
    }
    let ip = ip(*body.first()?, attribute(body, NDMSG_BYTES, NDA_DST)?)?;
    let hardware_address = attribute(body, NDMSG_BYTES, NDA_LLADDR)?.try_into().ok()?;
    Some(Neighbour { interface, ip, hardware_address })
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
