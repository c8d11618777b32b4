//! Build of the control plane: one Go module, two static binaries, kept in the cache by the hash of their
//! inputs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::on_path;
use crate::progress::Task;
use crate::{dirs, process};

/// The binaries of the Go module.
#[derive(Clone, Debug)]
pub struct ControlPlaneBinaries {
    /// etcd, kube-apiserver and all other parts of a cluster in one binary.
    pub controlplane: PathBuf,
    /// The first process of every pod.
    pub pause: PathBuf,
}

/// The binaries from the cache, built first if they are missing. Minutes when cold, seconds with compiled Go
/// modules, immediate from the cache. Safe to call from several processes at once.
///
/// # Errors
/// If there is no Go toolchain or the build fails.
pub fn controlplane() -> Result<ControlPlaneBinaries> {
    let source = Path::new(SOURCE);
    let flags = BuildFlags::of_module(source)?;
    let dir = dirs::cache()?.join("controlplane").join(content_hash(source, &flags)?);
    let binaries = ControlPlaneBinaries { controlplane: dir.join("controlplane"), pause: dir.join("pause") };
    if binaries.are_there() {
        return Ok(binaries);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let _one_builder = lock(&dir.join("lock"))?;
    if !binaries.are_there() {
        go_build(source, ".", &flags, &binaries.controlplane)?;
        go_build(source, "./pause", &flags, &binaries.pause)?;
    }
    Ok(binaries)
}

impl ControlPlaneBinaries {
    fn are_there(&self) -> bool {
        self.controlplane.is_file() && self.pause.is_file()
    }
}

/// Runs `command` to its end with a line of progress every few seconds; its output is shown if it fails.
///
/// # Errors
/// If the command cannot be started or fails.
pub(super) fn run_with_progress(what: &str, mut command: Command, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut task = Task::start(what);
    let mut child = process::spawn(command)?;
    let status = loop {
        if let Some(status) = finished(&mut child)? {
            break status;
        }
        task.tick(process::tail(log, 1));
    };
    if !status.success() {
        bail!("{what}: {status}\n{}", process::tail(log, 30));
    }
    task.done();
    Ok(())
}

/// The exit status of a child that has ended; else pauses briefly. Builds are not awaited: a caller may hold a lock.
fn finished(child: &mut Child) -> Result<Option<std::process::ExitStatus>> {
    let status = child.try_wait()?;
    if status.is_none() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(status)
}

/// Takes a lock that the kernel releases when this process ends.
pub(super) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        let task = Task::start(format!("waiting for another build ({})", path.display()));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        task.done();
    }
    Ok(file)
}

fn go_build(source: &Path, package: &str, flags: &BuildFlags, target: &Path) -> Result<()> {
    let go = on_path("go").context(
        "the control plane must be built and there is no `go` on PATH: run `make deps`, or set KUBEBUILDER_ASSETS",
    )?;
    // Written under another name first: the file at `target` is always complete.
    let unfinished = target.with_extension(format!("{}.tmp", std::process::id()));
    let mut command = Command::new(go);
    command.current_dir(source).env("CGO_ENABLED", "0").arg("build").args(flags.arguments());
    command.arg("-o").arg(&unfinished).arg(package);
    let what = format!("building {} (cold: 3 to 10 minutes)", target.display());
    run_with_progress(&what, command, &target.with_extension("build.log"))?;
    std::fs::rename(&unfinished, target).with_context(|| format!("cannot put {} in place", target.display()))
}

/// The build settings, apart from the sources.
struct BuildFlags {
    ldflags: String,
}

impl BuildFlags {
    /// Sets the version from `go.mod` in the variables that report it.
    fn of_module(source: &Path) -> Result<Self> {
        let path = source.join("go.mod");
        let module = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let version = required_version(&module, "k8s.io/kubernetes")
            .with_context(|| format!("{} does not require k8s.io/kubernetes", path.display()))?;
        Ok(Self { ldflags: ldflags(version)? })
    }

    fn arguments(&self) -> [&str; 5] {
        ["-trimpath", "-tags", "providerless", "-ldflags", &self.ldflags]
    }
}

fn required_version<'a>(module: &'a str, package: &str) -> Option<&'a str> {
    module.lines().find_map(|line| line.trim().strip_prefix(package)?.strip_prefix(' ')).map(str::trim)
}

fn ldflags(version: &str) -> Result<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("{version} is not a version of Kubernetes");
    };
    let stamps = [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in stamps {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    Ok(flags)
}

/// Names a build by the hash of all its inputs.
fn content_hash(source: &Path, flags: &BuildFlags) -> Result<String> {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for name in SOURCES {
        let path = source.join(name);
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hash.update(format!("{name} {}\n", content.len()).as_bytes());
        hash.update(&content);
    }
    hash.update(flags.arguments().join(" ").as_bytes());
    Ok(hash.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/controlplane");
const SOURCES: [&str; 4] = ["go.mod", "go.sum", "main.go", "pause/main.go"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_go_mod_is_stamped_into_server_and_clients() {
        let module = "require (\n\tk8s.io/kubernetes-csi v9.9.9\n\tk8s.io/kubernetes v1.36.3\n)";
        let flags = ldflags(required_version(module, "k8s.io/kubernetes").unwrap()).unwrap();
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.3"), "{flags}");
        assert!(flags.contains("-X k8s.io/client-go/pkg/version.gitMinor=36"), "{flags}");
    }

    #[test]
    fn every_go_source_of_the_module_counts_for_the_hash() {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(SOURCE)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "go") {
                    found.push(path.strip_prefix(SOURCE).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        assert!(found.iter().all(|path| SOURCES.contains(&path.as_str())), "not in SOURCES: {found:?}");
    }
}
