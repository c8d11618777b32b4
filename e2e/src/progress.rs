//! Progress for the person in front of the terminal: lines on standard error, and only there.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

/// Writes one line to standard error, past the capture of the test runner.
pub fn say(line: impl Display) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Something that takes long enough to deserve a sign of life.
#[derive(Debug)]
pub struct Task {
    what: String,
    started: Instant,
    reported: Instant,
}

impl Task {
    /// Announces `what` and starts its clock.
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        say(format_args!("{what} …"));
        let started = Instant::now();
        Self { what, started, reported: started }
    }

    /// Says that the task still runs, if the last line about it is older than a few seconds.
    pub fn tick(&mut self, detail: impl Display) {
        if self.reported.elapsed() >= EVERY {
            self.reported = Instant::now();
            say(format_args!("{} … {} s {detail}", self.what, self.started.elapsed().as_secs()));
        }
    }

    /// Says that the task is done, and how long it took.
    pub fn done(self) {
        say(format_args!("{}: done in {:.1} s", self.what, self.started.elapsed().as_secs_f32()));
    }
}

const EVERY: Duration = Duration::from_secs(5);
