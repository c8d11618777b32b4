//! The steps of the demo: each prints its claim in a line, demonstrates it, and fails if it does not hold.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gaia_api::crd::ServiceCertificate;
use gaia_api::names::{self, key};
use gaia_e2e::progress::{tell, watched};
use gaia_e2e::{ControlPlane, wait};
use gaia_pki::{Certificate, PrivateKey, key_matches};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::Instant;

use super::platform::{self, NAMESPACE, OPERATOR_NAMESPACE, Platform, Services, files, logs};
use super::shell::Shell;
use super::users::{self, Users};
use super::{api_key, rotation};

/// Runs the demo in `dir` and returns the processes that run at its end.
///
/// # Errors
/// The step that failed, the reason, and the path of the logs.
pub(super) async fn show(dir: &Path) -> Result<Platform> {
    let steps = Steps { dir, started: Instant::now(), number: Cell::new(0), what: Cell::new("") };
    tell(INTRODUCTION);
    let plane = steps.run("Start a Kubernetes API server", platform::start_control_plane(dir)).await?;
    let shell = Shell::new(&files(dir), plane.kubeconfig(), plane.kubectl_tool())?;
    tell("   etcd, kube-apiserver and kube-controller-manager on loopback; there are no nodes.");
    tell(format_args!("   The commands below run in {}", shell.dir().display()));
    steps.also(shell.show("kubectl version | grep Server")).await?;

    let what = "Install Gaia's chart, and run the operator with the rights of the chart";
    let operator = steps.run(what, platform::start_operator(&plane)).await?;
    tell(format_args!(
        "   The Deployment needs a node: a local process replaces it, {}, as ServiceAccount {OPERATOR_NAMESPACE}/gaia-operator.",
        operator.pid()
    ));
    steps.also(shell.show("kubectl get crds -o name")).await?;

    let what = "Declare a root of trust for the namespace shop, and three services: web may call asset-service";
    steps.run(what, declare(&shell)).await?;
    steps.run("Every service has a certificate now", list(&shell)).await?;
    steps.run("OpenSSL accepts each of them, by its strict rules", verify(&shell)).await?;

    let what = "Start two services, each with its files mounted as kubelet would mount them";
    let services = steps.run(what, platform::start_services(&plane)).await?;
    let Services { auth, assets, .. } = &services;
    tell(format_args!("   auth-service:  process {}, https://{}", auth.pid(), auth.mesh_address()));
    tell(format_args!("   asset-service: process {}, https://{}", assets.pid(), assets.mesh_address()));
    steps.also(shell.show("ls -m auth-service asset-service web")).await?;

    let calls = Calls { shell: &shell, services: &services };
    steps.run("Call asset-service the old way: with an API key", calls.with_api_key()).await?;
    let what = "Call it the new way: as web, with its certificate (mutual TLS) and a token from auth-service";
    steps.run(what, calls.with_token()).await?;
    steps.run("Calls without them are refused, and so is a token alone", calls.refused()).await?;
    let what = "Break a Secret by hand: asset-service gets the private key of web. The operator repairs it";
    steps.run(what, repair(&plane, &shell, &services)).await?;
    let what = "Renew a certificate: the running service loads it, without a restart";
    steps.run(what, renew(&plane, &shell, &services)).await?;
    let what = "Replace the CA and the signing key under a hundred requests a second: none fails";
    steps.run(what, rotation::show(&plane, &shell, &services)).await?;
    let what = "Open the platform to users: start gateway, chat-service and web-service";
    let users = steps.run(what, Users::start(&plane, &shell, &services)).await?;
    let what = "Sign in through gateway; upstreams get a token for this user, issued for one service and one caller";
    steps.run(what, users.sign_in(&shell)).await?;
    steps.run("The same with a browser", users.look(&shell)).await?;
    tell(format_args!("\nDone in {:.0} s. kubeconfig: {}", steps.seconds(), plane.kubeconfig().display()));
    Ok(Platform { users, services, operator, plane })
}

/// The end of a demo that is kept.
pub(super) fn tell_what_to_try(platform: &Platform) {
    let dir = platform.plane.dir();
    tell(format_args!(
        "\
It is all still running. To stop it: make down

In a browser: http://{}, as {} with the password \"{}\"
What to try next, with every command above too:
   . {}/env
   kubectl get gaia -A                                        # everything of Gaia's
   kubectl explain gaiaservice.spec.auth                      # every field is explained
   kubectl delete secret -n shop web-tls                      # it is back within a second, with a new key
   kubectl get events -A                                      # what the operator did, and why
   kill -9 {}                                              # the operator; it is started again, and writes nothing
   kubectl describe trustdomain gaia
Logs are in {}",
        platform.users.web.edge_address(),
        users::EMAIL,
        users::PASSWORD,
        files(dir).display(),
        platform.operator.pid(),
        logs(dir).display(),
    ));
}

