//! Images at a registry, through the executables: the real `docker-registry`, with TLS by a test CA and a login, on the
//! loopback. A publisher pushes from a data directory of its own; `pod` fetches, judges and runs.
//!
//! A judgement falls before a stage1 is chosen, so what is refused is tested once; what runs is tested on every stage1.

mod asked;
#[path = "../../../image-tools/tests/registry/certificates.rs"]
mod certificates;
mod downgrade;
mod forged;
mod full_disk;
mod machines;
mod mirror;
mod peers;
mod rotation;
#[path = "../../../image-tools/tests/registry/server.rs"]
mod server;
mod substitution;
mod tampering;
mod tls;
mod trust;
mod world;

pub(crate) use world::{World, registry_test};
