//! The attacked platform, its users, and the checks.

pub(crate) mod accounts;
pub(crate) mod attacks;
pub(crate) mod platform;
pub(crate) mod users;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gaia_e2e::tier;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::attacks::{Attack, Source};
use self::platform::Shop;
use self::users::{Users, Work};

/// The platform with its users, and the runtime of the attackers.
pub(crate) struct Arena {
    shop: Arc<Shop>,
    users: Users,
    attackers: Option<Runtime>,
    /// The phases in which something was not as it must be.
    failures: Vec<String>,
}

impl Arena {
    /// `None` where cgroups cannot be created: the test returns.
    pub(crate) async fn open() -> Option<Self> {
        let shop = Arc::new(Shop::open().await?);
        let users = Users::enter(&shop).await;
        // The attackers share the machine with the services and their users, which real attackers do not.
        let yield_to_others = || {
            let _ = rustix::process::nice(10);
        };
        let attackers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(yield_to_others)
            .enable_all()
            .build()
            .unwrap();
        Some(Self { shop, users, attackers: Some(attackers), failures: Vec::new() })
    }

    /// Lets the users work for that long without an attack: every request must succeed.
    #[expect(clippy::print_stdout, reason = "the numbers of the report are wanted where all is well, too")]
    pub(crate) async fn calm(&mut self, time: Duration) {
        let users = self.users.start(&[]);
        tokio::time::sleep(time).await;
        let (users, tally) = users.stop().await;
        self.users = users;
        let report = format!("{} served, the slowest in {:?}, failed: {:?}", tally.served, tally.slowest, tally.failed);
        println!("without an attack: {report}");
        assert!(tally.failed.is_empty() && tally.fewest >= FEWEST, "{report}");
    }