async fn declare(shell: &Shell) -> Result<()> {
    std::fs::write(shell.dir().join("platform.yaml"), PLATFORM)?;
    api_key::write(shell.dir())?;
    shell.show("kubectl apply -f platform.yaml").await?;
    shell.show("kubectl create secret generic asset-service-api-keys -n shop --from-file=api-keys.json").await?;
    shell.show("kubectl wait --for=condition=Ready -n shop trustdomain/gaia --timeout=30s").await?;
    shell.show("kubectl wait --for=condition=Ready -n shop gaiaservices --all --timeout=30s").await?;
    Ok(())
}

async fn list(shell: &Shell) -> Result<()> {
    shell.show("kubectl get servicecertificates,gaiaservices,trustdomains -n shop").await.map(drop)
}

async fn verify(shell: &Shell) -> Result<()> {
    shell.show(r"kubectl get configmap -n shop gaia-trust -o jsonpath='{.data.ca\.crt}' >trust.pem").await?;
    let get = r"kubectl get secret -n shop $service-tls -o jsonpath='{.data.tls\.crt}' | base64 -d >leaf.pem";
    let check = "openssl verify -x509_strict -CAfile trust.pem leaf.pem";
    let each = "for service in auth-service asset-service web; do";
    let printed = shell.show(&format!("{each}\n    {get}\n    echo \"$service $({check})\"\ndone")).await?;
    ensure!(printed.matches("leaf.pem: OK").count() == 3, "a certificate does not verify:\n{printed}");
    Ok(())
}

/// Requests with curl.
struct Calls<'a> {
    shell: &'a Shell,
    services: &'a Services,
}

