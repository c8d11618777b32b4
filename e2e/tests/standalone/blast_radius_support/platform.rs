//! The platform under attack: five services, each in a cgroup with the memory limit of its chart, a login server, a provider, and
//! an issuer of tokens whose server reads nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use gaia_api::mount::{Caller, Policy, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::wait::Seen;
use gaia_e2e::{MemoryCgroup, Standalone, Within, tier, wait};
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, grants, policy, spiffe_id};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{KEY as PROVIDER_KEY, Provider, ProviderOptions};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

use super::{MEMORY_LIMIT, SOON};

/// The platform.
pub(crate) struct Shop {
    members: BTreeMap<&'static str, Member>,
    pub(crate) platform: Platform,
    pub(crate) login: GoTrue,
    mute: Mute,
    _provider: Provider,
    _dir: tempfile::TempDir,
}

/// One service in its cgroup.
pub(crate) struct Member {
    pub(crate) service: Standalone,
    cgroup: MemoryCgroup,
}

/// A server whose connections are accepted by the kernel and never read.
struct Mute {
    address: SocketAddr,
    _listener: TcpListener,
}

impl Shop {
    /// `None` where cgroups cannot be created: the test returns.
    pub(crate) async fn open() -> Option<Self> {
        let mut cgroups = Vec::new();
        for _ in SERVICES {
            cgroups.push(tier::available(tier::Tier::C, MemoryCgroup::create(MEMORY_LIMIT))?);
        }
        let login = GoTrue::start(GoTrueOptions::default()).await.unwrap();
        let provider = Provider::start(ProviderOptions::default()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut shop = Self {
            members: BTreeMap::new(),
            platform: Platform::new(),
            login,
            mute: Mute::start(),
            _provider: provider,
            _dir: dir,
        };
        for (name, cgroup) in SERVICES.into_iter().zip(cgroups) {
            let env = shop.env(name);
            let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let (path, files) = (shop._dir.path().join(name), shop.files(name));
            let service = Standalone::start_within(name, &path, &files, &env, Within::Cgroup(&cgroup)).await.unwrap();
            shop.members.insert(name, Member { service, cgroup });
        }
        Some(shop)
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        &self.members[name]
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&'static str, &Member)> {
        self.members.iter().map(|(name, member)| (*name, member))
    }

    /// The address of a service for users, or for other services.
    pub(crate) fn edge(&self, name: &str) -> SocketAddr {
        self.members[name].service.edge
    }

    pub(crate) fn mesh(&self, name: &str) -> SocketAddr {
        self.members[name].service.mesh
    }

    /// A token of the login server, valid for some hours.
    pub(crate) fn token(&self, number: u64) -> String {
        self.login.sign(&self.claims(number)).unwrap()
    }

    /// A token of the login server that expired some seconds ago: within the allowance for clocks.
    pub(crate) fn expired_token(&self, number: u64) -> String {
        let mut claims = self.claims(number);
        let now = SystemClock.now().as_second();
        claims["iat"] = (now - 600).into();
        claims["exp"] = (now - 10).into();
        self.login.sign(&claims).unwrap()
    }

    /// A token that only the issuer whose server is mute could verify.
    pub(crate) fn token_of_mute_issuer(&self, number: u64) -> String {
        let mut claims = self.claims(number);
        claims["iss"] = self.mute.issuer().into();
        self.login.sign(&claims).unwrap()
    }

    fn claims(&self, number: u64) -> Value {
        let now = SystemClock.now().as_second();
        json!({
            "iss": self.login.base_url(), "aud": "authenticated", "role": "authenticated", "is_anonymous": false,
            "sub": format!("7b0d5a9e-3f0c-4f8e-9a57-{number:012x}"),
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "iat": now, "exp": now + 4 * 3600,
        })
    }

    fn files(&self, service: &str) -> MountedFiles {
        let mut files = self.platform.mount(service);
        let caller = |name| Caller { spiffe_id: spiffe_id(name), scopes: vec![], on_behalf_of: true };
        let issuers = [self.login.issuer_entry("supabase"), self.mute.issuer_entry()];
        let issuers = issuers.into_iter().map(|entry| serde_json::from_value::<UserTokenIssuer>(entry).unwrap());
        let user_tokens = UserTokens { issuers: issuers.collect(), scopes: vec![] };
        let callers = vec![caller("gateway"), caller("web-service")];
        let policy = Policy { callers, user_tokens, ..policy(service) };
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        files.insert(key::API_KEYS, api_key_file(vec![api_key("user", API_KEY)]));
        if service == "auth-service" {
            files.insert(key::JWT_SIGNING_KEY, self.platform.signing_key().into_bytes());
            files.insert("issuer-supabase.key", self.login.anon_key().as_bytes().to_vec());
            let behind = ["asset-service", "chat-service", "auth-service"];
            let pairs = ["gateway", "web-service"].into_iter().flat_map(|from| behind.map(|to| (from, to, &[][..])));
            files.insert(key::GRANTS, grants(&SERVICES, &pairs.collect::<Vec<_>>()));
        }
        files
    }

    fn env(&self, service: &str) -> Vec<(&'static str, String)> {
        let url = |name: &str| format!("https://{}", self.mesh(name));
        match service {
            "chat-service" => vec![
                ("GAIA_PROVIDER_URL", self._provider.url()),
                ("GAIA_PROVIDER_KEY_FILE", self.file("provider-key", PROVIDER_KEY)),
                ("GAIA_PROVIDER_MODEL", "test-model".to_owned()),
            ],
            "gateway" | "web-service" => vec![
                ("GAIA_AUTH_URL", url("auth-service")),
                ("GAIA_UPSTREAM_ASSET_SERVICE", url("asset-service")),
                ("GAIA_UPSTREAM_CHAT_SERVICE", url("chat-service")),
                ("GAIA_SESSION_KEYS_FILE", self.file("keys", "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n")),
            ],
            _ => vec![],
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self._dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Member {
    pub(crate) fn has_edge(&self) -> bool {
        ["gateway", "web-service"].contains(&self.service.name().as_str())
    }

    /// Anonymous memory.
    pub(crate) fn memory(&self) -> u64 {
        self.cgroup.anonymous_bytes().unwrap()
    }

    pub(crate) fn kills(&self) -> u64 {
        self.cgroup.oom_kills().unwrap()
    }

    /// Waits until the connections of an attack are closed and its memory is returned.
    pub(crate) async fn settles(&self, before: u64, after: &str) -> anyhow::Result<()> {
        let is_as_before = async || {
            let metrics = self.service.metrics().await.unwrap();
            let connections = metrics.lines().find_map(|line| line.strip_prefix("gaia_mesh_connections "));
            let connections: usize = connections.unwrap().parse().unwrap();
            let memory = self.memory();
            let is_so = connections <= OWN_CONNECTIONS && memory < before + KEPT_BYTES;
            if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{connections} connections, {} MiB", memory >> 20)) }
        };
        let what = format!("{} is as before, after {after}", self.service.name());
        wait::until(&what, SOON, is_as_before).await
    }
}

impl Mute {
    fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        Self { address: listener.local_addr().unwrap(), _listener: listener }
    }

    fn issuer(&self) -> String {
        format!("http://{}/auth/v1", self.address)
    }

    fn issuer_entry(&self) -> Value {
        json!({ "name": "mute", "issuer": self.issuer(), "verification": "Remote" })
    }
}

/// The key of a user without an account.
pub(crate) const API_KEY: &str = "gk_test_users_0123456789abcdef0123456789";
/// In an order in which each is started after those that it calls.
pub(crate) const SERVICES: [&str; 5] = ["auth-service", "asset-service", "chat-service", "gateway", "web-service"];
/// Connections that gateway and web-service keep to the others.
const OWN_CONNECTIONS: usize = 32;
/// Memory that the allocator may keep after an attack.
const KEPT_BYTES: u64 = 32 << 20;
