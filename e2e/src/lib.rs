//! Harness for Gaia's scenario tests, its demo and its benchmarks, on real Kubernetes API servers.
//!
//! - [`ControlPlane`]: etcd, kube-apiserver and kube-controller-manager on loopback, without root, up in seconds;
//! - [`Node`]: a whole node, with kubelet and containerd, for root;
//! - [`Cluster`]: operations on any cluster: clients, kubectl, CRDs, namespaces, kubeconfigs;
//! - [`AuditLog`]: the requests to the API server;
//! - [`OperatorProcess`] and [`Process`]: programs under test, which can be killed, paused and restarted;
//! - [`ServiceProcess`] and [`Curl`]: Gaia's services as local processes, and an independent client;
//! - [`Projection`]: replaces the kubelet where there is none: Secrets and ConfigMaps as mounted files;
//! - [`Platform`]: operator and services together on a control plane, with their objects;
//! - [`load`]: traffic on services, with a result for every request;
//! - [`browser`]: a real Chromium, for the tests of pages;
//! - [`rehearsal`]: years of rotations in minutes, on a clock that the test sets;
//! - [`image`]: container images without a daemon;
//! - [`wait`]: waiting for a condition, instead of sleeping;
//! - [`tier`]: the behaviour of a test without its cluster.
//!
//! Stand-ins for the external servers that the services call are in `gaia-stand-ins`.
//!
//! Everything that is started here ends with the process that started it, also when that is killed with SIGKILL.

pub mod assets;
pub mod authority;
pub mod browser;
pub mod cluster;
pub mod control_plane;
pub mod curl;
pub mod dirs;
pub mod http;
pub mod image;
pub mod load;
pub mod node;
pub mod platform;
pub mod process;
pub mod progress;
pub mod projection;
pub mod rehearsal;
pub mod wait;

pub use cluster::audit::{AuditLog, AuditRecord};
pub use cluster::{Cluster, audit, tier};
pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use curl::Curl;
pub use node::Node;
pub use platform::operator::{OperatorOptions, OperatorProcess};
pub use platform::services::{ServiceOptions, ServiceProcess};
pub use platform::standalone::{Standalone, Within};
pub use platform::{Platform, PlatformOptions, chart, five, migration, operator, services, standalone};
pub use process::memory_cgroup::MemoryCgroup;
pub use process::{Process, ProcessSpec, programs, supervisor};
pub use projection::{KeptProjection, Projection, Source};
