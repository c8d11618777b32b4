//! The streams of a command, and its clock.

use std::io::{self, IsTerminal as _, Read, Write};
use std::sync::Arc;

use gaia_api::{Clock, SystemClock};

use crate::Failure;

/// The streams of a command: results go to `stdout`, progress and errors to `stderr`.
pub struct Console {
    /// Results.
    pub stdout: Box<dyn Write + Send>,
    /// Progress and errors.
    pub stderr: Box<dyn Write + Send>,
    /// Input, for verbs that read `-`.
    pub stdin: Box<dyn Read + Send>,
    /// True if `stdout` is a terminal.
    pub is_terminal: bool,
    /// True if questions can be answered on `stdin`.
    pub can_ask: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Console {
    /// The streams of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            stdin: Box::new(io::stdin()),
            is_terminal: io::stdout().is_terminal(),
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Writes a result.
    ///
    /// # Errors
    /// If the stream cannot be written. A reader that closed its end (`gaia … | head`) is none.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::failing(format!("cannot write the result to stdout: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Writes a line of progress. Errors are ignored: progress is no result.
    pub fn progress(&mut self, line: &str) {
        let _ = writeln!(self.stderr, "{line}");
    }
}
