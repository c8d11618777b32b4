//! Output on the terminal: progress on standard error.

use std::fmt::Display;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

/// Writes one line to standard error, past the capture of the test runner.
pub fn say(line: impl Display) {
    // A closed standard error is not a failure.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes one line to standard output, for the result of a command.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Reports that a task still runs, once it has taken more than two seconds and then every few seconds.
pub async fn watched<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let started = Instant::now();
    let mut signs = tokio::time::interval_at(started + PATIENCE, EVERY);
    loop {
        tokio::select! {
            result = work.as_mut() => return result,
            _ = signs.tick() => say(format_args!("{what} … {} s", started.elapsed().as_secs())),
        }
    }
}

/// A task that is long enough for progress messages.
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

    /// Reports that the task still runs, if the last line about it is older than a few seconds.
    pub fn tick(&mut self, detail: impl Display) {
        if self.reported.elapsed() >= EVERY {
            self.reported = Instant::now();
            say(format_args!("{} … {} s {detail}", self.what, self.started.elapsed().as_secs()));
        }
    }

    /// Reports that the task is done, with its duration.
    pub fn done(self) {
        say(format_args!("{}: done in {:.1} s", self.what, self.started.elapsed().as_secs_f32()));
    }
}

const EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
