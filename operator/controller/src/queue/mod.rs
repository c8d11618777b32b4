//! Queues of keys. Namespaces share the slots, so that many objects of one delay no object of another.
//!
//! Read `fair` (turns of namespaces), then `work_queue` (keys with delays, no key twice at once).

pub(crate) mod fair;
pub(crate) mod work_queue;
