//! netlink(7) for networks of pods and guests: a socket that waits for its answers, messages made of attributes, attributes
//! read one by one, and the requests that more than one stage makes.
//!
//! Linked by stage1-kvm (on the host) and by stage2 (in a guest), each with the privileges it has anyway. It has no policy: it
//! chooses no name, address or rule. Constants have the names of the kernel's headers ([`uapi`]).

pub mod link;
mod message;
mod socket;
pub mod uapi;

pub use message::{Message, attribute, attributes, text, u16_at, u32_at};
pub use socket::Socket;
