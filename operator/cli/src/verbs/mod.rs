//! The verbs. Each module has the arguments of one verb and `run`.

pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod explain;
pub(crate) mod inspect;
pub(crate) mod probe;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod trust;
pub(crate) mod version;
