//! The operator's own writes, until the watch has delivered them: objects that were created or deleted, statuses that were
//! read again after a conflict, and writes that the API server refused.

pub(crate) mod created;
pub(crate) mod deleted;
pub(crate) mod refused;
pub(crate) mod reread;
