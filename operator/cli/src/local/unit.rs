//! `gaia local unit`: units of systemd for the engine, and drop-ins for the services that read its directories.

mod files;
mod quote;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use self::files::{Daemon, Reader};
use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia local unit`.
#[derive(Debug, Args)]
pub(crate) struct UnitArgs {
    /// Services that read their directory, each with its unit: `gateway` for gateway.service, or `gateway=web.service`.
    #[arg(long, value_delimiter = ',', value_name = "SERVICE[=UNIT]", value_parser = reader)]
    services: Vec<(String, String)>,
    /// The static user of the engine.
    #[arg(long, default_value = "gaia", value_name = "NAME")]
    user: String,
    /// The group that may read the service directories: its name on this machine, or its number.
    #[arg(long, default_value = "gaia", value_name = "NAME|GID")]
    group: String,
    /// The daemon, or a timer for `gaia local run --once`.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    form: Form,
    /// The path of `gaia` on the machine; default: this program.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The directory in which the services find their files.
    #[arg(long, default_value = "/etc/gaia", value_name = "DIR")]
    mount: PathBuf,
    /// The directory to write the units to, such as /etc/systemd/system; default: print them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The form in which the engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Form {
    /// The daemon.
    #[default]
    Daemon,
    /// A timer.
    Timer,
    /// Both, to choose from by `systemctl enable`.
    Both,
}

/// A file below the directory of units.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnitFile {
    /// Its path, relative to that directory.
    path: String,
    /// Its text.
    text: String,
}

/// Prints or writes the units.
pub(crate) fn run(args: &UnitArgs, context: &mut Context) -> Result<Exit, Failure> {
    let units = units(args, &context.dir(), &std::fs::read_to_string("/etc/group").unwrap_or_default())?;
    let Some(out) = &args.out else {
        let text: Vec<String> = units.iter().map(|unit| format!("# {}\n{}", unit.path, unit.text)).collect();
        context.console.print(&text.join("\n"))?;
        return Ok(Exit::Done);
    };
    for unit in &units {
        let path = out.join(&unit.path);
        write(&path, &unit.text)
            .map_err(|error| Failure::failing(format!("cannot write {}: {error}", path.display())))?;
        context.console.progress(&format!("wrote {}", path.display()));
    }
    let first = if args.form == Form::Timer { files::TIMER } else { files::DAEMON };
    context.console.progress(&format!("next: systemctl daemon-reload && systemctl enable --now {first}"));
    Ok(Exit::Done)
}

/// Writes a file in one rename.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension("gaia-new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

fn units(args: &UnitArgs, dir: &Path, groups: &str) -> Result<Vec<UnitFile>, Failure> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| {
            Failure::unknown(format!("cannot find this program: {error}")).next("add --program PATH")
        })?,
    };
    let daemon = Daemon {
        program: absolute("--program", &program)?,
        dir: absolute("--dir", dir)?,
        user: name("--user", &args.user)?,
        gid: group_id(&args.group, groups)?,
    };
    let mount = absolute("--mount", &args.mount)?;
    let mut units = files::engine(&daemon, args.form);
    for (service, unit) in &args.services {
        let reader = Reader { service, unit, mount: &mount, form: args.form };
        units.push(files::drop_in(&daemon, &reader));
    }
    Ok(units)
}

/// The absolute path as text that units can contain.
fn absolute(option: &str, path: &Path) -> Result<String, Failure> {
    let absolute =
        std::path::absolute(path).map_err(|error| Failure::usage(format!("{option} {}: {error}", path.display())))?;
    let text = absolute.to_str().map(|text| text.trim_end_matches('/')).unwrap_or_default();
    // A colon separates the two paths of BindReadOnlyPaths=.
    if text.is_empty() || text.chars().any(|c| c.is_control() || matches!(c, ':' | '"' | '\\')) {
        return Err(Failure::usage(format!(
            "{option} {}: units cannot name a path that is empty or has a colon, quote, backslash or control character",
            path.display()
        )));
    }
    Ok(text.to_owned())
}

/// A name of a user.
fn name(option: &str, text: &str) -> Result<String, Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() || text.starts_with('-') || !text.chars().all(allowed) {
        return Err(Failure::usage(format!("{option} {text:?} is no name of a user")));
    }
    Ok(text.to_owned())
}

/// The number of a group: files get it by number, also where the group has no name.
fn group_id(text: &str, groups: &str) -> Result<u32, Failure> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(of_line).ok_or_else(|| {
        Failure::usage(format!("--group {text:?} is no group of this machine"))
            .next(format!("groupadd --system {text}, or give the group's number"))
    })
}

/// A service, and the unit that runs it.
fn reader(text: &str) -> Result<(String, String), String> {
    let (service, unit) = text.split_once('=').unwrap_or((text, text));
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if service.is_empty() || !service.chars().all(is_label) {
        return Err(format!("{service:?} is no name of a service"));
    }
    let unit = unit.strip_suffix(".service").unwrap_or(unit);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '\\');
    if unit.is_empty() || unit.starts_with('.') || !unit.chars().all(allowed) {
        return Err(format!("{unit:?} is no name of a unit"));
    }
    Ok((service.to_owned(), format!("{unit}.service")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UnitArgs,
    }

    fn of(dir: &str, arguments: &[&str]) -> Result<Vec<UnitFile>, Failure> {
        let all = ["unit", "--program", "/usr/bin/gaia"].iter().chain(arguments);
        units(&Line::try_parse_from(all).unwrap().args, Path::new(dir), "root:x:0:\ngaia:x:987:\n")
    }

    fn text<'a>(units: &'a [UnitFile], path: &str) -> &'a str {
        &units.iter().find(|unit| unit.path == path).unwrap().text
    }

    #[test]
    fn a_reader_sees_its_own_directory_alone() {
        let units = of("/srv/certs", &["--services", "gateway,web-service=web@blue.service"]).unwrap();
        let gateway = text(&units, "gateway.service.d/gaia.conf");
        assert!(gateway.contains("BindReadOnlyPaths=/srv/certs/gateway:/etc/gaia\n"), "{gateway}");
        assert!(gateway.contains("InaccessiblePaths=-/srv/certs\n"), "{gateway}");
        assert!(gateway.contains("SupplementaryGroups=987\n"), "{gateway}");
        assert!(text(&units, "web@blue.service.d/gaia.conf").contains("/srv/certs/web-service:/etc/gaia\n"));
        // LoadCredential= copies at the start and hides renewals; DynamicUser= hides the tree.
        let of_the_tree = units.iter().filter(|unit| !unit.path.starts_with("gaia-failure@"));
        for unit in of_the_tree {
            assert!(!unit.text.contains("LoadCredential=") && !unit.text.contains("DynamicUser="), "{}", unit.path);
        }
    }

    #[test]
    fn the_forms_have_the_settings_of_their_life_cycle() {
        let units = of("/srv/certs", &["--form", "both"]).unwrap();
        let daemon = text(&units, "gaia.service");
        for line in ["Type=notify", "WatchdogSec=60s", "OnFailure=gaia-failure@%n.service", "User=gaia", "Group=987"] {
            assert!(daemon.lines().any(|other| other == line), "{line}");
        }
        let once = text(&units, "gaia-once.service");
        assert!(once.contains("SuccessExitStatus=1\n") && once.contains("OnFailure="), "{once}");
        let renewal = text(&units, "gaia-renew@.service");
        assert!(renewal.contains(" needs-renewal ") && renewal.contains("ExecCondition="), "{renewal}");
        assert_eq!(
            of("/srv/certs", &["--form", "timer"]).unwrap().iter().filter(|unit| unit.path == "gaia.service").count(),
            0
        );
    }

    #[test]
    fn what_a_unit_cannot_name_is_refused() {
        for dir in ["/srv/a:b", "/srv/a\nUser=root", "/srv/\"a", ""] {
            assert_eq!(of(dir, &[]).unwrap_err().exit(), Exit::Usage, "{dir}");
        }
        for arguments in [["--user", "a b"], ["--group", "no-such-group"]] {
            assert_eq!(of("/srv/certs", &arguments).unwrap_err().exit(), Exit::Usage, "{arguments:?}");
        }
        for services in ["../etc", "a=b/c", "a=.d", "", "A"] {
            assert!(Line::try_parse_from(["unit", "--services", services]).is_err(), "{services}");
        }
    }
}
