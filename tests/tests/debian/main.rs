//! Real Debian in pods: a root made by debootstrap, built into an image by buildah, and real servers out of it.
//!
//! Needs Debian's package archive the first time; the archives are then kept in the user's cache directory under the hash
//! of the recipe that made them. Runs as root on the build machine.

mod archives;
mod conversion;
mod servers;
