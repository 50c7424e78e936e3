//! Behaviour of pods, tested through the `pod` binary as root on the build machine, and asserted by the probe inside.
//!
//! One body per behaviour, run on every stage1. Tests must not depend on each other, on the network, or on anything of
//! this machine that a newcomer's machine does not have.

mod acis;
mod asks;
mod bad_input;
mod baseline;
mod confinement;
mod demo;
mod environment;
mod escapes;
mod files;
mod first_process;
mod hostile;
mod lies;
mod life;
mod limits;
mod machines;
mod masks;
mod network;
mod outcome;
mod ownership;
mod several;
mod stages;
mod stopping;
mod store;
mod supervision;
mod terminals;
mod testbed;
mod trust;
mod users;
mod volumes;
mod vulnerabilities;