    /// Attacks a service from so many sources while users work, and checks that they are not affected.
    #[expect(clippy::print_stdout, reason = "the numbers of the report are wanted where all is well, too")]
    pub(crate) async fn under_attack(&mut self, victim: &str, attacks: &[&Attack], sources: u8, time: Duration) {
        let what = match attacks {
            [attack] => format!("{} by {sources} sources", attack.name),
            _ => format!("{} attacks by {sources} sources", attacks.len()),
        };
        let member = self.shop.member(victim);
        let before = member.memory();
        let faults: Vec<_> = attacks.iter().filter_map(|attack| attack.fault).collect();
        faults.iter().for_each(|fault| (fault.begin)(&self.shop));
        let attackers = self.attack(victim, attacks, sources);
        let spared: &[Work] = faults.first().map_or(&[], |fault| fault.spared);
        let users = self.users.start(spared);
        let paused = faults.first().and_then(|fault| fault.paused);
        let probes: Vec<(&str, Probe)> = self
            .shop
            .members()
            .filter(|(name, _)| Some(*name) != paused)
            .map(|(name, member)| (name, Probe::start(member.service.admin)))
            .collect();
        let (mut most, began) = (BTreeMap::new(), Instant::now());
        while began.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for (name, member) in self.shop.members() {
                let most: &mut u64 = most.entry(name).or_default();
                *most = member.memory().max(*most);
            }
        }
        let (users, tally) = users.stop().await;
        let probed: Vec<(&str, Probed)> = probes.into_iter().map(|(name, probe)| (name, probe.stop())).collect();
        end(attackers).await;
        faults.iter().for_each(|fault| (fault.end)(&self.shop));
        let slowest = probed.iter().map(|(_, probed)| probed.slowest).max().unwrap_or_default();
        let report = format!(
            "{what}: {} served, the slowest in {:?}, {} or more of each user, failed: {:?}; slowest /livez {slowest:?}; \
             MiB at most: {:?}, {} before",
            tally.served,
            tally.slowest,
            tally.fewest,
            tally.failed,
            most.iter().map(|(name, bytes)| (*name, bytes >> 20)).collect::<Vec<_>>(),
            before >> 20
        );
        println!("{victim}: {report}");
        let is_well = |other: &platform::Member| other.service.is_running() && other.kills() == 0;
        let killed: Vec<&str> =
            self.shop.members().filter(|(_, other)| !is_well(other)).map(|(name, _)| name).collect();
        assert!(killed.is_empty(), "{killed:?} ended; {victim}: {report}");
        let failed = tally.failed.values().sum::<usize>();
        // kubelet restarts a container after several failures in a row. In the gate, other tests use the same processors: one may
        // be late.
        let may_be_late = usize::from(!tier::is_long());
        // Each attack alone must fail at most 1 % of the requests; two dozen of them at the same time leave gateway, which is one
        // source to the services behind it, a smaller share.
        let tolerated_percent = if attacks.len() > 1 { 5 } else { 1 };
        let late: Vec<&str> =
            probed.iter().filter(|(_, probed)| probed.slow_in_a_row > may_be_late).map(|(name, _)| *name).collect();
        let is_unaffected =
            failed * 100 <= (tally.served + failed) * tolerated_percent && tally.fewest >= FEWEST && late.is_empty();
        let is_unaffected = is_unaffected && (tally.served >= FEWEST_OF_ALL || !faults.is_empty());
        if !is_unaffected {
            self.failures.push(format!("{victim}: {report}; late: {late:?}"));
        }
        let settling = [Some(victim), paused].into_iter().flatten();
        for name in settling {
            let settled =
                self.shop.member(name).settles(if name == victim { before } else { u64::MAX / 2 }, &what).await;
            if let Err(error) = settled {
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
        self.users = users;
        if paused.is_some() {
            self.recover(&what).await;
        }
    }

    /// Lets the users work until all of them are served, after a server did not run.
    async fn recover(&mut self, after: &str) {
        for _ in 0..ROUNDS {
            let users = self.users.start(&[]);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (users, tally) = users.stop().await;
            self.users = users;
            if tally.failed.is_empty() {
                return;
            }
        }
        self.failures.push(format!("users are not served again after {after}"));
    }

    /// Checks the results of all phases.
    pub(crate) fn assert_unaffected(&self) {
        assert!(self.failures.is_empty(), "{:#?}", self.failures);
    }

    fn attack(&self, victim: &str, attacks: &[&Attack], sources: u8) -> JoinSet<()> {
        let mut attackers = JoinSet::new();
        let Some(runtime) = &self.attackers else { return attackers };
        for attack in attacks {
            for number in 1..=sources {
                let address = Ipv4Addr::new(127, 0, 1, number);
                // All sources together open about as many connections as one does.
                let connections = CONNECTIONS / usize::from(sources) / attacks.len();
                let source = Source::new(&self.shop, victim, address, connections.max(2));
                attackers.spawn_on((attack.run)(source), runtime.handle());
            }
        }
        attackers
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A runtime must not wait for its threads in another one.
        if let Some(runtime) = self.attackers.take() {
            runtime.shutdown_background();
        }
    }
}

async fn end(mut attackers: JoinSet<()>) {
    attackers.abort_all();
    while attackers.join_next().await.is_some() {}
}

/// Probes `/livez` as kubelet does, on a separate thread.
struct Probe {
    stop: Arc<AtomicBool>,
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
    fn start(admin: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut probed, mut slow) = (Probed::default(), 0);
            while !stopped.load(Ordering::Relaxed) {
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
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// `resources.limits.memory` of every service in the chart's values.
const MEMORY_LIMIT: u64 = 128 << 20;
/// Connections that one attack holds open, over all its sources.
const CONNECTIONS: usize = 1200;
/// The fewest requests of each user, and of all, that are served during an attack.
const FEWEST: usize = 1;
const FEWEST_OF_ALL: usize = 40;
/// Rounds within which all users are served again.
const ROUNDS: usize = 20;
const SOON: Duration = Duration::from_secs(30);
