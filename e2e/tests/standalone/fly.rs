//! `gaia export fly`, `gaia fly deploy` and `gaia fly verify` on a stand-in for Fly.io, with the five services as its machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gaia_api::mount::{Policy, TlsMode};
use gaia_api::names::key;
use gaia_e2e::{process, programs};
use gaia_runtime::testing::{Mount, MountedFiles, Platform, grants, policy};
use gaia_stand_ins::fly::{AppSpec, Fault, Fly};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

const SERVICES: [&str; 5] = ["auth-service", "asset-service", "chat-service", "gateway", "web-service"];
const OLD_SECRETS: &str = "GATEWAY_CERT=pem\nGATEWAY_KEY=pem\nCA_CERT=pem\nAPI_KEY=old\n";

/// A directory as `gaia local` writes it, and an app for each service.
struct Site {
    dir: tempfile::TempDir,
    fly: Arc<Fly>,
    program: PathBuf,
    mounts: BTreeMap<&'static str, Mount>,
}

fn app(service: &str) -> String {
    format!("gaia-{service}-production")
}

/// The files of a service: the bundle and key set of some platforms, the certificate and signing key of one.
fn files(service: &str, published: &[&Platform], active: &Platform) -> MountedFiles {
    let mut files = active.mount(service);
    let bundle: String = published.iter().map(|platform| platform.bundle()).collect();
    files.insert(key::CA_CERT, bundle.into_bytes());
    let sets = published.iter().map(|platform| serde_json::from_str::<Value>(&platform.jwks()).unwrap());
    let keys: Vec<Value> = sets.flat_map(|set| set["keys"].as_array().unwrap().clone()).collect();
    files.insert(key::JWKS, json!({ "keys": keys }).to_string().into_bytes());
    let policy = Policy { tls_mode: TlsMode::Strict, ..policy(service) };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    if service == "auth-service" {
        files.insert(key::JWT_SIGNING_KEY, active.signing_key().into_bytes());
        files.insert(key::GRANTS, grants(&SERVICES, &[("gateway", "asset-service", &[])]));
    }
    files
}

impl Site {
    async fn new(first: &Platform) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fly = Fly::start(&dir.path().join("machines")).await.unwrap();
        let client = format!("{} fly", programs::own().unwrap().display());
        let program = fly.write_program(dir.path(), &client).unwrap();
        let certs = dir.path().join("certs");
        let mount = |service| (service, Mount::new(&certs.join(service), &files(service, &[first], first)));
        let mounts = SERVICES.into_iter().map(mount).collect();
        Self { dir, fly: Arc::new(fly), program, mounts }
    }

    fn write(&mut self, published: &[&Platform], active: &Platform) {
        for (service, mount) in &mut self.mounts {
            mount.swap(&files(service, published, active));
        }
    }

    async fn gaia(&self, arguments: &[&str], services: &[&str]) -> Output {
        let mut command = Command::new(programs::locate("gaia").unwrap());
        command.args(arguments).arg("--dir").arg(self.dir.path().join("certs"));
        command.args(services.iter().flat_map(|service| ["--app".to_owned(), format!("{service}={}", app(service))]));
        process::output(command).await.unwrap()
    }

    async fn on_fly(&self, verb: &str, more: &[&str]) -> (Option<i32>, String) {
        let program = self.program.to_str().unwrap();
        let fixed = ["fly", verb, "--fly", program];
        let output = self.gaia(&[&fixed[..], more].concat(), &SERVICES).await;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        (output.status.code(), text)
    }

    /// Creates an app from the output of `gaia export fly --files`, and deploys it with that of `--secrets`.
    async fn create(&self, service: &'static str) {
        let config = self.gaia(&["export", "fly", "--files"], &[service]).await;
        let warning = String::from_utf8(config.stderr).unwrap();
        // The certificates of this test have no names of Fly.
        assert_eq!(config.status.code(), Some(1), "{warning}");
        for text in [&format!("*.vm.{}.internal", app(service)), "extraDNSNames"] {
            assert!(warning.contains(text), "{warning}");
        }
        let spec = AppSpec {
            name: app(service),
            program: programs::locate(service).unwrap(),
            env: environment(service, self.dir.path()),
            config: String::from_utf8(config.stdout).unwrap(),
            machines: 2,
        };
        self.fly.create(spec).await.unwrap();
        let secrets = self.gaia(&["export", "fly", "--secrets"], &[service]).await;
        for (arguments, input) in [
            (&["secrets", "import", "--stage"][..], &secrets.stdout[..]),
            (
                &["secrets", "import", "--stage"],
                if service == "gateway" { OLD_SECRETS.as_bytes() } else { b"API_KEY=old\n" },
            ),
            (&["deploy"], &[]),
        ] {
            let app = app(service);
            let answer = self.fly.run(&[arguments, &["-a", &app]].concat(), input).await;
            assert_eq!(answer.code, 0, "{service}: {}", answer.stderr);
        }
    }
}

