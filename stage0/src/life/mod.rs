//! The life of a pod as directories and locks: `$DATA/pods/PHASE/UUID`. There is no daemon and no database; a transition
//! is one rename(2), and who holds the flock(2) of the directory is alive. Everything survives a kill at any step,
//! because `gc` alone cleans up.

pub(crate) mod delete;
pub(crate) mod find;
pub(crate) mod gc;
pub(crate) mod holder;
pub(crate) mod lease;
pub(crate) mod names;
pub(crate) mod pods;
pub(crate) mod release;
pub(crate) mod remains;
pub(crate) mod stopping;
pub(crate) mod supervisor;
pub(crate) mod view;
