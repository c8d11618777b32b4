//! The last steps: users sign in, through gateway and web-service, with an account at a login server and a chat provider.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gaia_e2e::authority::write_private;
use gaia_e2e::progress::tell;
use gaia_e2e::services::{issuer_key_mount, mount, resolve};
use gaia_e2e::{ControlPlane, ServiceOptions, ServiceProcess, Source, services, wait};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{Provider, ProviderOptions};
use gaia_stand_ins::random::random;
use serde_json::json;

use super::platform::{NAMESPACE, Services, TRUST_DOMAIN};
use super::shell::Shell;

/// The other three services, and the external servers.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) chat: ServiceProcess,
    pub(super) gateway: ServiceProcess,
    pub(super) web: ServiceProcess,
    _gotrue: GoTrue,
    _provider: Provider,
}

impl Users {
    /// Declares and starts them.
    pub(super) async fn start(plane: &ControlPlane, shell: &Shell, services: &Services) -> Result<Self> {
        let gotrue = GoTrue::start(GoTrueOptions::default()).await?;
        gotrue.add_user(EMAIL, PASSWORD)?;
        let provider = Provider::start(ProviderOptions::default()).await?;
        tell(format_args!(
            "   Outside the platform: a login server, {}, and a provider of chats, {}",
            gotrue.base_url(),
            provider.url()
        ));
        let issuers = json!({ "spec": { "userTokenIssuers": [gotrue.issuer_entry("supabase")] } });
        shell.show(&format!("kubectl patch trustdomain gaia --type=merge -p '{issuers}'")).await?;
        std::fs::write(shell.dir().join("users.yaml"), MANIFESTS)?;
        shell.show("kubectl apply -f users.yaml").await?;
        shell.show("kubectl wait --for=condition=Ready -n shop gaiaservices --all --timeout=30s").await?;
        for caller in ["gateway", "web-service"] {
            services::wait_for_grant(&plane.admin().await?, NAMESPACE, TRUST_DOMAIN, caller, SOON).await?;
        }

        let dir = shell.dir();
        let anon_key = dir.join("anon-key");
        write_private(&anon_key, gotrue.anon_key())?;
        let secret = "kubectl create secret generic supabase-anon-key -n shop --from-file=api-key=anon-key";
        shell.show(secret).await?;
        let mounted = services.auth.dir().join("issuer-supabase.key");
        wait::until_true("auth-service has it", SOON, async || anyhow::Ok(mounted.exists())).await?;
        let provider_key = dir.join("provider-key");
        write_private(&provider_key, "the-key-of-the-demo")?;
        provider.set_key("the-key-of-the-demo");
        let session_keys = dir.join("session-keys");
        write_private(&session_keys, &STANDARD.encode(random::<32>()?))?;

        let chat = options(plane, dir, "chat-service")
            .env("GAIA_PROVIDER_URL", &provider.url())
            .env("GAIA_PROVIDER_KEY_FILE", &provider_key.display().to_string())
            .env("GAIA_PROVIDER_MODEL", "echo");
        let chat = ServiceProcess::start(plane, chat).await?;
        let calling = |name: &str| {
            let url = |service: &ServiceProcess| format!("https://{}", service.server_name());
            options(plane, dir, name)
                .env("GAIA_RESOLVE", &resolve(&[&services.auth, &services.assets, &chat]))
                .env("GAIA_AUTH_URL", &url(&services.auth))
                .env("GAIA_UPSTREAM_ASSET_SERVICE", &url(&services.assets))
                .env("GAIA_UPSTREAM_CHAT_SERVICE", &url(&chat))
        };
        let gateway = ServiceProcess::start(plane, calling("gateway")).await?;
        let web = calling("web-service").env("GAIA_SESSION_KEYS_FILE", &session_keys.display().to_string());
        let web = ServiceProcess::start(plane, web).await?;
        for service in [&chat, &gateway, &web] {
            service.wait_ready(SOON).await?;
        }
        tell(format_args!("   gateway: process {}, http://{}", gateway.pid(), gateway.edge_address()));
        tell(format_args!("   web-service: process {}, http://{}", web.pid(), web.edge_address()));
        Ok(Self { chat, gateway, web, _gotrue: gotrue, _provider: provider })
    }

    /// A user's program signs in at gateway and uses the upstream services.
    pub(super) async fn sign_in(&self, shell: &Shell) -> Result<()> {
        let gateway = format!("http://{}", self.gateway.edge_address());
        let json = "-H 'Content-Type: application/json'";
        shell.show_call(401, &format!(r"curl -sSw '%{{http_code}}\n' -o /dev/null {gateway}/assets")).await?;
        let body = json!({ "email": EMAIL, "password": PASSWORD });
        shell.show(&format!("curl -sSf {json} -d '{body}' -o session.json {gateway}/auth/login")).await?;
        let header = r#"s/.*"access_token": *"\([^"]*\)".*/Authorization: Bearer \1/p"#;
        shell.show(&format!("sed -n '{header}' session.json >user.header")).await?;
        let code = r"curl -sSw '\n%{http_code}\n' -H @user.header";
        shell.show_call(201, &format!("{code} -T hello.txt {gateway}/assets/mine.txt")).await?;
        shell.show_call(200, &format!("{code} {gateway}/assets")).await?;
        let question = json!({ "messages": [{ "role": "user", "content": "Who are you?" }] });
        let said = shell.show(&format!("curl -sSfN -H @user.header {json} -d '{question}' {gateway}/chat")).await?;
        ensure!(said.contains("event: done"), "the answer does not end:\n{said}");
        tell("   What is internal stays inside, in every spelling:");
        let internal = format!("{gateway}/%2e%2e/internal/service-token");
        shell.show_call(400, &format!(r"curl -sSw '%{{http_code}}\n' -o /dev/null --path-as-is '{internal}'")).await
    }

    /// The pages in a user's browser.
    pub(super) async fn look(&self, shell: &Shell) -> Result<()> {
        let page = format!("http://{}/sign-in", self.web.edge_address());
        shell.show_call(200, &format!("curl -sSi {page} | grep -iE '^HTTP|content-security|<h1'")).await?;
        tell(format_args!("   With `make demo KEEP=1` it stays there: sign in as {EMAIL} with \"{PASSWORD}\"."));
        Ok(())
    }
}

fn options(plane: &ControlPlane, dir: &Path, name: &str) -> ServiceOptions {
    let mut sources = mount(name, TRUST_DOMAIN);
    sources.push(anon_key());
    ServiceOptions::of(plane, NAMESPACE, name, sources).in_dir(dir)
}

/// The project's key at the login server; it is created late.
pub(super) fn anon_key() -> Source {
    issuer_key_mount("supabase", "supabase-anon-key")
}

/// The users with an account.
pub(super) const EMAIL: &str = "ada@example.com";
/// Their password; it is used in the demo only.
pub(super) const PASSWORD: &str = "analytical-engine";
const MANIFESTS: &str = include_str!("users.yaml");
const SOON: Duration = Duration::from_secs(60);
