//! Commands as a user would type them: each is printed before it runs.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use gaia_e2e::assets::Tool;
use gaia_e2e::process;
use gaia_e2e::progress::tell;

/// A shell in the directory of the demo's files, with the cluster's own kubectl.
#[derive(Debug)]
pub(super) struct Shell {
    dir: PathBuf,
}

impl Shell {
    /// Writes `env`, which must be sourced to repeat the commands.
    pub(super) fn new(dir: &Path, kubeconfig: &Path, kubectl: &Tool) -> Result<Self> {
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let mut script = format!("#!/bin/sh\nexec '{}'", kubectl.program.display());
        if let Some(part) = &kubectl.part {
            write!(script, " {part}")?;
        }
        script.push_str(" \"$@\"\n");
        std::fs::write(bin.join("kubectl"), script)?;
        std::fs::set_permissions(bin.join("kubectl"), std::fs::Permissions::from_mode(0o755))?;
        let environment = format!(
            "cd '{}'\nexport KUBECONFIG='{}' PATH='{}':\"$PATH\" no_proxy='*'\n",
            dir.display(),
            kubeconfig.display(),
            bin.display(),
        );
        std::fs::write(dir.join("env"), environment)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The working directory of commands.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Prints a command and its output, which is returned too.
    pub(super) async fn show(&self, command: &str) -> Result<String> {
        let output = self.run(command).await?;
        let printed = text(&output);
        tell_command(command, &printed);
        ensure!(output.status.success(), "`{command}` ended with {}:\n{printed}", output.status);
        Ok(printed)
    }

    /// Prints a request with curl, whose answer must have this status.
    pub(super) async fn show_call(&self, status: u16, command: &str) -> Result<()> {
        let printed = self.show(command).await?;
        let expected = status.to_string();
        let got = |line: &str| line == expected || line.starts_with("HTTP/") && line.contains(&format!(" {expected}"));
        ensure!(printed.lines().any(got), "`{command}` did not answer with {status}:\n{printed}");
        Ok(())
    }

    async fn run(&self, command: &str) -> Result<Output> {
        let mut shell = Command::new("sh");
        shell.current_dir(&self.dir).arg("-c").arg(format!(". ./env; {command}"));
        process::output(shell).await
    }
}

fn tell_command(command: &str, printed: &str) {
    let mut told = String::new();
    for (number, line) in command.lines().enumerate() {
        told.push_str(if number == 0 { "   $ " } else { "\n   " });
        told.push_str(line);
    }
    for line in printed.lines() {
        told.push_str("\n   ");
        told.push_str(line);
    }
    tell(told);
}

/// Output and error output.
fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&all).replace('\r', "");
    text.trim_end().to_owned()
}
