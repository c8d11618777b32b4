//! The command line tool `gaia`, which is also the kubectl plugin `kubectl-gaia`.
//!
//! [`main`] runs the command of this process. [`run`] runs a command with other streams and another clock, for tests.
//! Each verb is a module below `verbs`; it writes its result through [`Console`] and returns an [`Exit`] or a [`Failure`].

mod cli;
mod console;
mod exit;
mod failure;
mod findings;
mod fly;
mod local;
mod mesh;
pub mod notify;
mod output;
mod programs;
mod reference;
mod source;
mod verbs;

pub use cli::{command, main, run};
pub use console::Console;
pub use exit::Exit;
pub use failure::Failure;
pub use findings::findings_reference;
pub use reference::cli_reference;
