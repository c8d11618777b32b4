//! Processor time by process: on a shared machine, other load explains a round that is slower than another.

use anyhow::{Context as _, Result};

/// Processes by their names in the report.
#[derive(Clone)]
pub(super) struct Processes {
    pub(super) server: Vec<u32>,
    pub(super) operator: Option<u32>,
}

/// Processor time since the start of each process, and of the machine, in ticks.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    server: f64,
    operator: f64,
    bench: f64,
    busy: f64,
    all: f64,
}

/// Processor time between two samples.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    /// API server, etcd and controllers, in milliseconds.
    pub(super) server: f64,
    /// The operator, in milliseconds.
    pub(super) operator: f64,
    /// The measuring program, which is the bare client too, in milliseconds.
    pub(super) bench: f64,
    /// The share of other processes in the machine, in percent.
    pub(super) others: f64,
}

impl Processes {
    pub(super) fn usage(&self) -> Result<Usage> {
        let of = |pids: &[u32]| pids.iter().map(|pid| ticks(*pid)).sum::<Result<f64>>();
        let (busy, all) = machine()?;
        Ok(Usage {
            server: of(&self.server)?,
            operator: of(self.operator.as_slice())?,
            bench: of(&[std::process::id()])?,
            busy,
            all,
        })
    }

    /// The operator's processor time since its start, in milliseconds.
    pub(super) fn operator_ms(&self) -> Result<f64> {
        Ok(self.usage()?.operator * TICK_MS)
    }

    pub(super) fn since(&self, before: Usage) -> Result<Spent> {
        let now = self.usage()?;
        let server = now.server - before.server;
        let operator = now.operator - before.operator;
        let bench = now.bench - before.bench;
        let others = (now.busy - before.busy - server - operator - bench).max(0.0);
        Ok(Spent {
            server: server * TICK_MS,
            operator: operator * TICK_MS,
            bench: bench * TICK_MS,
            others: 100.0 * others / (now.all - before.all).max(1.0),
        })
    }
}

/// A process's processor time since its start.
pub(super) fn processor_seconds(pid: u32) -> Result<f64> {
    Ok(ticks(pid)? * TICK_MS / 1000.0)
}

/// User and system time of a process.
fn ticks(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name, in parentheses, may contain spaces.
    let (_, fields) = stat.rsplit_once(')').context("the kernel shows no process")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok(fields.get(11..13).context("too few fields")?.iter().filter_map(|field| field.parse::<f64>().ok()).sum())
}

/// Used and available time of all processors.
fn machine() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("the kernel shows no processors")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: f64 = fields.iter().sum();
    // Neither idle nor waiting for a disk.
    Ok((all - fields.iter().skip(3).take(2).sum::<f64>(), all))
}

/// The unit of Linux for ticks in user space is a hundredth of a second.
const TICK_MS: f64 = 10.0;
