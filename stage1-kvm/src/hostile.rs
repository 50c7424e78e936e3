//! What fuzz targets start. Each function takes bytes for the acts of a stranger (a guest's driver, a guest's messages, the maker
//! of a kernel) and panics when a law does not hold. Compiled for tests and with the feature `hostile` only.

use crate::builtin::hostile::{self as machine, Kind};
use contract::channel::Event;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("balloon", |bytes| machine::drive(&[Kind::Balloon], bytes)),
    ("block", |bytes| machine::drive(&[Kind::Disk, Kind::ReadOnlyDisk], bytes)),
    ("bus", |bytes| machine::drive(&Kind::ALL, bytes)),
    ("console", |bytes| machine::drive(&[Kind::Console], bytes)),
    ("entropy", |bytes| machine::drive(&[Kind::Entropy], bytes)),
    ("events", wire::mux::hostile::messages::<Event>),
    ("kernel", crate::builtin::boot::hostile::kernel),
    ("share", |bytes| machine::drive(&[Kind::Share], bytes)),
];
