//! Images: references to them, sources they come from, their conversion, signatures, trust, and the store they live in.
//!
//! Linked by `pod` (stage0) and by the command `image-tools`; runs in the host's namespaces, as root where it unpacks.
//! Everything it reads was written by strangers: it never executes what it reads, never follows a path of an image
//! outside the directory it unpacks into, and knows nothing of pods.

pub mod block;
pub mod config;
pub mod cosign;
pub mod digest;
pub mod key;
pub mod minisign;
pub mod name;
pub mod obtain;
pub mod reference;
pub mod registry;
pub mod signature;
pub mod signing;
pub mod statement;
pub mod store;
pub mod trust;
