//! Hardening of a process that holds private keys, before its other work, and its children.

pub mod child;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Prevents core dumps of this process, and reads of its memory by other processes of the same user.
///
/// # Errors
/// The system refuses it.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
