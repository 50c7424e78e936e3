//! The pod's network in the machine: each interface of the pod's network namespace becomes a network card of the guest.
//!
//! stage0, a CNI plugin or a user made the namespace and what is in it; nobody there has to know of a machine. `read` looks at
//! every interface that is up, and `join` gives the guest its frames: a tap device beside the interface, and two rules of
//! nftables that forward all frames that arrive at one to the other, before the namespace's own protocols see any of them. So
//! the guest answers for the interface's addresses, with its hardware address, and the namespace keeps them, by which a card
//! that filters goes on listening to their multicast groups, and a plugin that checks its work finds it.
//!
//! The table of rules is owned by a socket of this process and the tap by its fd, so the kernel takes both away when the
//! machine ends, however it ends, and a namespace that lives longer is as it was. (Redirections of tc would stay and lose
//! every frame.)
//!
//! What the namespace has beside that does not hold in the guest: its firewall, its policy routing, its traffic shaping on
//! the way out. Processes in that namespace receive no packets while the VM runs.

mod join;
mod read;
mod rules;

use anyhow::{Context, Result, anyhow, bail};
use contract::guest;
use contract::pod::{self, Pod};
use contract::text::Advised;
use netlink::Socket;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A network that is joined to a machine as long as all of this exists; nothing of it for a pod that has loopback alone.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// What the guest is told.
    pub(crate) network: Option<guest::Network>,
    /// A queue of frames for each interface; non-blocking, each frame behind a header of virtio-net.
    pub(crate) taps: Vec<OwnedFd>,
    /// Owns the rules.
    pub(crate) rules: Option<Socket>,
}

/// Joins the namespace of fd 4, if the pod has one.
pub(crate) fn join(pod: &Pod) -> Result<Joined> {
    match pod.network {
        pod::Network::None => return Ok(Joined::default()),
        pod::Network::Host => bail!("a microVM cannot share the host's network"),
        pod::Network::Joined => {}
    }
    let number = contract::dir::NETWORK_FD;
    let namespace = supervisor::sys::inherited(number)
        .with_context(|| format!("take the pod's network namespace on fd {number}"))?;
    let own = rustix::fs::openat(CWD, "/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context("open the host's network namespace")?;
    let (theirs, ours) = (rustix::fs::fstat(&namespace)?, rustix::fs::fstat(&own)?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        // A guest would take the host's own frames.
        bail!("the pod's network namespace on fd {number} is the host's own");
    }
    enter(namespace.as_fd()).context("enter the pod's network namespace")?;
    let joined = inside();
    enter(own.as_fd()).context("return to the host's network namespace")?;
    joined.context("join the pod's network")
}

fn inside() -> Result<Joined> {
    let route = Socket::route().context("speak with the kernel about interfaces")?;
    let (network, indices) = read::network(&route)?;
    if network.interfaces.is_empty() {
        return Ok(Joined::default()); // Loopback alone, which every guest has.
    }
    let mut taps = Vec::new();
    let mut pairs = Vec::new();
    for (interface, index) in network.interfaces.iter().zip(indices) {
        let (tap, name) = join::tap(&route, interface)?;
        let tap_index = read::index(&route, &name)?;
        pairs.push([(interface.name.clone(), tap_index), (name, index)]);
        taps.push(tap);
    }
    let rules = forward(&pairs)?;
    Ok(Joined { network: Some(network), taps, rules: Some(rules) })
}

fn forward(pairs: &[[(String, u32); 2]]) -> Result<Socket> {
    rules::forward(pairs).map_err(|error| match error {
        // The table has an owner.
        Errno::PERM | Errno::EXIST => anyhow!("another microVM has this network namespace"),
        error => Advised::new(
            format!("forward frames between interface and machine: {error}"),
            "the kernel needs nftables with `fwd` (`modprobe nft_fwd_netdev`), Linux 5.12 or newer",
        )
        .into(),
    })
}

/// Joins two devices in a network namespace that goes with this process: what a network card needs of this host.
pub(crate) fn probe() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let route = Socket::route().context("speak with the kernel about interfaces")?;
    let interface = guest::Interface {
        name: "probe".to_owned(),
        hardware_address: [2, 0, 0, 0, 0, 1],
        mtu_bytes: 1500,
        addresses: Vec::new(),
    };
    let (_first, first) = join::tap(&route, &interface)?;
    let (_second, second) = join::tap(&route, &interface)?;
    let (to_first, to_second) = (read::index(&route, &first)?, read::index(&route, &second)?);
    forward(&[[(first, to_second), (second, to_first)]]).map(drop)
}

/// This process has one thread, so what it does next happens there.
fn enter(namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
}
