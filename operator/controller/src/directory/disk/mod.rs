//! The tree on the disk: every access goes below one open handle (`dir`), one process writes at a time (`lock`), and
//! objects are files with UID and version (`objects`).

pub(crate) mod dir;
pub(crate) mod error;
pub(crate) mod lock;
pub(crate) mod objects;
