//! The tap device: the end of a cable whose other end is the machine's card.

use anyhow::{Context, Result};
use contract::guest::Interface;
use contract::text::Advised;
use netlink::Socket;
use netlink::link::{self, Link};
use netlink::uapi::{IFF_UP, IFLA_MTU};
use rustix::fs::{CWD, Mode, OFlags};

use std::os::fd::{AsFd, OwnedFd};

const DEVICE: &str = "/dev/net/tun";
/// The kernel puts a number that is free.
const NAME: &std::ffi::CStr = c"tap%d";
/// virtio 1.2, 5.1.6: what stands before each frame.
const HEADER_BYTES: i32 = 12;

/// Makes a tap device in this thread's network namespace, and gives its queue and its name. It goes with the last fd of it.
pub(super) fn tap(kernel: &Socket, interface: &Interface) -> Result<(OwnedFd, String)> {
    let context = || format!("make a tap device for interface `{}`", interface.name);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let queue = rustix::fs::openat(CWD, DEVICE, flags, Mode::empty()).map_err(|error| {
        Advised::new(format!("open `{DEVICE}`: {error}"), "the kernel needs the driver `tun`: `modprobe tun`")
    })?;
    let name = crate::sys::make_tap(queue.as_fd(), NAME).with_context(context)?;
    crate::sys::set_tap_header(queue.as_fd(), HEADER_BYTES).with_context(context)?;
    // It must not speak with the guest on its own.
    link::no_generated_addresses(kernel, Link::Name(&name)).with_context(context)?;
    link::set(kernel, Link::Name(&name), IFF_UP, |message| message.with(IFLA_MTU, &interface.mtu_bytes.to_ne_bytes()))
        .with_context(context)?;
    Ok((queue, name))
}
