//! The environment of the pages: a login server, a chat provider, Gaia's services as processes on mounted directories, and
//! a browser.
#![allow(unreachable_pub, reason = "a module of a test program")]

use std::path::Path;
use std::time::Duration;

use gaia_api::mount::{Caller, UserTokenIssuer};
use gaia_api::names::{self, key};
use gaia_e2e::browser::{self, Browser};
use gaia_e2e::control_plane::ports;
use gaia_e2e::tier::{self, Tier};
use gaia_e2e::{Process, ProcessSpec, http, programs, wait};
use gaia_runtime::testing::{Mount, MountedFiles, Platform, grants, policy, spiffe_id};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{self, Provider, ProviderOptions};
use jiff::SignedDuration;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

pub const EMAIL: &str = "ada@example.com";
pub const PASSWORD: &str = "correct horse battery";

/// Options of the environment.
pub struct Setting {
    /// The validity of an access token.
    pub token_life: SignedDuration,
    /// The pause between two words of an answer.
    pub pause: Duration,
    /// True if the policies name the login server.
    pub has_issuer: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { token_life: SignedDuration::from_hours(1), pause: Duration::from_millis(20), has_issuer: true }
    }
}

pub struct Stage {
    pub login: GoTrue,
    pub provider: Provider,
    pub browser: Browser,
    pub origin: String,
    pub dir: TempDir,
    auth: Process,
    _services: Vec<Process>,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// `None` without a browser: the test returns. There is one at a time: a browser needs much of a machine
    /// with a few cores.
    pub async fn set(setting: Setting) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let installed = browser::installed().ok_or("chromium and chromedriver are not installed");
        tier::available(Tier::B, installed)?;
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let options = GoTrueOptions { token_life: setting.token_life, ..GoTrueOptions::default() };
        let login = GoTrue::start(options).await.unwrap();
        login.add_user(EMAIL, PASSWORD).unwrap();
        let provider =
            Provider::start(ProviderOptions { pause: setting.pause, ..ProviderOptions::default() }).await.unwrap();
        let issuers: Vec<UserTokenIssuer> = if setting.has_issuer {
            vec![serde_json::from_value(login.issuer_entry("supabase")).unwrap()]
        } else {
            Vec::new()
        };

        let services = Services { platform: Platform::new(), dir: dir.path(), issuers };
        let mut files = services.files(AUTH);
        files.insert(key::JWT_SIGNING_KEY, services.platform.signing_key().into_bytes());
        let pairs: Vec<(&str, &str, &[&str])> = [AUTH, ASSETS, CHAT].map(|target| (WEB, target, &[] as &[&str])).into();
        files.insert(key::GRANTS, grants(&[AUTH, ASSETS, CHAT, WEB], &pairs));
        let auth = services.start(AUTH, &files, &[]).await;
        let anon_key = dir.path().join("mounts").join(AUTH).join(names::issuer_key("supabase"));
        std::fs::write(anon_key, login.anon_key()).unwrap();

        let store = format!("file://{}", dir.path().join("assets").display());
        let assets = services.start(ASSETS, &services.files(ASSETS), &[("GAIA_OBJECT_STORE_URL", &store)]).await;
        let key_file = dir.path().join("provider-key");
        std::fs::write(&key_file, provider::KEY).unwrap();
        let env = [
            ("GAIA_PROVIDER_URL", provider.url()),
            ("GAIA_PROVIDER_KEY_FILE", key_file.display().to_string()),
            ("GAIA_PROVIDER_MODEL", "test-model".to_owned()),
        ];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        let chat = services.start(CHAT, &services.files(CHAT), &env).await;

