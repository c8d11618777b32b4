//! The programs of the platform on this machine: ports, and the variables of each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use gaia_operator::directory::DEFAULT_NAMESPACE;

use super::data;
use super::ports::Port;
use crate::{Failure, programs};

/// A service, with its ports before the offset.
pub(super) struct Service {
    pub(super) name: &'static str,
    mesh: u16,
    edge: Option<u16>,
}

/// The five services in the order of their start. The end is in the opposite order: listeners for users close first.
static SERVICES: [Service; 5] = [
    Service { name: "auth-service", mesh: 8443, edge: None },
    Service { name: "asset-service", mesh: 8444, edge: None },
    Service { name: "chat-service", mesh: 8445, edge: None },
    Service { name: "gateway", mesh: 8446, edge: Some(8666) },
    Service { name: "web-service", mesh: 8447, edge: Some(8080) },
];

/// A program to run, with its variables.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// The executable; none: this one.
    executable: Option<PathBuf>,
    arguments: Vec<String>,
    env: BTreeMap<&'static str, String>,
    /// Its admin listener; none: it has none.
    pub(super) admin: Option<Port>,
}

impl Program {
    /// The command that runs it. Variables that configure services are those of this program only.
    ///
    /// # Errors
    /// The path of this executable is unknown.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = match &self.executable {
            Some(path) => Command::new(path),
            None => programs::itself(self.name)?,
        };
        for (name, _) in std::env::vars_os() {
            let is_setting = |prefix: &&str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
            if ["GAIA_", "TLS_", "JWT_"].iter().any(is_setting) && name != "GAIA_LOG" {
                command.env_remove(name);
            }
        }
        command.args(&self.arguments).envs(&self.env);
        Ok(command)
    }
}

/// The layout of the platform: directories, ports and the servers outside of it.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The directory of certificates.
    pub(super) dir: PathBuf,
    /// The directory of assets and of the keys that are not Gaia's.
    pub(super) data: PathBuf,
    /// A directory of executables in place of this one.
    pub(super) services: Option<PathBuf>,
    /// Added to each port.
    pub(super) offset: u16,
    /// The provider of chat completions.
    pub(super) provider: Provider,
    /// The stand-in for the login server is started.
    pub(super) has_login: bool,
    /// The executable of the stand-ins; none: none are started.
    pub(super) stand_ins: Option<PathBuf>,
}

/// The provider of chat completions.
#[derive(Debug, Clone)]
pub(super) enum Provider {
    /// The stand-in.
    StandIn,
    /// A server of the user.
    Url { url: String, key_file: Option<PathBuf>, model: Option<String> },
}

impl Layout {
    /// The address of the stand-in for the login server.
    pub(super) fn login(&self) -> Port {
        Port::new(STAND_INS, "login server", self.port(9999))
    }

    /// The base URL of the stand-in for the login server: the issuer of its tokens.
    pub(super) fn login_url(&self) -> String {
        format!("http://{}/auth/v1", self.login().address)
    }

    fn provider_port(&self) -> Port {
        Port::new(STAND_INS, "provider of chat completions", self.port(9998))
    }

    /// The base URL of the provider.
    pub(super) fn provider_url(&self) -> String {
        match &self.provider {
            Provider::StandIn => format!("http://{}/v1", self.provider_port().address),
            Provider::Url { url, .. } => url.clone(),
        }
    }

