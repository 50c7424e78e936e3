//! stage2: PID 1 of a pod, in namespaces or in a guest.
//!
//! A stage1 executes it as the first process of the pod's PID namespace, or as the init of a guest, with all capabilities of
//! the pod's user namespace and the pod root as its root directory. It starts each app in a mount and cgroup namespace of the
//! app's own, confines it, reaps and restarts, and answers the commands of stage1. Everything an app sees is made here, so
//! that it is the same on every stage1.
//!
//! It must never follow a path inside an app's root by name, never give an app a descriptor or a capability that `pod.json`
//! does not give, and never go on when a confinement could not be applied. It has one thread and no network.

mod cgroup;
mod channel;
mod confine;
mod device;
mod failure;
mod files;
pub mod guest;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
mod launch;
mod life;
mod lookup;
mod mount;
mod notify;
mod plan;
mod populate;
mod proc;
mod process;
mod remains;
mod report;
mod root;
mod run;
mod seccomp;
mod streams;
mod supervise;
mod sys;
mod user;
mod world;

#[cfg(test)]
mod samples;

use contract::channel::Event;
use contract::exit;
use contract::stage2::{CHANNEL_FD, POD_FD};

/// Runs a pod in the place that a stage1 has prepared: `pod.json`, the channel and the pod root are where the contract says.
/// Gives the pod's exit code; what went wrong is told to stage1.
pub fn pod() -> u8 {
    let (pod, channel) = match (sys::inherited(POD_FD), sys::inherited(CHANNEL_FD)) {
        (Ok(pod), Ok(channel)) => (pod, channel::Channel::new(channel)),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("stage2: take over the descriptors of stage1: {error}");
            return exit::FAILURE;
        }
    };
    run::run(pod, &channel).unwrap_or_else(|error| {
        let message = failure::describe(&error);
        if channel.send(&Event::Failed { message: message.clone() }, None).is_err() {
            eprintln!("stage2: {message}"); // stage1 is gone, but its stderr may still be read.
        }
        exit::FAILURE
    })
}
