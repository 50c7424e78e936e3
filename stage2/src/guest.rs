//! PID 1 of a microVM.
//!
//! The guest kernel runs it as `/init` of the initramfs, as root, with the whole guest for itself. It makes of the guest
//! what stage1-namespaces makes of a host: the pod root with every app's file system, cgroups, pipes for the standard streams,
//! and the channel's first packet. Then it starts the very stage2 that runs in namespaces, as PID 1 of a PID namespace of
//! its own, and carries streams, commands and events between it and the host. So an app sees the same in both, and neither
//! kernel threads nor this process.
//!
//! It must never return: the kernel panics when its init ends. It must not trust what the apps write, but need not
//! distrust the host.

mod bridge;
mod cgroup;
mod clock;
mod devices;
mod network;
mod port;
mod power;
mod roots;
mod start;
mod sys;

use anyhow::{Context, Result};
use contract::channel::Event;
use contract::guest::{GUEST, Guest, POD};
use contract::pod::Pod;
use std::fs::File;
use wire::mux::Mux;

/// Runs the pod of the initramfs and switches the machine off. `core` is what runs in namespaces: it finds the standard
/// streams, `pod.json` and the channel at the fds that the contract says, and gives the pod's exit code.
pub fn main(core: fn() -> u8) -> ! {
    match devices::mount_kernel_file_systems().and_then(|()| connect()) {
        Err(error) => report(&error),
        Ok((guest, mut port)) => {
            let end =
                run(&guest, &mut port, core).unwrap_or_else(|error| Event::Failed { message: format!("{error:#}") });
            if let Err(error) = port::send_last(&mut port, &end) {
                report(&error);
            }
        }
    }
    power::off()
}

/// Without the channel nobody but the reader of the kernel's console can hear why. `<2>`: critical, so that it is printed.
fn report(error: &anyhow::Error) {
    let _ = std::fs::write("/dev/kmsg", format!("<2>stage2: guest: {error:#}")); // There is no third way.
}

/// Loads the modules and opens the channel, the first word on which ends the host's boot deadline.
fn connect() -> Result<(Guest, Mux)> {
    let guest: Guest =
        contract::json::read(File::open(GUEST).context("open `guest.json`")?).context("read `guest.json`")?;
    devices::load_modules(&guest.modules)?;
    let port = port::open(&Event::Booted)?;
    Ok((guest, port))
}

fn run(guest: &Guest, port: &mut Mux, core: fn() -> u8) -> Result<Event> {
    let pod_file = File::open(POD).context("open `pod.json`")?;
    let pod: Pod = contract::json::read(&pod_file).context("read `pod.json`")?;
    rustix::fs::seek(&pod_file, rustix::fs::SeekFrom::Start(0)).context("rewind `pod.json`")?;
    let null = File::options().read(true).write(true).open("/dev/null").context("open `/dev/null`")?;
    clock::set(guest.started_unix_nanos)?;
    network::up(guest.network.as_ref())?;
    roots::lay_out(guest, &pod)?;
    let cgroups = cgroup::make(&pod)?;
    roots::enter()?;
    let core =
        start::start(&pod, start::Inputs { pod_file, null, rlimits: guest.rlimits.clone(), core }, &cgroups, port)?;
    bridge::run(core, port)
}
