//! What a control plane on loopback can be told.

use std::path::PathBuf;
use std::time::Duration;

use crate::assets::ControlPlaneAssets;

/// How to start a [`ControlPlane`](super::ControlPlane). The default is right for tests.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// Where its files go: keys, data, logs, kubeconfigs. A new directory if not set.
    pub dir: Option<PathBuf>,
    /// The programs. Located or built if not set.
    pub assets: Option<ControlPlaneAssets>,
    /// Added to the flags of kube-apiserver; a flag given again overrides ours.
    pub apiserver_flags: Vec<String>,
    /// How long the API server may take until it is ready.
    pub timeout: Duration,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self { dir: None, assets: None, apiserver_flags: Vec::new(), timeout: Duration::from_secs(60) }
    }
}

impl ControlPlaneOptions {
    /// In this directory, which is made if it is not there.
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
