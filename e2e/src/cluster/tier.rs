//! The behaviour of a test without its cluster: it prints this and passes, or fails where the machine must
//! have one (`REQUIRE_KUBE=1`, `REQUIRE_NODE=1`).

use std::ops::Deref;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::Result;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::assets::ControlPlaneAssets;
use crate::progress::say;
use crate::{Cluster, ControlPlane, ControlPlaneOptions, Node};

/// The permission to be one of the tests of this program that use a control plane at the same time. The others wait, on a thread
/// of their own: so a program can have more test threads than the machine has capacity for, and a test that waits for
/// something else, such as the node, delays no other one.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<SemaphorePermit<'static>>,
}

impl Turn {
    /// Waits for one. A test must not take a second one while it holds the first.
    pub async fn take() -> Self {
        // The semaphore is never closed.
        Self { _permit: TURNS.acquire().await.ok() }
    }

    /// Waits for half of all turns: for a test whose time limits are those of a node, on which pods start and reload.
    pub async fn take_half() -> Self {
        let half = u32::try_from(turns().div_ceil(2)).unwrap_or(1);
        Self { _permit: TURNS.acquire_many(half).await.ok() }
    }
}

static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(turns()));

/// `GAIA_E2E_TURNS`, else three for each core, as the tests mostly wait, but at most 12: a control plane needs 400 MB and four of the
/// 128 inotify instances of a user.
fn turns() -> usize {
    let set = std::env::var("GAIA_E2E_TURNS").ok().and_then(|text| text.parse().ok());
    let default = || std::thread::available_parallelism().map_or(3, |cores| 3 * cores.get()).min(12);
    set.unwrap_or_else(default).max(1)
}

/// True if tests with a short and a long form run the long one: `GAIA_E2E_LONG=1`, set by `make test-long`.
pub fn is_long() -> bool {
    std::env::var_os("GAIA_E2E_LONG").is_some_and(|value| value == "1")
}

/// A kind of cluster that tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// A control plane on loopback.
    B,
    /// A cluster whose pods run.
    C,
}

/// A control plane that several tests of one program share: a `static` of the module that installs objects on it. It is
/// started for the first test that needs it and runs until the program ends.
#[derive(Debug, Default)]
pub struct SharedControlPlane(OnceCell<Result<ControlPlane, String>>);

impl SharedControlPlane {
    /// One that is not started yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }

    /// The control plane. `None` if it is not available: the test returns. A test that holds no [`Turn`] takes one first.
    ///
    /// Tests that stop parts of it take [`own_control_plane`].
    ///
    /// # Panics
    /// If the programs exist and the control plane does not start, or if `REQUIRE_KUBE` is set and it is not available.
    pub async fn get(&'static self) -> Option<&'static ControlPlane> {
        let start = async || match locate().await {
            Ok(assets) => Ok(start_with(assets, ControlPlaneOptions::default()).await),
            Err(why) => Err(format!("{why:#}")),
        };
        available(Tier::B, self.0.get_or_init(start).await.as_ref())
    }
}

/// A control plane for one test, which may break it. It holds a [`Turn`] until it is dropped.
///
/// # Panics
/// As [`SharedControlPlane::get`].
pub async fn own_control_plane(options: ControlPlaneOptions) -> Option<ControlPlane> {
    let assets = available(Tier::B, locate().await)?;
    let turn = Turn::take().await;
    Some(start_with(assets, options).await.held_with(turn))
}

async fn locate() -> Result<ControlPlaneAssets> {
    tokio::task::spawn_blocking(ControlPlaneAssets::locate).await?
}

/// Starts one of at most [`STARTING`] at a time: a start takes seconds of CPU time, and has a time-out.
async fn start_with(assets: ControlPlaneAssets, options: ControlPlaneOptions) -> ControlPlane {
    static STARTS: Semaphore = Semaphore::const_new(STARTING);
    let _start = STARTS.acquire().await;
    must_start(ControlPlane::start(ControlPlaneOptions { assets: Some(assets), ..options }).await)
}

/// A cluster whose pods run, shared by the tests of this program: the one that `GAIA_E2E_KUBECONFIG` names, else a node
/// of this harness. `None` if it is not available: the test returns.
///
/// # Panics
/// If the machine can run a node and the node does not start (another one may run), or if `REQUIRE_NODE` is set and it
/// is not available.
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

/// The right to give a process mounts of its own, as root has. `None` without it: the test returns.
///
/// # Panics
/// If `REQUIRE_NODE` is set and the right is missing.
pub async fn mount_namespace() -> Option<()> {
    let tried = tokio::process::Command::new("unshare").args(["--mount", "true"]).output().await;
    let found = match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("unshare --mount: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("unshare: {error}")),
    };
    available(Tier::C, found)
}

async fn node_requirements() -> Result<()> {
    crate::node::check_requirements()?;
    locate().await.map(drop)
}

/// A cluster whose pods run. It is a [`Cluster`].
#[derive(Debug)]
pub enum PodCluster {
    /// Started here, and running as long as this program.
    Own(Box<Node>),
    /// An external one.
    External(Cluster),
}

impl PodCluster {
    /// Imports the images of a tar into the cluster. An external cluster is unchanged: its owner must have imported
    /// them.
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

/// An external cluster, if `GAIA_E2E_KUBECONFIG` names one.
///
/// # Panics
/// If it names one that cannot be used.
pub fn external_cluster() -> Option<Cluster> {
    let kubeconfig = std::env::var_os("GAIA_E2E_KUBECONFIG").filter(|path| !path.is_empty())?;
    Some(must_start(Cluster::external(kubeconfig)))
}

/// The value, or `None` with a message about the skipped test.
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

#[expect(clippy::panic, reason = "an existing but broken cluster is a failure of the test")]
fn must_start<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The number of control planes that start at a time.
const STARTING: usize = 2;
