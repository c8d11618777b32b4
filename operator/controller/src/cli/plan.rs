//! `gaia-operator plan`: prints the actions that are due now. Reads the cluster, writes nothing.

use std::io::Write as _;
use std::sync::Arc;

use gaia_api::{Clock as _, SystemClock};

use crate::cache::lock;
use crate::cli::config::ClusterArgs;
use crate::cli::run::connect;
use crate::observability::metrics::Metrics;
use crate::process::operator::{new_world, wait_for_lists};
use crate::reconcile::plan;
use crate::schedule::scheduler::Scheduler;
use crate::watch::Watches;

/// Flags of `gaia-operator plan`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Output format of the actions.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// A line each.
    Text,
    /// A JSON array.
    Json,
}

pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let client = connect(&metrics).await?;
    let namespace = args.cluster.namespace();
    let watched = args.cluster.namespaces();
    let world = new_world(&namespace, &args.cluster.cluster_domain, &watched, args.cluster.abilities());
    let watches = Watches::new(Arc::clone(&world), Scheduler::new(0), metrics);
    watches.start(&client, &namespace, &watched);
    wait_for_lists(&watches).await;
    let now = SystemClock.now();
    let mut out = std::io::stdout().lock();
    let world = lock(&world);
    let mut keys = world.all_keys();
    keys.sort();
    let planned: Vec<_> = keys.iter().filter_map(|key| Some((key, plan(&world, key, now)?.actions))).collect();
    if args.output == Output::Json {
        let list: Vec<_> = planned
            .iter()
            .flat_map(|(key, actions)| {
                actions.iter().map(move |action| serde_json::json!({ "for": key.to_string(), "action": action }))
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let count: usize = planned.iter().map(|(_, actions)| actions.len()).sum();
    for (key, actions) in &planned {
        for action in actions {
            writeln!(out, "{key}: {action}")?;
        }
    }
    writeln!(out, "{count} actions for {} objects; nothing was written", keys.len())?;
    Ok(())
}
