//! Many pods, and many deaths: what only shows in numbers. Runs as root on the build machine.

mod kills;
mod many;
