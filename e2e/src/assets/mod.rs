//! The programs of a cluster: found where other tools left them, or built from `e2e/controlplane`.
//!
//! Search order:
//! 1. `TEST_ASSET_ETCD` and `TEST_ASSET_KUBE_APISERVER` (and, if set, `TEST_ASSET_KUBE_CONTROLLER_MANAGER`,
//!    `TEST_ASSET_KUBECTL`);
//! 2. the directory `KUBEBUILDER_ASSETS`, as `setup-envtest` fills it;
//! 3. the project's build in the cache, `controlplane/<hash of its sources and flags>`;
//! 4. `go build` in `e2e/controlplane`, into that cache.
//!

mod build;
mod helm;
mod python;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use build::controlplane;
pub use helm::helm;
pub use python::{python_with, python_with_jwt};

/// A program, and the argument that selects a part of it where one program has many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The file to run.
    pub program: PathBuf,
    /// Precedes all other arguments.
    pub part: Option<String>,
}

impl Tool {
    /// A program without such an argument.
    pub fn program(path: impl Into<PathBuf>) -> Self {
        Self { program: path.into(), part: None }
    }

    /// One part of a program that has many.
    pub fn part(path: impl Into<PathBuf>, part: &str) -> Self {
        Self { program: path.into(), part: Some(part.to_owned()) }
    }

    /// A command that runs the tool.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.part);
        command
    }
}

/// The parts of a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneAssets {
    /// etcd.
    pub etcd: Tool,
    /// kube-apiserver.
    pub kube_apiserver: Tool,
    /// kube-controller-manager. `setup-envtest` has none: then there is no garbage collection and namespaces stay Terminating.
    pub kube_controller_manager: Option<Tool>,
    /// kubectl.
    pub kubectl: Tool,
}

impl ControlPlaneAssets {
    /// Finds the parts, or builds them.
    ///
    /// # Errors
    /// If a path in the environment does not exist, or nothing is found and the build fails.
    pub fn locate() -> Result<Self> {
        match Self::from_environment(&|name| std::env::var_os(name))? {
            Some(assets) => Ok(assets),
            None => Ok(Self::of_one_binary(&controlplane()?.controlplane)),
        }
    }

    /// The parts of the project's own build, which is one binary.
    pub fn of_one_binary(binary: &Path) -> Self {
        Self {
            etcd: Tool::part(binary, "etcd"),
            kube_apiserver: Tool::part(binary, "kube-apiserver"),
            kube_controller_manager: Some(Tool::part(binary, "kube-controller-manager")),
            kubectl: Tool::part(binary, "kubectl"),
        }
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Self>> {
        let directory = variable("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let named = |name: &str, program: &str| -> Option<PathBuf> {
            variable(name).map(PathBuf::from).or_else(|| directory.as_ref().map(|dir| dir.join(program)))
        };
        let etcd = named("TEST_ASSET_ETCD", "etcd");
        let kube_apiserver = named("TEST_ASSET_KUBE_APISERVER", "kube-apiserver");
        let (etcd, kube_apiserver) = match (etcd, kube_apiserver) {
            (None, None) => return Ok(None),
            (Some(etcd), Some(kube_apiserver)) => (etcd, kube_apiserver),
            _ => bail!("set both TEST_ASSET_ETCD and TEST_ASSET_KUBE_APISERVER, or neither"),
        };
        let optional = |path: Option<PathBuf>| path.filter(|path| path.is_file()).map(Tool::program);
        let kubectl =
            optional(named("TEST_ASSET_KUBECTL", "kubectl")).or_else(|| on_path("kubectl").map(Tool::program));
        Ok(Some(Self {
            etcd: existing(etcd)?,
            kube_apiserver: existing(kube_apiserver)?,
            kube_controller_manager: optional(named("TEST_ASSET_KUBE_CONTROLLER_MANAGER", "kube-controller-manager")),
            kubectl: kubectl.context("no kubectl: set TEST_ASSET_KUBECTL or have one on PATH")?,
        }))
    }
}

/// kubectl alone, for an external cluster.
///
/// # Errors
/// If there is none and it cannot be built.
pub fn kubectl() -> Result<Tool> {
    if let Some(path) = std::env::var_os("TEST_ASSET_KUBECTL") {
        return existing(path.into());
    }
    match on_path("kubectl") {
        Some(path) => Ok(Tool::program(path)),
        None => Ok(Tool::part(controlplane()?.controlplane, "kubectl")),
    }
}

/// A program by its name on `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

fn existing(path: PathBuf) -> Result<Tool> {
    if !path.is_file() {
        bail!("the environment names {}, which is not a file", path.display());
    }
    Ok(Tool::program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &Path)]) -> Result<Option<ControlPlaneAssets>> {
        ControlPlaneAssets::from_environment(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, path)| path.into())
        })
    }

    fn directory_with(programs: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for program in programs {
            std::fs::write(dir.path().join(program), "").unwrap();
        }
        dir
    }

    #[test]
    fn an_environment_that_names_nothing_leaves_it_to_our_own_build() {
        assert_eq!(from(&[]).unwrap(), None);
    }

    #[test]
    fn kubebuilder_assets_are_taken_and_have_no_controller_manager() {
        let dir = directory_with(&["etcd", "kube-apiserver", "kubectl"]);
        let assets = from(&[("KUBEBUILDER_ASSETS", dir.path())]).unwrap().unwrap();
        assert_eq!(assets.kube_apiserver, Tool::program(dir.path().join("kube-apiserver")));
        assert_eq!(assets.kubectl, Tool::program(dir.path().join("kubectl")));
        assert_eq!(assets.kube_controller_manager, None);
    }

    #[test]
    fn a_single_named_program_goes_before_the_directory() {
        let dir = directory_with(&["etcd", "kube-apiserver", "kubectl", "mine"]);
        let mine = dir.path().join("mine");
        let assets = from(&[("KUBEBUILDER_ASSETS", dir.path()), ("TEST_ASSET_ETCD", &mine)]).unwrap().unwrap();
        assert_eq!(assets.etcd, Tool::program(mine));
    }

    #[test]
    fn a_named_program_that_is_not_there_is_an_error_that_names_it() {
        let missing = Path::new("/nonexistent/etcd");
        let error = from(&[("TEST_ASSET_ETCD", missing), ("TEST_ASSET_KUBE_APISERVER", missing)]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/etcd"), "{error}");
    }

    #[test]
    fn half_of_the_environment_is_an_error() {
        assert!(from(&[("TEST_ASSET_ETCD", Path::new("/bin/sh"))]).is_err());
    }
}
