//! The addresses of the platform, as one screen.

use std::fmt::Write as _;

use serde::Serialize;

use super::programs::{EMAIL, Layout, PASSWORD, Provider};
use crate::output::{Report, Table};

/// The running platform.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Platform {
    /// The web page.
    web: String,
    /// The ingress for programs.
    gateway: String,
    /// The account that can sign in; none: accounts are those of the login server.
    account: Option<Account>,
    services: Vec<Service>,
    /// Servers that stand in for those of a real platform.
    stand_ins: Vec<StandIn>,
    /// The directory of certificates.
    dir: String,
    /// The directory of assets and keys.
    data: String,
}

#[derive(Debug, Serialize)]
struct Account {
    email: &'static str,
    password: &'static str,
}

#[derive(Debug, Serialize)]
struct Service {
    name: &'static str,
    mesh: String,
    admin: String,
}

#[derive(Debug, Serialize)]
struct StandIn {
    of: &'static str,
    url: String,
}

impl Platform {
    pub(super) fn of(layout: &Layout) -> Self {
        let url = |name: &str| layout.edge(name).map_or_else(String::new, |port| page(port.address.port()));
        let mesh = layout.mesh();
        let service = |program: &super::programs::Program| {
            let admin = program.admin.as_ref()?.address.to_string();
            Some(Service { name: program.name, mesh: mesh.get(program.name)?.address.to_string(), admin })
        };
        let login = layout.has_login.then(|| StandIn { of: "login server", url: layout.login_url() });
        let is_stand_in = matches!(layout.provider, Provider::StandIn);
        let provider = is_stand_in.then(|| StandIn { of: "provider of chat completions", url: layout.provider_url() });
        Self {
            web: url("web-service"),
            gateway: url("gateway"),
            account: layout.has_login.then_some(Account { email: EMAIL, password: PASSWORD }),
            services: layout.programs().iter().filter_map(service).collect(),
            stand_ins: login.into_iter().chain(provider).collect(),
            dir: layout.dir.display().to_string(),
            data: layout.data.display().to_string(),
        }
    }
}

impl Report for Platform {
    const KIND: &'static str = "Platform";

    fn text(&self, _is_wide: bool) -> String {
        let mut text = String::from("The platform runs on this machine. Ctrl-C stops it.\n\n");
        let _ = write!(text, "  web page  {}", self.web);
        if let Some(Account { email, password }) = &self.account {
            let _ = write!(text, "   sign in as {email} with the password {password}");
        }
        let _ = writeln!(text, "\n  gateway   {}   POST /auth/login, POST /chat, /assets\n", self.gateway);
        let mut table = Table::new(&["SERVICE", "MTLS", "ADMIN (/readyz, /metrics)"]);
        for service in &self.services {
            table.row([service.name.to_owned(), service.mesh.clone(), service.admin.clone()]);
        }
        text.push_str(&table.to_string());
        text.push('\n');
        for StandIn { of, url } in &self.stand_ins {
            let _ = writeln!(text, "stand-in, for development only: {of}  {url}");
        }
        let _ = writeln!(text, "certificates and keys: {}   assets: {}", self.dir, self.data);
        text
    }

    fn names(&self) -> Vec<String> {
        self.services.iter().map(|service| service.name.to_owned()).collect()
    }
}

fn page(port: u16) -> String {
    format!("http://localhost:{port}")
}