/// The variables of the image of a service.
fn environment(service: &str, dir: &Path) -> BTreeMap<String, String> {
    let key_file = dir.join("key");
    std::fs::write(&key_file, "key-of-the-provider-0123456789abcdef").unwrap();
    let key_file = key_file.display().to_string();
    let session_keys = dir.join("session-keys");
    std::fs::write(&session_keys, "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=\n").unwrap();
    let session_keys = session_keys.display().to_string();
    let assets = format!("file://{}", dir.join("assets").display());
    let more: &[(&str, &str)] = match service {
        "asset-service" => &[("GAIA_OBJECT_STORE_URL", &assets)],
        "chat-service" => &[
            ("GAIA_PROVIDER_URL", "http://127.0.0.1:9"),
            ("GAIA_PROVIDER_KEY_FILE", &key_file),
            ("GAIA_PROVIDER_MODEL", "echo"),
        ],
        "gateway" => &[
            ("GAIA_EDGE_ADDRESS", "127.0.0.1:0"),
            ("GAIA_UPSTREAM_ASSET_SERVICE", "https://gaia-asset-service-production.internal:8443"),
        ],
        "web-service" => &[
            ("GAIA_EDGE_ADDRESS", "127.0.0.1:0"),
            ("GAIA_GATEWAY_URL", "https://gaia-gateway-production.internal:8443"),
            ("GAIA_SESSION_KEYS_FILE", &session_keys),
        ],
        _ => &[],
    };
    let common = [("GAIA_SERVICE_NAME", service), ("GAIA_SHUTDOWN_DELAY", "300ms")];
    common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Requests from machines of each app to machines of each other one, with the files of the calling machine.
struct Load {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    workers: JoinSet<Vec<String>>,
}

impl Load {
    fn start(fly: &Arc<Fly>) -> Self {
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut workers = JoinSet::new();
        for (index, caller) in SERVICES.into_iter().enumerate() {
            let (fly, is_over, count) = (Arc::clone(fly), Arc::clone(&is_over), Arc::clone(&count));
            workers.spawn(async move {
                let mut failures = vec![];
                let targets = SERVICES.iter().cycle().skip(index + 1);
                for (round, target) in targets.enumerate() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = request(&fly, caller, target, round).await {
                        failures.push(format!("{caller} to {target}: {error}"));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(20)).await;
                }
                failures
            });
        }
        Self { is_over, count, workers }
    }

    async fn end(self) -> (u64, Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures = self.workers.join_all().await.concat();
        (self.count.load(Ordering::Relaxed), failures)
    }
}