impl Calls<'_> {
    async fn with_api_key(&self) -> Result<()> {
        let hello = self.shell.dir().join("hello.txt");
        std::fs::write(hello, "Hello from the demo\n")?;
        let to = self.to_assets("hello.txt");
        self.shell
            .show_call(201, &format!(r"curl -sSw '%{{http_code}}\n' -T hello.txt -H @api-key.header {to}"))
            .await?;
        self.shell.show_call(200, &format!(r"curl -sSw '%{{http_code}}\n' -H @api-key.header {to}")).await
    }

    async fn with_token(&self) -> Result<()> {
        let request = r#"{"service_name": "web", "target_service": "asset-service"}"#;
        let to = self.to(&self.services.auth, "/internal/service-token");
        self.shell.show(&format!("curl -sSf {WEB} -d '{request}' -o token.json {to}")).await?;
        let header = r#"s/.*"access_token":"\([^"]*\)".*/Authorization: Bearer \1/p"#;
        self.shell.show(&format!("sed -n '{header}' token.json >token.header")).await?;
        // Tokens have no padding; base64 requires it and rejects too much of it.
        self.shell.show("cut -d. -f2 token.header | tr _- /+ | sed 's/$/==/' | base64 -d 2>/dev/null || true").await?;
        let to = self.to_assets("from-web.txt");
        let call = format!(r"curl -sSw '%{{http_code}}\n' {WEB} -H @token.header");
        self.shell.show_call(201, &format!("{call} -T hello.txt {to}")).await?;
        self.shell.show_call(200, &format!("{call} {to}")).await
    }

    async fn refused(&self) -> Result<()> {
        let to = self.to_assets("hello.txt");
        tell("   No credential:");
        self.shell.show_call(401, &format!("curl -sSi {to}")).await?;
        let code = r"curl -sSw '%{http_code}\n' -o /dev/null";
        tell("   A guessed key:");
        self.shell.show_call(401, &format!("{code} -H 'X-API-Key: guessed' {to}")).await?;
        tell("   The token of web, stolen, without the certificate that it is bound to:");
        self.shell.show_call(401, &format!("{code} -H @token.header {to}")).await?;
        tell("   No certificate, and so no token from auth-service:");
        let to = self.to(&self.services.auth, "/internal/service-token");
        self.shell.show_call(401, &format!(r#"{code} -d '{{"service_name": "web"}}' {to}"#)).await
    }

    fn to_assets(&self, path: &str) -> String {
        self.to(&self.services.assets, &format!("/assets/{path}"))
    }

    /// The rest of a curl command: trusted roots and URL.
    fn to(&self, service: &gaia_e2e::ServiceProcess, path: &str) -> String {
        let (address, name) = (service.mesh_address(), service.server_name());
        format!("--cacert web/ca.crt \\\n    --connect-to ::{address} https://{name}{path}")
    }
}

async fn repair(plane: &ControlPlane, shell: &Shell, services: &Services) -> Result<()> {
    let assets = &services.assets;
    let started = Instant::now();
    let foreign_key = r"$(kubectl get secret -n shop web-tls -o jsonpath='{.data.tls\.key}')";
    let patch = r#"{\"data\": {\"tls.key\": \"KEY\"}}"#.replace("KEY", foreign_key);
    shell.show(&format!("kubectl patch secret -n shop asset-service-tls -p \"{patch}\"")).await?;
    let secrets: Api<Secret> = Api::namespaced(plane.admin().await?, NAMESPACE);
    let repaired = async || is_a_pair(&secrets.get(&names::leaf_secret("asset-service")).await?);
    let leaf = wait::until("key and certificate are a pair again", SOON, repaired).await?;
    let seconds = started.elapsed().as_secs_f32();
    tell(format_args!(
        "   Key and certificate are a pair again {seconds:.1} s later, with the new serial {}.",
        leaf.serial()
    ));
    shell.show("kubectl get events -n shop --field-selector involvedObject.name=asset-service").await?;
    assets.wait_serving(&leaf.serial(), SOON).await?;
    assets.check_running()?;
    tell(format_args!("   asset-service, still process {}, serves it.", assets.pid()));
    Ok(())
}

/// The certificate, if the key is its own.
fn is_a_pair(secret: &Secret) -> Result<Certificate> {
    let data = secret.data.as_ref().context("the Secret is empty")?;
    let get = |name: &str| data.get(name).with_context(|| format!("no {name}"));
    let key = PrivateKey::from_pem(std::str::from_utf8(&get(key::TLS_KEY)?.0)?)?;
    let leaf = Certificate::chain_from_pem(&get(key::TLS_CERT)?.0)?.into_iter().next().context("no certificate")?;
    ensure!(key_matches(&leaf, &key), "the key is not the certificate's");
    Ok(leaf)
}

async fn renew(plane: &ControlPlane, shell: &Shell, services: &Services) -> Result<()> {
    let assets = &services.assets;
    let look = format!(
        "openssl s_client -connect {} -servername {} -CAfile web/ca.crt </dev/null 2>/dev/null |\n    openssl x509 -noout -serial -startdate -enddate",
        assets.mesh_address(),
        assets.server_name(),
    );
    let (pid, before) = (assets.pid(), assets.served_leaf().await?.serial());
    shell.show(&look).await?;
    let started = Instant::now();
    shell
        .show("kubectl annotate servicecertificate -n shop asset-service gaia.dev/renew-requested-at=\"$(date)\"")
        .await?;
    let certificates: Api<ServiceCertificate> = Api::namespaced(plane.admin().await?, NAMESPACE);
    let renewed = async || {
        let status = certificates.get("asset-service").await.ok()?.status?;
        status.serial_number.filter(|serial| *serial != before)
    };
    let serial = wait::until("the certificate is renewed", SOON, renewed).await?;
    let issued = started.elapsed().as_secs_f32();
    assets.wait_serving(&serial, SOON).await?;
    let served = started.elapsed().as_secs_f32();
    shell.show(&look).await?;
    ensure!(assets.is_running() && assets.pid() == pid, "asset-service was restarted");
    tell(format_args!("   Issued after {issued:.1} s, served after {served:.1} s, by the same process {pid}."));
    Ok(())
}

/// Numbers the steps and reports the one that failed.
struct Steps<'a> {
    dir: &'a Path,
    started: Instant,
    number: Cell<u32>,
    what: Cell<&'static str>,
}

impl Steps<'_> {
    async fn run<T>(&self, what: &'static str, step: impl Future<Output = Result<T>>) -> Result<T> {
        self.number.set(self.number.get() + 1);
        self.what.set(what);
        tell(format_args!("\n{}. {what}.", self.number.get()));
        self.also(watched("   still at it", step)).await
    }

    /// A further line of the same step.
    async fn also<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        Box::pin(step).await.with_context(|| {
            let (number, what) = (self.number.get(), self.what.get());
            format!("step {number} failed ({what}); logs are in {}", logs(self.dir).display())
        })
    }

    fn seconds(&self) -> f32 {
        self.started.elapsed().as_secs_f32()
    }
}

const INTRODUCTION: &str = "\
Gaia gives every service of a platform a certificate and a way to get tokens, and renews and repairs both.
This shows it on a real Kubernetes API server. Each line with a $ is a command that has just been run.";
const PLATFORM: &str = include_str!("platform.yaml");
/// curl with the files that are mounted for web.
const WEB: &str = "--cert web/tls.crt --key web/tls.key";
const SOON: Duration = Duration::from_secs(30);
