//! Mutexes whose content is good at every moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks one, also where a thread has panicked while it held it: what is in there is still right, and the panic is told
/// elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
