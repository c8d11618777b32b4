//! Flags and environment of `gaia-operator run`.

use std::net::SocketAddr;

use gaia_plan::trust_domain::Abilities;

/// Settings of the operator. Every flag has an environment variable of the same name.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Address for /livez, /readyz and /metrics.
    #[arg(long, env = "GAIA_ADMIN_ADDRESS", default_value = "0.0.0.0:9090")]
    pub(crate) admin_address: SocketAddr,
    /// Decide only while holding the Lease gaia-operator. Without it, never run two replicas.
    #[arg(long, env = "GAIA_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) leader_election: bool,
    /// Maximum re-issuance rate per second during a rotation; 0: unlimited.
    #[arg(long, env = "GAIA_REISSUE_PER_SECOND", default_value_t = 50)]
    pub(crate) reissue_per_second: u32,
    /// Log level, or a tracing filter such as info,gaia_operator=debug. Targets other than gaia_* have no effect.
    #[arg(long, env = "GAIA_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Log format.
    #[arg(long, env = "GAIA_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub(crate) log_format: LogFormat,
}

/// The cluster, the watched namespaces, and the operations allowed on pods there. The kubeconfig is taken from
/// KUBECONFIG, else from the pod.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Namespace of the rings; default: the pod's own namespace, else gaia-system. It must exist.
    #[arg(long, env = "GAIA_OPERATOR_NAMESPACE")]
    pub(crate) operator_namespace: Option<String>,
    /// Namespaces to look after, separated by commas; empty: all.
    #[arg(long, env = "GAIA_WATCH_NAMESPACES", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,
    /// The cluster's DNS domain.
    #[arg(long, env = "GAIA_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Annotate lagging pods, so that the kubelet updates their mounts at once. Needs the right to patch pods.
    #[arg(long, env = "GAIA_NUDGE", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) nudge: bool,
    /// Restart workloads named in workload.restartTargets whose pods do not reload. Needs the right to patch them.
    #[arg(long, env = "GAIA_RESTART", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) restart: bool,
}

/// Log lines for programs or for humans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Plain text.
    Text,
}

impl ClusterArgs {
    /// The namespace of the rings.
    pub(crate) fn namespace(&self) -> String {
        let own = || std::fs::read_to_string(NAMESPACE_FILE).ok().map(|text| text.trim().to_owned());
        let given = self.operator_namespace.clone().filter(|name| !name.is_empty());
        given.or_else(own).unwrap_or_else(|| "gaia-system".to_owned())
    }

    /// The namespaces to look after, without empty entries.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let names = self.watch_namespaces.iter().map(|name| name.trim().to_owned());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// The operations that are enabled on pods and workloads.
    pub(crate) fn abilities(&self) -> Abilities {
        Abilities { nudge: self.nudge, restart: self.restart }
    }
}

/// Unknown variables with Gaia's prefix: most likely a typing error.
pub(crate) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    names.filter(|name| name.starts_with("GAIA_") && !KNOWN.contains(&name.as_str())).collect()
}

const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const KNOWN: [&str; 10] = [
    "GAIA_ADMIN_ADDRESS",
    "GAIA_LEADER_ELECTION",
    "GAIA_REISSUE_PER_SECOND",
    "GAIA_LOG",
    "GAIA_LOG_FORMAT",
    "GAIA_OPERATOR_NAMESPACE",
    "GAIA_WATCH_NAMESPACES",
    "GAIA_CLUSTER_DOMAIN",
    "GAIA_NUDGE",
    "GAIA_RESTART",
];

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn abilities(flags: &[&str]) -> Abilities {
        Run::parse_from(["run"].iter().chain(flags)).args.cluster.abilities()
    }

    #[test]
    fn pods_and_workloads_are_left_alone_unless_a_flag_says_otherwise() {
        assert_eq!(abilities(&[]), Abilities { nudge: false, restart: false });
        assert_eq!(abilities(&["--nudge", "true"]), Abilities { nudge: true, restart: false });
        assert_eq!(abilities(&["--nudge", "false", "--restart=true"]), Abilities { nudge: false, restart: true });
    }

    #[test]
    fn the_variable_of_every_flag_is_known() {
        let command = Run::command();
        let variables = command.get_arguments().filter_map(|flag| flag.get_env()?.to_str());
        assert_eq!(unknown_variables(variables.map(str::to_owned)), [""; 0]);
    }

    #[test]
    fn a_mistyped_variable_is_found() {
        let names = ["GAIA_LOG", "GAIA_LOGFORMAT", "PATH"].map(str::to_owned);
        assert_eq!(unknown_variables(names.into_iter()), ["GAIA_LOGFORMAT"]);
    }
}
