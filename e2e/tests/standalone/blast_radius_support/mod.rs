//! The attacked service, its users, and the checks.

pub(crate) mod attacks;
mod users;

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::names::key;
use gaia_e2e::wait::Seen;
use gaia_e2e::{MemoryCgroup, Standalone, tier, wait};
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, grants};
use gaia_stand_ins::provider::{KEY, Provider, ProviderOptions};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::attacks::{Attack, Source};
use self::users::Users;

/// One service in a cgroup of its chart's memory limit.
pub(crate) struct Victim {
    pub(crate) service: Arc<Standalone>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) has_edge: bool,
    cgroup: MemoryCgroup,
    /// Anonymous memory before any attack.
    before: u64,
    _provider: Option<Provider>,
    _dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Victim {
    /// `None` where cgroups cannot be created: the test returns. One is attacked at a time: the attackers need processors, too.
    pub(crate) async fn start(program: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let cgroup = tier::available(tier::Tier::C, MemoryCgroup::create(MEMORY_LIMIT))?;
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::new();
        let mut files = platform.mount(program);
        files.insert(key::API_KEYS, api_key_file(vec![api_key("user", users::API_KEY)]));
        let mut env: Vec<(&str, String)> = Vec::new();
        let mut provider = None;
        match program {
            "auth-service" => {
                files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
                files.insert(key::GRANTS, grants(&["auth-service"], &[]));
            }
            "chat-service" => {
                let started = Provider::start(ProviderOptions::default()).await.unwrap();
                let file = dir.path().join("provider-key");
                fs::write(&file, KEY).unwrap();
                env.push(("GAIA_PROVIDER_URL", started.url()));
                env.push(("GAIA_PROVIDER_KEY_FILE", file.display().to_string()));
                provider = Some(started);
            }
            "web-service" => {
                let file = dir.path().join("session-keys");
                fs::write(&file, "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n").unwrap();
                env.push(("GAIA_SESSION_KEYS_FILE", file.display().to_string()));
            }
            _ => {}
        }
        let has_edge = ["gateway", "web-service"].contains(&program);
        if has_edge {
            // No upstream is asked for anything here.
            env.push(("GAIA_AUTH_URL", "https://127.0.0.1:9".to_owned()));
            env.push(("GAIA_UPSTREAM_ASSET_SERVICE", "https://127.0.0.1:9".to_owned()));
        }
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let service = start(program, &dir, &files, &env, &cgroup).await;
        let before = cgroup.anonymous_bytes().unwrap();
        let (service, platform) = (Arc::new(service), Arc::new(platform));
        Some(Self { service, platform, has_edge, cgroup, before, _provider: provider, _dir: dir, _turn: turn })
    }
}

async fn start(
    program: &str,
    dir: &tempfile::TempDir,
    files: &MountedFiles,
    env: &[(&str, &str)],
    cgroup: &MemoryCgroup,
) -> Standalone {
    Standalone::start_within(program, dir.path(), files, env, Some(cgroup)).await.unwrap()
}

/// Attacks the service from so many sources while users work, and checks that they are not affected.
#[expect(clippy::print_stdout, reason = "the numbers of the report are wanted where all is well, too")]
pub(crate) async fn under_attack(victim: &Victim, attacks: &[&Attack], sources: u8, time: Duration) {
    let what = match attacks {
        [attack] => format!("{} by {sources} sources", attack.name),
        _ => format!("{} attacks by {sources} sources", attacks.len()),
    };
    let mut attackers = JoinSet::new();
    for attack in attacks {
        for number in 1..=sources {
            let address = Ipv4Addr::new(127, 0, 1, number);
            // All sources together open about as many connections as one does.
            let connections = CONNECTIONS / usize::from(sources) / attacks.len();
            attackers.spawn((attack.run)(Source::new(victim, address, connections.max(2))));
        }
    }
    let users = Users::start(victim);
    let probe = Probe::start(victim);
    let (mut most, began) = (0, Instant::now());
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(victim.cgroup.anonymous_bytes().unwrap());
    }
    let (served, failed) = users.stop().await;
    let Probed { slowest, slow_in_a_row } = probe.stop();
    attackers.abort_all();
    while attackers.join_next().await.is_some() {}
    let kills = victim.cgroup.oom_kills().unwrap();
    let report = format!(
        "{what}: {served} requests served, failed: {failed:?}; slowest /livez {slowest:?}; {} MiB at most, {} before; {kills} killed",
        most >> 20,
        victim.before >> 20
    );
    println!("{}: {report}", victim.service.name());
    assert!(victim.service.is_running() && kills == 0, "{report}\n{}", victim.service.log_tail());
    assert!(served >= 20 && failed.values().sum::<usize>() * 100 <= served, "{report}");
    // kubelet restarts a container after several failures in a row. In the gate, other tests use the same processors: one may be late.
    assert!(slow_in_a_row <= usize::from(!tier::is_long()), "{report}");
    assert!(most < MEMORY_LIMIT, "{report}");
    let all_is_as_before = async || {
        let metrics = victim.service.metrics().await.unwrap();
        let connections =
            metrics.lines().find_map(|line| line.strip_prefix("gaia_mesh_connections ")).unwrap_or("?").to_owned();
        let memory = victim.cgroup.anonymous_bytes().unwrap();
        let is_so = connections == "0" && memory < victim.before + KEPT_BYTES;
        if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{connections} connections, {} MiB", memory >> 20)) }
    };
    wait::until(&format!("all is as before, after {what}"), SOON, all_is_as_before).await.unwrap();
}

/// Probes `/livez` as kubelet does, on a separate thread.
struct Probe {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Probed>,
}

/// The results of the probes.
#[derive(Default)]
struct Probed {
    slowest: Duration,
    /// The most probes one after the other that took longer than a second.
    slow_in_a_row: usize,
}

impl Probe {
    fn start(victim: &Victim) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stopped, admin) = (Arc::clone(&stop), victim.service.admin);
        let thread = std::thread::spawn(move || {
            let (mut probed, mut slow) = (Probed::default(), 0);
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let began = Instant::now();
                let answer = users::get_blocking(admin, "/livez");
                let took = if answer.is_ok() { began.elapsed() } else { Duration::MAX };
                slow = if took > Duration::from_secs(1) { slow + 1 } else { 0 };
                probed.slowest = probed.slowest.max(took);
                probed.slow_in_a_row = probed.slow_in_a_row.max(slow);
                std::thread::sleep(Duration::from_millis(100));
            }
            probed
        });
        Self { stop, thread }
    }

    fn stop(self) -> Probed {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// `resources.limits.memory` of every service in the chart's values.
const MEMORY_LIMIT: u64 = 128 << 20;
/// Connections that one attack holds open, over all its sources.
const CONNECTIONS: usize = 1200;
/// Memory that the allocator may keep after an attack.
const KEPT_BYTES: u64 = 32 << 20;
const SOON: Duration = Duration::from_secs(30);
