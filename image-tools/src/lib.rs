//! Images: references to them, sources they come from, their conversion, signatures, trust, and the store they live in.
//!
//! Linked by `pod` (stage0) and by the command `image-tools`; runs in the host's namespaces, as root where it unpacks.
//! Everything it reads was written by strangers: it never executes what it reads, never follows a path of an image
//! outside the directory it unpacks into, and knows nothing of pods.

pub mod archive;
pub mod block;
pub mod compression;
pub mod config;
pub mod convert;
pub mod cosign;
pub mod digest;
pub mod discovery;
pub mod escape;
pub mod extent;
pub mod flatten;
pub mod key;
pub mod limits;
pub mod minisign;
pub mod name;
pub mod native;
pub mod obtain;
pub mod oci;
pub mod ownership;
pub mod pipeline;
pub mod progress;
pub mod provenance;
pub mod reference;
pub mod registry;
pub mod signature;
pub mod signing;
pub mod source;
pub mod statement;
pub mod store;
pub mod trust;
pub mod unpack;