/// One request. An address that refuses the connection is left for the next one of the name, as clients do.
async fn request(fly: &Fly, caller: &str, target: &str, round: usize) -> Result<(), String> {
    let callers = fly.machines(&app(caller)).await;
    let Some(caller) = callers.iter().filter(|machine| machine.is_resolved).nth(round % 2).or(callers.first()) else {
        return Err("no machine calls".to_owned());
    };
    let config = client(&caller.files)?;
    let mut machines = fly.machines(&app(target)).await;
    machines.retain(|machine| machine.is_resolved);
    let count = machines.len().max(1);
    machines.rotate_left(round / 2 % count);
    let mut refused = format!("{count} machines");
    for machine in machines {
        let tcp = match TcpStream::connect((machine.address, 8443)).await {
            Ok(tcp) => tcp,
            Err(error) => {
                refused = error.to_string();
                continue;
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let to_text = |error: std::io::Error| format!("machine {}: {error}", machine.id);
        let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.map_err(to_text)?;
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.map_err(to_text)?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.map_err(to_text)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        return if answer.starts_with("HTTP/1.1 ") && !answer.contains(" 5") { Ok(()) } else { Err(answer) };
    }
    Err(refused)
}

fn client(files: &Path) -> Result<Arc<ClientConfig>, String> {
    let read = |name: &str| std::fs::read(files.join(name)).map_err(|error| format!("{name}: {error}"));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&read(key::CA_CERT)?) {
        roots.add(root.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_slice_iter(&read(key::TLS_CERT)?).map(Result::unwrap).collect();
    let private = PrivateKeyDer::from_pem_slice(&read(key::TLS_KEY)?).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .unwrap();
    Ok(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn five_apps_rotate_their_ca_under_load_through_a_stuck_and_an_unknown_app() {
    let (old, new) = (Platform::new(), Platform::new());
    let mut site = Site::new(&old).await;
    futures::future::join_all(SERVICES.map(|service| site.create(service))).await;
    let load = Load::start(&site.fly);
    let direct = ["--connect", "direct"];

    // An app that stays Staged stops the deployment, and is named.
    site.write(&[&old, &new], &new);
    let stuck = app("auth-service");
    site.fly.set_fault(&stuck, Fault::StaysStaged).await.unwrap();
    let (code, text) = site.on_fly("deploy", &[&direct[..], &["--yes", "--timeout", "10"]].concat()).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(&format!("app {stuck}: secret")) && text.contains("stays Staged"), "{text}");

    // So does an app whose state is unknown.
    site.fly.set_fault(&stuck, Fault::None).await.unwrap();
    let unknown = app("chat-service");
    for fault in [Fault::UnknownStatus, Fault::NoStatus] {
        site.fly.set_fault(&unknown, fault).await.unwrap();
        let (code, text) = site.on_fly("deploy", &[&direct[..], &["--yes"]].concat()).await;
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(&format!("app {unknown}: fly reports the status")), "{text}");
    }

    // Old secrets are removed on demand only; a further run finishes.
    site.fly.set_fault(&unknown, Fault::None).await.unwrap();
    let (code, text) = site.on_fly("deploy", &direct).await;
    assert_eq!(code, Some(64), "{text}");
    let (code, text) = site.on_fly("deploy", &[&direct[..], &["--yes"]].concat()).await;
    assert_eq!(code, Some(0), "{text}");
    let names = site.fly.secret_names(&app("gateway")).await;
    assert!(names.contains(&"API_KEY".to_owned()) && !names.contains(&"GATEWAY_KEY".to_owned()), "{names:?}");

    let (count, failures) = load.end().await;
    assert!(failures.is_empty() && count > 500, "{} of {count} requests failed: {failures:#?}", failures.len());

    // The certificates of this test have no names of Fly, which is a warning.
    let (code, text) = site.on_fly("verify", &["--connect", "proxy"]).await;
    assert_eq!((code, text.matches(" current").count()), (Some(1), 10), "{text}");
    let (code, text) = site.on_fly("deploy", &direct).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing to do"), "{text}");

    // A machine outside the release keeps its files: it is named.
    site.write(&[&new], &new);
    let outside = app("auth-service");
    site.fly.exclude(&outside, 1).await.unwrap();
    let (code, text) = site.on_fly("deploy", &[&direct[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, text.lines().count()), (Some(0), 20), "{text}");
    let machine = site.fly.machines(&outside).await[1].id.clone();
    let (code, text) = site.on_fly("deploy", &[&direct[..], &["--timeout", "20"]].concat()).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains(&format!("app {outside}:")) && (text.contains("Partial") || text.contains(&machine)),
        "{text}"
    );
}