    /// The mesh listener of each service, by its name.
    pub(super) fn mesh(&self) -> BTreeMap<&'static str, Port> {
        SERVICES.iter().map(|service| (service.name, self.mesh_of(service))).collect()
    }

    /// The listener for users of a service that has one.
    pub(super) fn edge(&self, name: &str) -> Option<Port> {
        SERVICES.iter().find(|service| service.name == name).and_then(|service| self.edge_of(service))
    }

    /// Every port, with the program that listens on it.
    pub(super) fn ports(&self) -> Vec<Port> {
        let of_services = SERVICES.iter().flat_map(|service| {
            [Some(self.mesh_of(service)), Some(self.admin_of(service)), self.edge_of(service)].into_iter().flatten()
        });
        let login = self.has_login.then(|| self.login());
        let provider = matches!(self.provider, Provider::StandIn).then(|| self.provider_port());
        of_services.chain(login).chain(provider).collect()
    }

    /// The programs in the order of their start.
    pub(super) fn programs(&self) -> Vec<Program> {
        let services = SERVICES.iter().map(|service| self.service(service));
        self.stand_ins.as_deref().map(|path| self.stand_ins(path)).into_iter().chain(services).collect()
    }

    fn service(&self, service: &Service) -> Program {
        let name = service.name;
        let mut env = BTreeMap::from([
            ("GAIA_SERVICE_NAME", name.to_owned()),
            ("GAIA_DIR", text(&self.dir.join(name))),
            ("GAIA_MESH_ADDRESS", self.mesh_of(service).address.to_string()),
            ("GAIA_ADMIN_ADDRESS", self.admin_of(service).address.to_string()),
            ("GAIA_LOG_FORMAT", "text".to_owned()),
            // There is no load balancer that takes an instance out first.
            ("GAIA_SHUTDOWN_DELAY", "0s".to_owned()),
            ("GAIA_DRAIN_TIMEOUT", "5s".to_owned()),
        ]);
        if let Some(edge) = self.edge_of(service) {
            env.insert("GAIA_EDGE_ADDRESS", edge.address.to_string());
            env.insert("GAIA_RESOLVE", self.addresses());
            for (variable, upstream) in UPSTREAMS {
                env.insert(variable, format!("https://{}", host(upstream)));
            }
        }
        match name {
            "asset-service" => {
                env.insert("GAIA_OBJECT_STORE_URL", format!("file://{}", text(&self.data.join("asset-service"))));
            }
            "chat-service" => self.set_provider(&mut env),
            "web-service" => {
                env.insert("GAIA_SESSION_KEYS_FILE", text(&data::session_keys(&self.data)));
            }
            _ => {}
        }
        let executable = self.services.as_ref().map(|dir| dir.join(name));
        Program { name, executable, arguments: vec![], env, admin: Some(self.admin_of(service)) }
    }

    fn set_provider(&self, env: &mut BTreeMap<&'static str, String>) {
        env.insert("GAIA_PROVIDER_URL", self.provider_url());
        let (key_file, model) = match &self.provider {
            Provider::StandIn => (Some(data::provider_key(&self.data)), Some("echo".to_owned())),
            Provider::Url { key_file, model, .. } => (key_file.clone(), model.clone()),
        };
        if let Some(file) = key_file {
            env.insert("GAIA_PROVIDER_KEY_FILE", text(&file));
        }
        if let Some(model) = model {
            env.insert("GAIA_PROVIDER_MODEL", model);
        }
    }

    fn stand_ins(&self, path: &Path) -> Program {
        let mut arguments = vec![];
        match self.has_login {
            true => arguments.extend(["--login".to_owned(), self.login().address.to_string()]),
            false => arguments.push("--no-login".to_owned()),
        }
        match &self.provider {
            Provider::StandIn => {
                arguments.extend(["--provider".to_owned(), self.provider_port().address.to_string()]);
                arguments.extend(["--provider-key-file".to_owned(), text(&data::provider_key(&self.data))]);
            }
            Provider::Url { .. } => arguments.push("--no-provider".to_owned()),
        }
        arguments.extend(["--user".to_owned(), format!("{EMAIL}:{PASSWORD}")]);
        Program { name: STAND_INS, executable: Some(path.to_owned()), arguments, env: BTreeMap::new(), admin: None }
    }

    /// The addresses of all services in the form of `GAIA_RESOLVE`, by both names that callers use.
    fn addresses(&self) -> String {
        let of = |service: &Service| {
            let address = self.mesh_of(service).address;
            format!("{}={address},{}={address}", service.name, host(service.name))
        };
        SERVICES.iter().map(of).collect::<Vec<_>>().join(",")
    }

    fn mesh_of(&self, service: &Service) -> Port {
        Port::new(service.name, "mesh", self.port(service.mesh))
    }

    fn admin_of(&self, service: &Service) -> Port {
        Port::new(service.name, "admin", self.port(service.mesh + ADMIN))
    }

    fn edge_of(&self, service: &Service) -> Option<Port> {
        Some(Port::new(service.name, "users", self.port(service.edge?)))
    }

    fn port(&self, base: u16) -> u16 {
        base.saturating_add(self.offset)
    }
}

