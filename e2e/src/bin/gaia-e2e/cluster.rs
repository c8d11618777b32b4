//! `gaia-e2e cluster up|down|status`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use gaia_e2e::supervisor::{Kind, Site};

use crate::print_path;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a cluster, unless it is up, and print the path of its kubeconfig.
    Up(SiteArguments),
    /// Stop a cluster, or a demo that was left running, and remove its files except logs.
    Down(SiteArguments),
    /// Print the path of a cluster's kubeconfig; exit status 1 if the cluster is not up.
    Status(SiteArguments),
    /// Import container images into a node that is up.
    Load {
        /// docker-archive or OCI tar files.
        #[arg(required = true, value_name = "IMAGE.tar")]
        images: Vec<PathBuf>,
        #[command(flatten)]
        site: SiteArguments,
    },
    /// Run a cluster in the foreground, until SIGTERM.
    #[command(hide = true)]
    Supervise(SiteArguments),
}

/// A kind of cluster.
#[derive(Args)]
pub(crate) struct SiteArguments {
    /// A whole node, with kubelet and containerd, instead of a control plane on loopback. Needs root.
    #[arg(long)]
    node: bool,
    /// Directory of the cluster's files and logs.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl SiteArguments {
    fn is_default(&self) -> bool {
        !self.node && self.dir.is_none()
    }

    pub(crate) fn site(self) -> Result<Site> {
        Site::new(if self.node { Kind::Node } else { Kind::Loopback }, self.dir)
    }
}

pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => print_path(&arguments.site()?.up().await?),
        Command::Down(arguments) => {
            // A demo that was left running is stopped like a cluster.
            if arguments.is_default() {
                Site::new(Kind::Demo, None)?.down().await?;
            }
            arguments.site()?.down().await?;
        }
        Command::Status(arguments) => match arguments.site()?.kubeconfig() {
            Some(kubeconfig) => print_path(&kubeconfig),
            None => return Ok(ExitCode::FAILURE),
        },
        Command::Load { images, site } => {
            let site = site.site()?;
            for image in images {
                site.load_image(&image).await?;
            }
        }
        Command::Supervise(arguments) => arguments.site()?.supervise().await?,
    }
    Ok(ExitCode::SUCCESS)
}
