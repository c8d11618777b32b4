//! Stand-ins for the external servers that Gaia's services call, for tests and demos.
//!
//! - [`fly`]: Fly.io and its program, with machines that are processes;
//! - [`gotrue`]: a login server with Supabase Auth's protocol;
//! - [`provider`]: a provider of chat completions, with injected faults;
//! - [`s3`]: a store with S3's protocol.
//!
//! Each listens on loopback, stores its state in memory, and ends when it is dropped. [`random`] is shared with the harness.

pub mod fly;
pub mod gotrue;
pub mod provider;
pub mod random;
pub mod s3;
