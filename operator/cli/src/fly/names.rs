//! The names of apps in the private network of Fly, and the patch of `gaia.yaml` that certifies them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use gaia_operator::directory::DEFAULT_NAMESPACE;
use serde_json::{Value, json};

use super::tree::{Assignment, Service};

/// The names of an app that its service's certificate lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    service: String,
    app: String,
    names: Vec<String>,
}

impl Missing {
    /// The missing names; none: the certificate has all of them.
    pub(crate) fn of(one: &Assignment, service: &Service) -> Option<Self> {
        let certified = service.leaf().dns_names();
        let names: Vec<String> =
            internal_names(&one.app).into_iter().filter(|name| !certified.contains(name)).collect();
        (!names.is_empty()).then(|| Self { service: one.service.clone(), app: one.app.clone(), names })
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, app, names } = self;
        write!(f, "the certificate of {service} lacks names of app {app}: {}", names.join(", "))
    }
}

/// The names of an app inside Fly: all of its machines, one of them, a process group, the nearest ones, and the proxy.
pub(crate) fn internal_names(app: &str) -> Vec<String> {
    vec![
        format!("{app}.internal"),
        format!("*.vm.{app}.internal"),
        format!("*.process.{app}.internal"),
        format!("*.nearest.of.{app}.internal"),
        format!("{app}.flycast"),
    ]
}

/// The merge patches of the objects in `gaia.yaml`. Their lists are complete: a merge patch replaces a list.
pub(crate) fn patch(dir: &Path, missing: &[Missing]) -> String {
    let file = dir.join("gaia.yaml");
    let objects = objects(&std::fs::read_to_string(&file).unwrap_or_default());
    let mut granted: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut documents = vec![];
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in missing {
        wanted.entry(&one.service).or_default().extend(one.names.iter().map(String::as_str));
    }
    for (service, names) in wanted {
        let found = objects.iter().find(|it| it["kind"] == "GaiaService" && it["metadata"]["name"] == service);
        let namespace =
            found.and_then(|it| it["metadata"]["namespace"].as_str()).unwrap_or(DEFAULT_NAMESPACE).to_owned();
        let mut all =
            found.and_then(|it| it["spec"]["certificate"]["extraDNSNames"].as_array().cloned()).unwrap_or_default();
        all.extend(names.iter().map(|name| json!(name)));
        documents.push(json!({
            "apiVersion": "gaia.dev/v1alpha1",
            "kind": "GaiaService",
            "metadata": { "name": service, "namespace": namespace },
            "spec": { "certificate": { "extraDNSNames": all } },
        }));
        granted.entry(namespace).or_default().extend(names);
    }
    if let Some(domain) = objects.iter().find(|it| it["kind"] == "TrustDomain") {
        let mut all = domain["spec"]["allowedNames"].as_array().cloned().unwrap_or_default();
        all.extend(granted.iter().map(|(namespace, names)| json!({ "namespaces": [namespace], "dnsNames": names })));
        documents.push(json!({
            "apiVersion": "gaia.dev/v1alpha1",
            "kind": "TrustDomain",
            "metadata": { "name": domain["metadata"]["name"] },
            "spec": { "allowedNames": all },
        }));
    }
    let texts: Vec<String> = documents.iter().filter_map(|it| serde_yaml_ng::to_string(it).ok()).collect();
    format!(
        "next: merge this into {}, and let the engine renew the certificates\n---\n{}",
        file.display(),
        texts.join("---\n")
    )
}

/// The documents of a file; those that cannot be read are left out.
fn objects(text: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    serde_yaml_ng::Deserializer::from_str(text).map_while(|document| Value::deserialize(document).ok()).collect()
}
