//! How the messages of the contract travel between two processes.
//!
//! On one kernel a message is a packet of a SOCK_SEQPACKET socket, with descriptors beside it ([`packet`]). Into a guest there is
//! one byte stream, which carries frames ([`frame`]): messages, and the bytes of the standard streams of the apps ([`mux`]).
//! The supervisor and stage2 link this crate, so both ends of a channel are the same code.
//!
//! It decides nothing: no message has a meaning here. Nothing here blocks unless its name says so, and every queue has a limit,
//! because either end may be hostile.

pub mod frame;
pub mod mux;
pub mod packet;
pub mod session;
mod stream;
