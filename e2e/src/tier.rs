//! What a test does when the cluster it needs cannot be had: it says so and passes, or fails where the machine is meant
//! to have one (`REQUIRE_KUBE=1`, `REQUIRE_NODE=1`).

use std::ops::Deref;
use std::path::Path;

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::assets::ControlPlaneAssets;
use crate::progress::say;
use crate::{Cluster, ControlPlane, ControlPlaneOptions, Node};

/// A kind of cluster that tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// A control plane on loopback.
    B,
    /// A cluster whose pods run.
    C,
}

/// The control plane that the tests of this program share. `None` if it cannot be had: the test returns.
///
/// Tests that stop parts of it take [`own_control_plane`].
///
/// # Panics
/// If the programs are there and the control plane does not start, or if `REQUIRE_KUBE` is set and it cannot be had.
pub async fn control_plane() -> Option<&'static ControlPlane> {
    static SHARED: OnceCell<Result<ControlPlane, String>> = OnceCell::const_new();
    let start = async || match locate().await {
        Ok(assets) => Ok(start_with(assets, ControlPlaneOptions::default()).await),
        Err(why) => Err(format!("{why:#}")),
    };
    available(Tier::B, SHARED.get_or_init(start).await.as_ref())
}

/// A control plane for one test, which may break it.
///
/// # Panics
/// As [`control_plane`].
pub async fn own_control_plane(options: ControlPlaneOptions) -> Option<ControlPlane> {
    Some(start_with(available(Tier::B, locate().await)?, options).await)
}

async fn locate() -> Result<ControlPlaneAssets> {
    tokio::task::spawn_blocking(ControlPlaneAssets::locate).await?
}

async fn start_with(assets: ControlPlaneAssets, options: ControlPlaneOptions) -> ControlPlane {
    must_start(ControlPlane::start(ControlPlaneOptions { assets: Some(assets), ..options }).await)
}

/// A cluster whose pods run, shared by the tests of this program: the one that `GAIA_E2E_KUBECONFIG` names, else a node
/// of our own. `None` if it cannot be had: the test returns.
///
/// # Panics
/// If the machine can run a node and the node does not start (another one may run), or if `REQUIRE_NODE` is set and it
/// cannot be had.
pub async fn node() -> Option<&'static PodCluster> {
    static SHARED: OnceCell<Result<PodCluster, String>> = OnceCell::const_new();
    let start = async || match external_cluster() {
        Some(cluster) => Ok(PodCluster::External(cluster)),
        None => match node_requirements().await {
            Ok(()) => Ok(PodCluster::Own(Box::new(must_start(Node::start_for_test().await)))),
            Err(why) => Err(format!("{why:#}")),
        },
    };
    available(Tier::C, SHARED.get_or_init(start).await.as_ref())
}

/// A node for one test. There is one per machine: not for programs whose tests share one.
///
/// # Panics
/// As [`node`].
pub async fn own_node() -> Option<Node> {
    available(Tier::C, node_requirements().await)?;
    Some(must_start(Node::start_for_test().await))
}

async fn node_requirements() -> Result<()> {
    crate::node::check_requirements()?;
    locate().await.map(drop)
}

/// A cluster whose pods run. It is a [`Cluster`].
#[derive(Debug)]
pub enum PodCluster {
    /// Ours, for as long as this program runs.
    Own(Box<Node>),
    /// Somebody else's.
    External(Cluster),
}

impl PodCluster {
    /// Makes the images of a tar known to the cluster. One that is not ours is left to its owner, who must have put
    /// them there.
    ///
    /// # Errors
    /// If containerd refuses them.
    pub async fn load_image(&self, tar: &Path) -> Result<()> {
        match self {
            Self::Own(node) => node.load_image(tar).await,
            Self::External(_) => {
                say(format_args!("{}: expected to be in the cluster already", tar.display()));
                Ok(())
            }
        }
    }
}

impl Deref for PodCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match self {
            Self::Own(node) => node,
            Self::External(cluster) => cluster,
        }
    }
}

/// A cluster of somebody else's, if `GAIA_E2E_KUBECONFIG` names one.
///
/// # Panics
/// If it names one that cannot be used.
pub fn external_cluster() -> Option<Cluster> {
    let kubeconfig = std::env::var_os("GAIA_E2E_KUBECONFIG").filter(|path| !path.is_empty())?;
    Some(must_start(Cluster::external(kubeconfig)))
}

/// The value, or `None` with a loud word about what is not tested.
///
/// # Panics
/// If the tier is required.
pub fn available<T, E: std::fmt::Display>(tier: Tier, found: Result<T, E>) -> Option<T> {
    match found {
        Ok(value) => Some(value),
        Err(why) => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            assert!(!tier.is_required(), "{test} needs tier {tier:?}, and {} is set: {why:#}", tier.variable());
            say(format_args!("SKIPPED (tier {tier:?}): {test}: {why:#}"));
            None
        }
    }
}

impl Tier {
    fn variable(self) -> &'static str {
        match self {
            Self::B => "REQUIRE_KUBE",
            Self::C => "REQUIRE_NODE",
        }
    }

    fn is_required(self) -> bool {
        std::env::var_os(self.variable()).is_some_and(|value| value == "1")
    }
}

#[expect(clippy::panic, reason = "what is there and does not work is a failure of the test")]
fn must_start<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}
