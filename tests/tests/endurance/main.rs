//! Many pods, and many deaths: what only shows in numbers. Runs as root on the build machine.

mod kills;
mod many;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Each of these tests wants the whole machine, so they take turns: what one measures or provokes is not another's load.
fn turn() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
