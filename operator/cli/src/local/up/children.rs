//! The programs as children of this process: start, log lines with a prefix, restart and end.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use gaia_api::process::child;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::back_off::BackOff;
use super::programs::Program;
use crate::Failure;

/// All children, in the order of their start. Dropping them ends them at once.
pub(super) struct Children {
    all: Vec<Supervised>,
}

struct Supervised {
    program: Program,
    state: State,
    back_off: BackOff,
}

enum State {
    Running {
        child: Child,
        since: Instant,
    },
    /// It has ended, and is started again at that time.
    Ended {
        restart: Instant,
    },
}

impl Children {
    /// Starts the programs.
    ///
    /// # Errors
    /// One cannot be started.
    pub(super) fn start(programs: Vec<Program>) -> Result<Self, Failure> {
        let start = |program: Program| {
            let state = State::Running { child: spawn(&program)?, since: Instant::now() };
            Ok(Supervised { program, state, back_off: BackOff::default() })
        };
        Ok(Self { all: programs.into_iter().map(start).collect::<Result<_, Failure>>()? })
    }

    /// Names each program that has ended since the last call, and starts those whose pause is over. Called several
    /// times a second.
    pub(super) fn supervise(&mut self) -> Vec<String> {
        self.all.iter_mut().filter_map(Supervised::supervise).collect()
    }

    /// Ends all programs, the last one first, each before the next. One that does not end in time is killed.
    pub(super) async fn stop(&mut self) {
        while let Some(mut last) = self.all.pop() {
            last.stop().await;
        }
    }
}

impl Supervised {
    fn supervise(&mut self) -> Option<String> {
        let now = Instant::now();
        let name = self.program.name;
        match &mut self.state {
            State::Running { child, since } => {
                let status = child.try_wait().ok().flatten()?;
                let pause = self.back_off.after(now - *since);
                self.state = State::Ended { restart: now + pause };
                Some(format!("{name} ended with {}; it is started again in {} s", reason(status), pause.as_secs()))
            }
            State::Ended { restart } if now >= *restart => match spawn(&self.program) {
                Ok(child) => {
                    self.state = State::Running { child, since: now };
                    Some(format!("{name} is started again"))
                }
                Err(failure) => {
                    let pause = self.back_off.after(Duration::ZERO);
                    self.state = State::Ended { restart: now + pause };
                    Some(format!("{failure}; next attempt in {} s", pause.as_secs()))
                }
            },
            State::Ended { .. } => None,
        }
    }

    async fn stop(&mut self) {
        let State::Running { child, .. } = &mut self.state else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It is not reaped yet, so the id is its own.
            if child.try_wait().is_ok_and(|ended| ended.is_none()) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let end = Instant::now() + GRACE;
        while Instant::now() < end && child.try_wait().is_ok_and(|ended| ended.is_none()) {
            sleep(CHECK).await;
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let State::Running { child, .. } = &mut self.state {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(program: &Program) -> Result<Child, Failure> {
    let name = program.name;
    let failed = |error: std::io::Error| Failure::failing(format!("cannot start {name}: {error}"));
    let mut command = program.command().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = command.get_program().display().to_string();
    let named = |error: std::io::Error| Failure::failing(format!("cannot start {name} ({shown}): {error}"));
    let mut child = child::spawn(command).map_err(named)?;
    if let Some(output) = child.stdout.take() {
        pass_on(name, output);
    }
    if let Some(output) = child.stderr.take() {
        pass_on(name, output);
    }
    Ok(child)
}

/// Writes each line of a child to this process's standard error, after the child's name.
fn pass_on(name: &'static str, output: impl Read + Send + 'static) {
    let pass = move || {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        // A line is cut after that many bytes: a child cannot fill the memory of this process.
        while lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            let _ = writeln!(std::io::stderr(), "{name:<WIDTH$} | {}", text.trim_end());
            line.clear();
        }
    };
    // Without a thread the pipe is closed, and the child's log is lost, not the child.
    let _ = std::thread::Builder::new().name(format!("log-{name}")).spawn(pass);
}

fn reason(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// Time in which a program ends after SIGTERM: more than its own limit for requests in progress.
const GRACE: Duration = Duration::from_secs(10);
const CHECK: Duration = Duration::from_millis(20);
const MAX_LINE: u64 = 64 * 1024;
/// The longest name of a program.
const WIDTH: usize = 14;