        let keys = dir.path().join("session-keys");
        std::fs::write(&keys, "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n").unwrap();
        let env = [
            ("GAIA_AUTH_URL", auth.url.as_str()),
            ("GAIA_UPSTREAM_ASSET_SERVICE", &assets.url),
            ("GAIA_UPSTREAM_CHAT_SERVICE", &chat.url),
            ("GAIA_SESSION_KEYS_FILE", keys.to_str().unwrap()),
            ("GAIA_SIGN_IN_PROVIDERS", "github"),
        ];
        let web = services.start(WEB, &services.files(WEB), &env).await;
        let browser = Browser::open(&dir.path().join("logs")).await.unwrap();
        let origin = format!("http://localhost:{}", web.edge);
        let services = [assets, chat, web].map(|service| service.process).into();
        Some(Self { login, provider, browser, origin, dir, auth: auth.process, _services: services, _turn: turn })
    }

    pub async fn goto(&self, path: &str) {
        self.browser.goto(&format!("{}{path}", self.origin)).await.unwrap();
    }

    /// Signs in by the form, which leads to the start page.
    pub async fn sign_in(&self) {
        self.goto("/sign-in").await;
        self.browser.type_into("#email", EMAIL).await.unwrap();
        self.browser.type_into("#password", PASSWORD).await.unwrap();
        self.browser.click("button.main").await.unwrap();
        self.browser.wait_at("/chat").await.unwrap();
    }

    /// auth-service is killed, as when its node fails.
    pub fn lose_auth_service(&self) {
        self.auth.kill9().unwrap();
    }

    /// The browser sent requests to no other host, and no page violated its policy or threw an error. Answers that were
    /// refused on purpose are listed by their status.
    pub async fn assert_nothing_amiss(&self, refused: &[&str]) {
        for url in self.browser.requested().await.unwrap() {
            assert!(url.starts_with(&self.origin), "the browser asked {url}");
        }
        for line in self.browser.console().await.unwrap() {
            assert!(refused.iter().any(|text| line.contains(text)), "the console says {line}");
        }
    }
}

struct Services<'a> {
    platform: Platform,
    dir: &'a Path,
    issuers: Vec<UserTokenIssuer>,
}

impl Services<'_> {
    fn files(&self, service: &str) -> MountedFiles {
        let mut files = self.platform.mount(service);
        let mut policy = policy(service);
        policy.callers = vec![Caller { spiffe_id: spiffe_id(WEB), scopes: vec![], on_behalf_of: true }];
        policy.user_tokens.issuers.clone_from(&self.issuers);
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        files
    }

    /// Starts a service on free ports and waits until it is ready; on others if another process took one of them first.
    async fn start(&self, name: &str, files: &MountedFiles, env: &[(&str, &str)]) -> Service {
        let mounted = self.dir.join("mounts").join(name);
        let _ = Mount::new(&mounted, files);
        loop {
            let [mesh, admin, edge]: [u16; 3] = ports::free().unwrap();
            let mut spec = ProcessSpec::new(name, programs::locate(name).unwrap(), &self.dir.join("logs"))
                .env("GAIA_SERVICE_NAME", name)
                .env("GAIA_DIR", &mounted)
                .env("GAIA_MESH_ADDRESS", format!("127.0.0.1:{mesh}"))
                .env("GAIA_ADMIN_ADDRESS", format!("127.0.0.1:{admin}"));
            if name == WEB {
                spec = spec.env("GAIA_EDGE_ADDRESS", format!("127.0.0.1:{edge}"));
            }
            for (name, value) in env {
                spec = spec.env(name, *value);
            }
            let process = Process::start(spec).unwrap();
            let ready = async || match process.check_running() {
                Ok(()) => {
                    let answer = http::get(&format!("http://127.0.0.1:{admin}/readyz")).await;
                    answer.is_ok_and(|(status, _)| status == 200).then_some(true)
                }
                Err(_) => Some(false),
            };
            if wait::until(&format!("{name} is ready"), SOON, ready).await.unwrap() {
                return Service { process, url: format!("https://127.0.0.1:{mesh}"), edge };
            }
            assert!(process.log_tail().contains("Address already in use"), "{}", process.log_tail());
        }
    }
}

struct Service {
    process: Process,
    url: String,
    edge: u16,
}

const AUTH: &str = "auth-service";
const ASSETS: &str = "asset-service";
const CHAT: &str = "chat-service";
const WEB: &str = "web-service";
const SOON: Duration = Duration::from_secs(60);
