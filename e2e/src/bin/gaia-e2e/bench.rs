//! `gaia-e2e bench`: how the operator compares with a bare client on the same API server, in one run.

mod load;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_e2e::{
    AuditLog, AuditRecord, ControlPlane, ControlPlaneOptions, OperatorOptions, OperatorProcess, chart, progress, wait,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::Instant;

use self::load::Load;
use self::report::{Bound, Report};

/// Measure the operator against a bare client, as ratios within one run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many ServiceCertificates.
    #[arg(long, default_value_t = 1000)]
    certificates: usize,
    /// How many Secrets that are none of the operator's business.
    #[arg(long, default_value_t = 10_000)]
    foreign_secrets: usize,
    /// Where the results go as JSON, besides the table on standard output.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let cluster = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let bench = Bench::set_up(cluster, arguments.certificates).await?;
    let mut report = Report::new(arguments.certificates);
    let operator = bench.issuance(&mut report).await?;
    let operator = bench.restart(&mut report, operator).await?;
    bench.foreign_secrets(&mut report, &operator, arguments.foreign_secrets).await?;
    report.write(&arguments.json)?;
    Ok(if report.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench {
    cluster: ControlPlane,
    client: Client,
    kubeconfig: PathBuf,
    count: usize,
}

impl Bench {
    async fn set_up(cluster: ControlPlane, count: usize) -> Result<Self> {
        let kubeconfig = chart::install_without_deployment(&cluster, SYSTEM, &[]).await?;
        cluster.apply(TRUST_DOMAIN).await?;
        let client = bare_client(cluster.kubeconfig()).await?;
        Ok(Self { cluster, client, kubeconfig, count })
    }

    /// Raw pairs, then the operator's, then raw pairs again, so that a machine that gets slower or faster is noticed.
    async fn issuance(&self, report: &mut Report) -> Result<OperatorProcess> {
        let first = self.raw("raw-1").await?;
        let waiting = self.load("waiting", LATER).await?;
        let apply = self.load("apply", NOW).await?;
        progress::say(format_args!("{} ServiceCertificates are applied in a namespace nobody selects", self.count));
        waiting.create_certificates().await?;
        self.load("foreign", LATER).await?;
        let operator = self.operator()?;
        operator.wait_ready(READY).await?;
        let trust = &["wait", "--for=condition=Ready", "--timeout=60s", "trustdomain", "gaia"];
        self.cluster.kubectl(trust).await?;
        waiting.wait_stalled().await?;
        self.settled().await?;
        progress::say("the namespace is selected");
        let mark = self.audit().settle(&self.client).await?;
        let started = Instant::now();
        self.cluster.kubectl(&["label", "namespace", "waiting", "bench=now", "--overwrite"]).await?;
        waiting.wait_ready().await?;
        let issuing = rate(self.count, started.elapsed());
        progress::say(format_args!("{} ServiceCertificates are applied while the operator issues", self.count));
        let started = Instant::now();
        tokio::try_join!(apply.create_certificates(), apply.wait_ready())?;
        let applying = rate(self.count, started.elapsed());
        let second = self.raw("raw-2").await?;
        let pairs = (first.pairs + second.pairs) / 2.0;
        let triples = (first.triples + second.triples) / 2.0;
        report.figure(
            "bare client: Secret and status, pairs/s (before, after)",
            format!("{:.0}, {:.0}", first.pairs, second.pairs),
        );
        report.figure("operator: certificates/s from being selected to Ready", format!("{issuing:.0}"));
        report.ratio("issuing, as a part of the bare rate of pairs", issuing / pairs, Bound::AtLeast(0.7));
        report.figure("bare client: resource, Secret and status, triples/s", format!("{triples:.0}"));
        report.figure("operator: certificates/s from apply to Ready", format!("{applying:.0}"));
        report.ratio("apply to Ready, as a part of the bare rate of triples", applying / triples, Bound::AtLeast(0.7));
        self.settled().await?;
        let requests = self.audit().by(OPERATOR_USER, mark)?;
        let requests: Vec<_> = requests.iter().filter(|r| r.resource != "leases" && r.verb != "watch").collect();
        for (kind, count) in count_by_kind(&requests) {
            report.figure(&format!("requests for {} certificates: {kind}", 2 * self.count), count.to_string());
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
        let per_certificate = requests.len() as f64 / (2 * self.count) as f64;
        report.ratio("API requests per certificate, with its event", per_certificate, Bound::AtMost(3.01));
        report.ratio("operator memory with all of them, MiB", rss_mib(&operator)?, Bound::AtMost(60.0));
        Ok(operator)
    }

    /// A restart writes nothing but the lease.
    async fn restart(&self, report: &mut Report, operator: OperatorProcess) -> Result<OperatorProcess> {
        progress::say("the operator is restarted");
        operator.sigterm(Duration::from_secs(30)).await?;
        drop(operator);
        let mark = self.audit().settle(&self.client).await?;
        let started = Instant::now();
        let operator = self.operator()?;
        operator.wait_ready(READY).await?;
        report.figure("restart: seconds until everything is listed", format!("{:.1}", started.elapsed().as_secs_f64()));
        self.settled().await?;
        let writes = self.audit().writes_by(OPERATOR_USER, mark)?.into_iter();
        let writes = writes.filter(|record| record.resource != "leases").count();
        #[expect(clippy::cast_precision_loss, reason = "a count that is to be zero")]
        report.ratio("restart: writes but the lease", writes as f64, Bound::AtMost(0.0));
        Ok(operator)
    }

    async fn foreign_secrets(&self, report: &mut Report, operator: &OperatorProcess, count: usize) -> Result<()> {
        let before = rss_mib(operator)?;
        progress::say(format_args!("{count} foreign Secrets are created"));
        Load::new(self.client.clone(), "foreign", self.count).create_foreign_secrets(count).await?;
        self.settled().await?;
        report.ratio(
            &format!("operator memory after {count} foreign Secrets / before"),
            rss_mib(operator)? / before,
            Bound::AtMost(1.05),
        );
        Ok(())
    }

    async fn raw(&self, namespace: &str) -> Result<Raw> {
        progress::say(format_args!("a bare client writes {} pairs", self.count));
        let pairs = self.load(namespace, LATER).await?;
        pairs.create_certificates().await?;
        let started = Instant::now();
        pairs.write_pairs().await?;
        let pairs = rate(self.count, started.elapsed());
        let triples = self.load(&format!("{namespace}-triples"), LATER).await?;
        let started = Instant::now();
        triples.write_triples().await?;
        Ok(Raw { pairs, triples: rate(self.count, started.elapsed()) })
    }

    async fn load(&self, namespace: &str, label: &str) -> Result<Load> {
        self.cluster.kubectl(&["create", "namespace", namespace]).await?;
        self.cluster.kubectl(&["label", "namespace", namespace, label]).await?;
        Ok(Load::new(self.client.clone(), namespace, self.count))
    }

    fn operator(&self) -> Result<OperatorProcess> {
        // It looks after its own namespaces only: what the bare client writes would make it report statuses there.
        let options = OperatorOptions::new(&self.cluster, &self.kubeconfig, SYSTEM).env("GAIA_LOG", "warn");
        OperatorProcess::start(options.env("GAIA_WATCH_NAMESPACES", "waiting,apply,foreign"))
    }

    fn audit(&self) -> AuditLog {
        self.cluster.audit()
    }

    /// Waits until the operator has asked the API server for nothing but its lease for three seconds.
    async fn settled(&self) -> Result<()> {
        let mut quiet_since = Instant::now();
        let mut seen = 0;
        wait::until("the operator is at rest", Duration::from_secs(120), async || -> Result<bool> {
            self.audit().settle(&self.client).await?;
            let count = self.audit().by(OPERATOR_USER, gaia_e2e::audit::AuditMark::default())?.into_iter();
            let count = count.filter(|record| record.resource != "leases").count();
            if count != seen {
                seen = count;
                quiet_since = Instant::now();
            }
            Ok(quiet_since.elapsed() > Duration::from_secs(3))
        })
        .await?;
        Ok(())
    }
}

/// A client like the operator's: one that tries nothing again, because keeping each body for that costs it a packet.
async fn bare_client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Requests by verb, resource and answer.
fn count_by_kind(requests: &[&AuditRecord]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        let kind = format!("{} {} {} {}", request.verb, request.resource, request.subresource, request.code);
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

struct Raw {
    pairs: f64,
    triples: f64,
}

fn rate(count: usize, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
    let count = count as f64;
    count / elapsed.as_secs_f64()
}

/// Resident memory, as the kernel counts it.
fn rss_mib(operator: &OperatorProcess) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel does not say VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

const SYSTEM: &str = "gaia-system";
const OPERATOR_USER: &str = "system:serviceaccount:gaia-system:gaia-operator";
const READY: Duration = Duration::from_secs(60);
const LATER: &str = "bench=later";
const NOW: &str = "bench=now";
const TRUST_DOMAIN: &str = "
apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {name: gaia}
spec:
  trustDomain: gaia.local
  namespaceSelector: {matchLabels: {bench: now}}
";