/// The executable of the stand-ins: in the directory of this one, or on `PATH`.
///
/// # Errors
/// It is neither here nor there.
pub(super) fn find_stand_ins() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(STAND_INS));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(STAND_INS));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        let cause =
            format!("{STAND_INS} is neither in the directory of gaia nor on PATH; it stands in for login and chat");
        let next =
            "build it with `cargo build -p gaia-stand-ins`, or name servers with --supabase-url and --provider-url";
        Failure::usage(cause).next(next)
    })
}

/// The name of a service in URLs of other services.
fn host(service: &str) -> String {
    format!("{service}.{DEFAULT_NAMESPACE}.svc")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The program of the stand-ins.
pub(super) const STAND_INS: &str = "gaia-stand-ins";
/// The account of the stand-in for the login server.
pub(super) const EMAIL: &str = "ada@example.com";
/// Its password.
pub(super) const PASSWORD: &str = "analytical-engine";
/// The highest offset of ports.
pub(super) const MAX_OFFSET: u16 = 50_000;
/// The admin port of a service is its mesh port and this.
const ADMIN: u16 = 1000;
const UPSTREAMS: [(&str, &str); 3] = [
    ("GAIA_AUTH_URL", "auth-service"),
    ("GAIA_UPSTREAM_ASSET_SERVICE", "asset-service"),
    ("GAIA_UPSTREAM_CHAT_SERVICE", "chat-service"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layout(provider: Provider, has_login: bool) -> Layout {
        Layout {
            dir: "/certs".into(),
            data: "/data".into(),
            services: None,
            offset: 10,
            provider,
            has_login,
            stand_ins: has_login.then(|| "/bin/gaia-stand-ins".into()),
        }
    }

    #[test]
    fn no_two_listeners_have_one_port() {
        let ports = layout(Provider::StandIn, true).ports();
        let numbers: BTreeSet<u16> = ports.iter().map(|port| port.address.port()).collect();
        assert_eq!((ports.len(), numbers.len()), (14, 14), "{ports:?}");
        assert!(numbers.contains(&8676) && numbers.contains(&8090), "the offset is added");
        assert!(ports.iter().all(|port| port.address.ip().is_loopback()));
    }

    #[test]
    fn the_highest_offset_leaves_distinct_ports() {
        let ports = Layout { offset: MAX_OFFSET, ..layout(Provider::StandIn, true) }.ports();
        let numbers: BTreeSet<u16> = ports.iter().map(|port| port.address.port()).collect();
        assert_eq!(ports.len(), numbers.len());
    }

    #[test]
    fn servers_of_the_user_replace_the_stand_ins() {
        let url = "https://llm.example/v1".to_owned();
        let layout = layout(Provider::Url { url: url.clone(), key_file: None, model: None }, false);
        let programs = layout.programs();
        assert_eq!(programs.len(), SERVICES.len());
        let chat = programs.iter().find(|program| program.name == "chat-service").unwrap();
        assert_eq!((chat.env.get("GAIA_PROVIDER_URL"), chat.env.get("GAIA_PROVIDER_KEY_FILE")), (Some(&url), None));
        assert!(layout.ports().iter().all(|port| port.program != STAND_INS));
    }
}
