//! The generated pages below `docs/reference`.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::cli;

/// The page of all verbs, from the definition of the command line.
#[must_use]
pub fn cli_reference() -> String {
    let mut command = cli::command("gaia");
    command.build();
    let mut page = String::from(CLI_INTRODUCTION);
    describe(&command, &mut page);
    page
}

fn describe(command: &Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let _ = writeln!(page, "\n## {name}\n");
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let _ = writeln!(page, "{about}\n");
    }
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(page, "```\n{}\n```", usage.trim_start_matches("Usage: ").trim());
    let is_root = !name.contains(' ');
    let own = |arg: &&Arg| !arg.is_hide_set() && (is_root || !arg.is_global_set()) && arg.get_id() != "help";
    let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
    if !arguments.is_empty() {
        let _ = writeln!(page, "\n| argument | meaning |\n|---|---|");
        for argument in arguments {
            let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string);
            let help = help.unwrap_or_default().replace('\n', " ").replace('|', "\\|");
            let help = if help.is_empty() || help.ends_with('.') { help } else { help + "." };
            let _ = writeln!(page, "| {} | {help}{} |", notation(argument), values(argument));
        }
    }
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set()) {
        describe(verb, page);
    }
}

fn notation(argument: &Arg) -> String {
    let values: Vec<&str> = argument.get_value_names().into_iter().flatten().map(clap::builder::Str::as_str).collect();
    let value = values.join(" ").replace('|', "\\|");
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    match argument.get_long() {
        Some(long) if argument.get_action().takes_values() => format!("`{short}--{long} {value}`"),
        Some(long) => format!("`{short}--{long}`"),
        None => format!("`{value}`"),
    }
}

fn values(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return String::new();
    }
    let possible: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let possible = if possible.is_empty() { String::new() } else { format!(" One of {}.", possible.join(", ")) };
    if default.is_empty() { possible } else { format!("{possible} Default: `{}`.", default.join(",")) }
}

const CLI_INTRODUCTION: &str = "# Command line

The tool `gaia` operates and inspects a platform. As `kubectl-gaia` on the `PATH` it is also `kubectl gaia`. This page is generated
from the program.

Results go to stdout, progress and errors to stderr. The exit codes are the same for every verb and every output format:

| code | meaning |
|---|---|
| 0 | done, or nothing is wrong |
| 1 | there are warnings |
| 2 | something fails |
| 3 | could not find out: unreachable, forbidden, or the time is over |
| 64 | the command line, an input or a name in it is wrong; nothing was changed |
| 70 | internal error |

With several results the code is the first of 2, 3 and 1 that applies. Documents in JSON and YAML have `schemaVersion`; fields are added to
a version, never removed or renamed.
";
