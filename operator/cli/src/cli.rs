//! The command line: arguments, and the mapping of every end to an exit code.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::output::Format;
use crate::source::{Directory, Source};
use crate::{Console, Exit, Failure, fly, local, programs, verbs};

/// Inspects, checks and operates the certificates, keys and tokens of a platform.
#[derive(Debug, Parser)]
#[command(name = "gaia", version, arg_required_else_help = true, subcommand_required = true, max_term_width = 120)]
#[command(after_help = "Exit codes: 0 done, 1 warnings, 2 failing, 3 could not find out, 64 usage, 70 internal error.")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// The directory of a platform without a cluster, as `gaia local init` writes it.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make requests as a service, with its certificate and a token or an API key.
    Call(verbs::call::CallArgs),
    /// Report every fault of a platform: expiry, trust, rotation, permissions. Exit code 1: warnings, 2: failures.
    Check(verbs::check::CheckArgs),
    /// Print the page of a finding: its meaning, how to confirm it, how to mend it.
    Explain(verbs::explain::ExplainArgs),
    /// End the trust in a CA or signing key that has leaked. It cannot be undone.
    Distrust(verbs::trust::distrust::DistrustArgs),
    /// Decode certificates, keys, tokens, key sets and records of API keys, and show whether the platform trusts them.
    Inspect(verbs::inspect::InspectArgs),
    /// Operate a platform without a cluster, from a directory.
    #[command(subcommand)]
    Local(local::LocalCommand),
    /// Bring the files of a directory to apps of Fly.io.
    #[command(subcommand)]
    Fly(fly::FlyCommand),
    /// Print the files of a directory in the form of another platform.
    #[command(subcommand)]
    Export(fly::ExportCommand),
    /// Print the completion script of a shell.
    Completion(verbs::completion::CompletionArgs),
    /// Ask a running program for its health, as the health check of a container.
    Probe(verbs::probe::ProbeArgs),
    /// Renew certificates now.
    Renew(verbs::trust::renew::RenewArgs),
    /// Revoke a certificate, a token, or all tokens of a subject.
    Revoke(verbs::trust::revoke::RevokeArgs),
    /// Start, abort or continue the rotation of the CA or of the signing key.
    Rotate(verbs::trust::rotate::RotateArgs),
    /// Show TrustDomains with their generations, services with their certificates, and faults.
    Status(verbs::status::StatusArgs),
    /// Print a service token, issued to a service for calls to another one.
    Token(verbs::token::TokenArgs),
    /// Print the version.
    Version,
}

/// The surroundings of a verb: the options of every verb, and the streams.
pub(crate) struct Context {
    globals: Globals,
    /// The streams and the clock.
    pub(crate) console: Console,
}

impl Context {
    /// The output format.
    pub(crate) fn format(&self) -> Format {
        self.globals.output
    }

    /// The directory of a verb that works on no other source; default: `certs`.
    pub(crate) fn dir(&self) -> PathBuf {
        self.globals.dir.clone().unwrap_or_else(|| PathBuf::from("certs"))
    }

    /// The source of objects; none: the command line names none.
    pub(crate) fn source(&self) -> Result<Option<Source>, Failure> {
        let Some(dir) = &self.globals.dir else { return Ok(None) };
        Ok(Some(Source::Directory(Directory::open(dir)?)))
    }
}

/// The definition of the command line, for help, completion and the reference. `program` is the name of the executable:
/// as `kubectl-gaia` the help says `kubectl gaia`.
#[must_use]
pub fn command(program: &str) -> clap::Command {
    let command = Cli::command();
    match program {
        "kubectl-gaia" => command.bin_name("kubectl gaia").display_name("kubectl gaia"),
        _ => command,
    }
}

/// Runs the program or the command that the arguments of this process select.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match programs::run_selected(&arguments) {
        Some(ended) => ended,
        None => run(arguments, Console::of_process()).into(),
    }
}

/// Runs a command. The first argument is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>, console: Console) -> Exit {
    let mut context = Context { globals: Globals { output: Format::Table, dir: None }, console };
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match caught(|| run_in(&arguments, &mut context)) {
        Ok(exit) => exit,
        Err(failure) => {
            context.console.progress(&format!("error: {failure}"));
            failure.exit()
        }
    }
}

/// The result of `verb`; a panic is a bug. The hook of the process has printed its message.
fn caught(verb: impl FnOnce() -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let ended = catch_unwind(AssertUnwindSafe(verb));
    ended.unwrap_or_else(|_| Err(Failure::bug("internal error: report it with the lines above")))
}

fn run_in(arguments: &[OsString], context: &mut Context) -> Result<Exit, Failure> {
    let program = arguments.first().and_then(|path| Path::new(path).file_stem()).unwrap_or_default();
    let matches = match command(&program.to_string_lossy()).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        // Help and version are results.
        Err(error) if !error.use_stderr() => {
            context.console.print(&error.to_string())?;
            return Ok(Exit::Done);
        }
        Err(error) => {
            context.console.progress(error.to_string().trim_end());
            return Ok(Exit::Usage);
        }
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))?;
    context.globals = cli.globals;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failing(format!("cannot start threads: {error}")))?;
    runtime.block_on(run_verb(cli.verb, context))
}

async fn run_verb(verb: Verb, context: &mut Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Call(args) => verbs::call::run(&args, context).await,
        Verb::Check(args) => verbs::check::run(&args, context).await,
        Verb::Explain(args) => verbs::explain::run(&args, context),
        Verb::Inspect(args) => verbs::inspect::run(&args, context).await,
        Verb::Local(command) => local::run(command, context).await,
        Verb::Fly(command) => fly::run(command, context).await,
        Verb::Export(command) => fly::export(command, context),
        Verb::Completion(args) => verbs::completion::run(&args, context),
        Verb::Probe(args) => verbs::probe::run(&args, context).await,
        Verb::Distrust(args) => verbs::trust::distrust::run(&args, context).await,
        Verb::Renew(args) => verbs::trust::renew::run(&args, context).await,
        Verb::Revoke(args) => verbs::trust::revoke::run(&args, context).await,
        Verb::Rotate(args) => verbs::trust::rotate::run(&args, context).await,
        Verb::Status(args) => verbs::status::run(&args, context).await,
        Verb::Token(args) => verbs::token::run(&args, context).await,
        Verb::Version => verbs::version::run(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_exit_code_70() {
        let ended = caught(|| panic!("a fault of the program"));
        assert_eq!(ended.unwrap_err().exit().code(), 70);
    }

    #[test]
    fn the_command_line_is_consistent() {
        command("gaia").debug_assert();
    }
}
