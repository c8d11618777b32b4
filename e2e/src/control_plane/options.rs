//! Options of a control plane on loopback.

use std::path::PathBuf;
use std::time::Duration;

use crate::assets::ControlPlaneAssets;

/// Options to start a [`ControlPlane`](super::ControlPlane). The default is right for tests.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// Directory of its files: keys, data, logs, kubeconfigs. A new directory if not set.
    pub dir: Option<PathBuf>,
    /// The programs. Found or built if not set.
    pub assets: Option<ControlPlaneAssets>,
    /// Added to the flags of kube-apiserver; a flag given again overrides ours.
    pub apiserver_flags: Vec<String>,
    /// Time-out until the API server is ready.
    pub timeout: Duration,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self { dir: None, assets: None, apiserver_flags: Vec::new(), timeout: Duration::from_secs(60) }
    }
}

impl ControlPlaneOptions {
    /// In this directory, which is created if missing.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// With another flag of kube-apiserver.
    #[must_use]
    pub fn apiserver_flag(mut self, flag: &str) -> Self {
        self.apiserver_flags.push(flag.to_owned());
        self
    }
}
