//! The tap device: the end of a cable whose other end is the machine's card.

use crate::run::Hint;
use anyhow::{Context, Result};
use contract::guest::Interface;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use stage2::netlink::{Message, Socket};
use std::os::fd::{AsFd, OwnedFd};

const DEVICE: &str = "/dev/net/tun";
/// The kernel puts a number that is free.
const NAME: &std::ffi::CStr = c"tap%d";
/// virtio 1.2, 5.1.6: what stands before each frame.
const HEADER_BYTES: i32 = 12;

const NEW_LINK: u16 = 16;
const IFF_UP: u32 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_OF_FAMILIES: u16 = 26;
const FAMILY_6: u16 = 10;
const GENERATION: u16 = 8;
const GENERATE_NONE: u8 = 1;

/// Makes a tap device in this thread's network namespace, and gives its queue and its name. It goes with the last fd of it.
pub(super) fn tap(kernel: &Socket, interface: &Interface) -> Result<(OwnedFd, String)> {
    let context = || format!("make a tap device for interface `{}`", interface.name);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let queue = rustix::fs::openat(CWD, DEVICE, flags, Mode::empty()).map_err(|error| {
        Hint::error(format!("open `{DEVICE}`: {error}"), "the kernel needs the driver `tun`: `modprobe tun`")
    })?;
    let name = crate::sys::make_tap(queue.as_fd(), NAME).with_context(context)?;
    crate::sys::set_tap_header(queue.as_fd(), HEADER_BYTES).with_context(context)?;
    // It must not speak with the guest on its own.
    let silent = |message: Message| {
        message.with_nested(LINK_OF_FAMILIES, |families| {
            families.with_nested(FAMILY_6, |family| family.with(GENERATION, &[GENERATE_NONE]))
        })
    };
    match set(kernel, &name, 0, silent) {
        Ok(()) | Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error).with_context(context),
    }
    set(kernel, &name, IFF_UP, |message| message.with(LINK_MTU, &interface.mtu_bytes.to_ne_bytes()))
        .with_context(context)?;
    Ok((queue, name))
}

fn set(kernel: &Socket, name: &str, flags: u32, more: impl FnOnce(Message) -> Message) -> Result<(), Errno> {
    let mut head = [0; 16];
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes());
    kernel.execute(&[&more(Message::new(NEW_LINK, 0, &head).with_text(LINK_NAME, name))])
}
