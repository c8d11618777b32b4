//! The programs of the platform. This executable holds all of them, so the image has one file and a link for each.
//!
//! The basename of the first argument selects a program, as in busybox: a link `gateway` to `gaia` is gateway. Without
//! a link, `gaia gateway …` runs it; this form is not in the help, because it is no verb.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// A program in this executable.
struct Program {
    name: &'static str,
    main: fn() -> ExitCode,
}

static PROGRAMS: [Program; 6] = [
    Program { name: "gaia-operator", main: gaia_operator::cli::main },
    Program { name: "auth-service", main: gaia_auth_service::main },
    Program { name: "asset-service", main: gaia_asset_service::main },
    Program { name: "chat-service", main: gaia_chat_service::main },
    Program { name: "gateway", main: gaia_gateway::main },
    Program { name: "web-service", main: gaia_web_service::main },
];

/// Runs the program that the arguments of this process select, to its end. `None`: they select no program.
#[expect(clippy::print_stderr, reason = "a program that could not be started")]
pub(crate) fn run_selected(arguments: &[OsString]) -> Option<ExitCode> {
    let basename = Path::new(arguments.first()?).file_name()?;
    if let Some(program) = find(basename) {
        return Some((program.main)());
    }
    let program = find(arguments.get(1)?)?;
    // The program reads the arguments of its process, so it gets a process image of its own.
    let error =
        itself(program.name).map(|mut command| command.args(&arguments[2..]).exec()).unwrap_or_else(|error| error);
    eprintln!("error: cannot start {}: {error}", program.name);
    Some(ExitCode::FAILURE)
}

/// The command that runs a program of this executable.
///
/// # Errors
/// If the path of this executable is unknown.
pub(crate) fn itself(program: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0(program);
    Ok(command)
}

fn find(name: &std::ffi::OsStr) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| name == program.name)
}
