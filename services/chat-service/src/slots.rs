//! Limits of concurrent answers, per subject and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;
use gaia_auth::Identity;

/// The slots for answers in progress.
#[derive(Debug, Clone)]
pub struct Slots {
    per_subject: u32,
    in_all: u32,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    by: HashMap<Identity, u32>,
    in_all: u32,
}

/// One slot, held until it is dropped.
#[derive(Debug)]
pub struct Slot {
    subject: Identity,
    taken: Arc<Mutex<Taken>>,
}

/// Reason why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSlot {
    /// The limit of this subject is reached.
    #[error("the subject has reached its limit of concurrent answers")]
    ForSubject,
    /// The total limit is reached.
    #[error("the limit of concurrent answers is reached")]
    ForAnybody,
}

impl Slots {
    /// Creates slots with a limit per subject and a total limit.
    #[must_use]
    pub fn new(per_subject: u32, in_all: u32) -> Self {
        Self { per_subject, in_all, taken: Arc::default() }
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// [`NoSlot`] if a limit is reached.
    pub fn take(&self, subject: &Identity) -> Result<Slot, NoSlot> {
        let mut taken = lock(&self.taken);
        if taken.by.get(subject).is_some_and(|taken| *taken >= self.per_subject) {
            return Err(NoSlot::ForSubject);
        }
        if taken.in_all >= self.in_all {
            return Err(NoSlot::ForAnybody);
        }
        taken.in_all += 1;
        *taken.by.entry(subject.clone()).or_default() += 1;
        Ok(Slot { subject: subject.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.in_all -= 1;
        if let Some(left) = taken.by.get_mut(&self.subject) {
            *left -= 1;
            if *left == 0 {
                taken.by.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_its_places_and_all_together_have_theirs() {
        let slots = Slots::new(2, 3);
        let [a, b] = ["a", "b"].map(|id| Identity::Key(id.to_owned()));
        let held = [slots.take(&a).unwrap(), slots.take(&a).unwrap()];
        assert_eq!(slots.take(&a).unwrap_err(), NoSlot::ForSubject);
        let other = slots.take(&b).unwrap();
        assert_eq!(slots.take(&b).unwrap_err(), NoSlot::ForAnybody);
        drop(held);
        let _again = [slots.take(&a).unwrap(), slots.take(&a).unwrap()];
        drop(other);
        assert_eq!(slots.taken.lock().unwrap().by.len(), 1, "a subject without slots has no entry");
    }
}
