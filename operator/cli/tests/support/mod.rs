//! Runs commands in this process, with streams in memory.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test programs")]

use std::ffi::OsString;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

use gaia_api::{Clock, SystemClock};
use gaia_cli::Console;

pub mod platform;

/// The end of a command.
pub struct Ended {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `gaia` with arguments.
pub fn gaia(arguments: &[&str]) -> Ended {
    run(&[&["gaia"], arguments].concat())
}

/// Runs a command; the first argument is the name of the program.
pub fn run(arguments: &[&str]) -> Ended {
    run_with(arguments, "", Arc::new(SystemClock))
}

/// Runs a command with an input and a clock.
pub fn run_with(arguments: &[&str], input: &str, clock: Arc<dyn Clock>) -> Ended {
    let (stdout, stderr) = (Shared::default(), Shared::default());
    let console = Console {
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        stdin: Box::new(Cursor::new(input.as_bytes().to_vec())),
        is_terminal: false,
        can_ask: false,
        clock,
    };
    let exit = gaia_cli::run(arguments.iter().map(OsString::from), console);
    Ended { code: exit.code(), stdout: stdout.text(), stderr: stderr.text() }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
