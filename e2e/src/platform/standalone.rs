//! A service as a local process on files that the test writes, without a cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use gaia_runtime::testing::{Mount, MountedFiles};

use crate::control_plane::ports;
use crate::services::WITH_EDGE;
use crate::{MemoryCgroup, Process, ProcessSpec, http, programs, wait};

/// A running service. It is a [`Process`].
#[derive(Debug)]
pub struct Standalone {
    process: Process,
    /// Its address for other services.
    pub mesh: SocketAddr,
    /// The address of its probes and metrics.
    pub admin: SocketAddr,
    /// Its address for users, if it has an ingress listener.
    pub edge: SocketAddr,
    /// The mounted files; they may be replaced.
    pub mount: Mount,
}

/// The bounds of a process.
#[derive(Clone, Copy, Debug)]
pub enum Within<'a> {
    /// Those of this process.
    Nothing,
    /// A memory limit.
    Cgroup(&'a MemoryCgroup),
    /// A folder that is a file system of this size, for the process alone. Needs [`crate::tier::mount_namespace`].
    Disk {
        /// The folder.
        folder: &'a Path,
        /// Its size.
        kib: u32,
    },
}

impl Standalone {
    /// Runs one of Gaia's programs with these files mounted, its log and all other files in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// If it is not built, or does not become ready: with the end of its log.
    pub async fn start(program: &str, dir: &Path, files: &MountedFiles, env: &[(&str, &str)]) -> Result<Self> {
        Self::start_within(program, dir, files, env, Within::Nothing).await
    }

    /// The same within bounds.
    ///
    /// # Errors
    /// As [`Standalone::start`].
    pub async fn start_within(
        program: &str,
        dir: &Path,
        files: &MountedFiles,
        env: &[(&str, &str)],
        within: Within<'_>,
    ) -> Result<Self> {
        let mounted = dir.join("gaia");
        let mount = Mount::new(&mounted, files);
        let [mesh, admin, edge] = ports::free()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut all = BTreeMap::from([
            ("GAIA_SERVICE_NAME", program.to_owned()),
            ("GAIA_DIR", mounted.display().to_string()),
            ("GAIA_MESH_ADDRESS", mesh.to_string()),
            ("GAIA_ADMIN_ADDRESS", admin.to_string()),
            ("GAIA_RELOAD_INTERVAL", "1s".to_owned()),
        ]);
        if WITH_EDGE.contains(&program) {
            all.insert("GAIA_EDGE_ADDRESS", edge.to_string());
        }
        if program == "asset-service" {
            all.insert("GAIA_OBJECT_STORE_URL", format!("file://{}", dir.join("assets").display()));
        }
        all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let located = programs::locate(program)?;
        let mut spec = match within {
            Within::Nothing => ProcessSpec::new(program, located, dir),
            Within::Cgroup(cgroup) => ProcessSpec::new(program, "/bin/sh", dir).args(cgroup.shell_arguments(&located)),
            Within::Disk { folder, kib } => {
                let mount = format!("mkdir -p \"$1\" && mount -t tmpfs -o size={kib}k tmpfs \"$1\" && exec \"$0\"");
                ProcessSpec::new(program, "unshare", dir)
                    .args(["--mount", "/bin/sh", "-c", &mount])
                    .args([located.as_os_str(), folder.as_os_str()])
            }
        };
        for (name, value) in all {
            spec = spec.env(name, value);
        }
        let service = Self { process: Process::start(spec)?, mesh, admin, edge, mount };
        let what = format!("{program} is ready");
        let ready = wait::until(&what, READY_WITHIN, || service.ready()).await;
        ready.map_err(|error| error.context(format!("the end of its log:\n{}", service.log_tail())))?;
        Ok(service)
    }

    /// The content of `/readyz`, if the service is ready.
    ///
    /// # Errors
    /// If it is not.
    pub async fn ready(&self) -> Result<()> {
        self.get("/readyz").await.map(drop)
    }

    /// The content of `/metrics`.
    ///
    /// # Errors
    /// If it does not answer with 200.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    async fn get(&self, path: &str) -> Result<String> {
        let (status, body) = http::get(&format!("http://{}{path}", self.admin)).await?;
        ensure!(status == 200, "{path} says {status}: {body}");
        Ok(body)
    }
}

impl Deref for Standalone {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

const READY_WITHIN: Duration = Duration::from_secs(60);
