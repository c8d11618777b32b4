//! `gaia-e2e rehearse`: years of rotations on a real API server, in minutes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use gaia_e2e::progress::tell;
use gaia_e2e::rehearsal::{Rehearsal, RehearsalOptions};
use gaia_e2e::{ControlPlane, ControlPlaneOptions};
use jiff::SignedDuration;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Number of days, by the clock of operator and services.
    #[arg(long, default_value_t = 730)]
    days: u16,
    /// Requests a second during the rehearsal.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// Directory for files and logs of the control plane; a new directory if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let plane = ControlPlane::start(ControlPlaneOptions { dir: arguments.dir, ..ControlPlaneOptions::default() });
    let plane = plane.await?;
    let length = SignedDuration::from_hours(24 * i64::from(arguments.days));
    let options = RehearsalOptions { length, rate: arguments.rate, ..RehearsalOptions::default() };
    let record = Rehearsal::run(&plane, options, |transition| tell(transition)).await?;
    tell(format_args!("\n{record}"));
    let complaints = record.complaints();
    for complaint in &complaints {
        tell(format_args!("\n{complaint}"));
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
