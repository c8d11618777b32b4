//! Replacement of the kubelet where there is none: Secrets and ConfigMaps as files in a directory that is swapped as a whole.

pub mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use gaia_api::{Clock, SystemClock};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::task::JoinHandle;

use crate::progress::say;
use volume::Files;

/// One object of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
    name: String,
    /// Key -> path; all keys under their own names where there are none.
    items: BTreeMap<String, String>,
    optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Secret,
    ConfigMap,
}

impl Source {
    /// A Secret, with all its keys.
    pub fn secret(name: &str) -> Self {
        Self { kind: Kind::Secret, name: name.to_owned(), items: BTreeMap::new(), optional: false }
    }

    /// A ConfigMap, with all its keys.
    pub fn config_map(name: &str) -> Self {
        Self { kind: Kind::ConfigMap, ..Self::secret(name) }
    }

    /// Only these keys, each under its own name.
    #[must_use]
    pub fn items(mut self, keys: &[&str]) -> Self {
        self.items.extend(keys.iter().map(|key| ((*key).to_owned(), (*key).to_owned())));
        self
    }

    /// Only these keys, and this one as `path`.
    #[must_use]
    pub fn item(mut self, key: &str, path: &str) -> Self {
        self.items.insert(key.to_owned(), path.to_owned());
        self
    }

    /// The object, and each of its keys, may be missing.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    async fn read(&self, client: &Client, namespace: &str) -> Result<Option<Files>> {
        let bytes = |text: String| text.into_bytes();
        let data = match self.kind {
            Kind::Secret => {
                Api::<Secret>::namespaced(client.clone(), namespace).get_opt(&self.name).await?.map(|secret| {
                    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect::<Files>()
                })
            }
            Kind::ConfigMap => {
                Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&self.name).await?.map(|map| {
                    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, bytes(value)));
                    text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)))
                        .collect()
                })
            }
        };
        Ok(data)
    }

    /// The files of this source.
    fn project(&self, data: Option<Files>) -> Result<Files> {
        let Some(mut data) = data else {
            anyhow::ensure!(self.optional, "{} is not there", self.name);
            return Ok(Files::new());
        };
        if self.items.is_empty() {
            return Ok(data);
        }
        let mut files = Files::new();
        for (key, path) in &self.items {
            match data.remove(key) {
                Some(content) => files.insert(path.clone(), content),
                None if self.optional => None,
                None => anyhow::bail!("{} has no key {key}", self.name),
            };
        }
        Ok(files)
    }
}

/// A projected volume. As with kubelet, a source that cannot be read leaves the files as they are.
#[derive(Clone)]
pub struct Projection {
    client: Client,
    namespace: String,
    dir: PathBuf,
    sources: Vec<Source>,
}

impl Projection {
    /// `sources` in `namespace`, as files in `dir`.
    pub fn new(client: Client, namespace: &str, dir: impl Into<PathBuf>, sources: Vec<Source>) -> Self {
        Self { client, namespace: namespace.to_owned(), dir: dir.into(), sources }
    }

    /// The directory of the files: `/etc/gaia` of a pod.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the sources and updates the files. Returns true if they changed.
    ///
    /// # Errors
    /// If a source that is not optional, or a key of it, is missing.
    pub async fn sync_once(&self) -> Result<bool> {
        let mut files = Files::new();
        for source in &self.sources {
            let data = source.read(&self.client, &self.namespace).await;
            let data = data.with_context(|| format!("cannot read {}/{}", self.namespace, source.name))?;
            files.extend(source.project(data).with_context(|| format!("in namespace {}", self.namespace))?);
        }
        volume::write(&self.dir, &files, SystemClock.now())
    }

    /// Keeps the files up to date from now on, about twice a second, until the guard is dropped.
    pub fn keep(self) -> KeptProjection {
        let dir = self.dir.clone();
        let task = tokio::spawn(async move {
            let mut interval = tokio::time::interval(INTERVAL);
            let mut said = String::new();
            loop {
                interval.tick().await;
                let trouble = self.sync_once().await.err().map_or_else(String::new, |error| format!("{error:#}"));
                if trouble != said && !trouble.is_empty() {
                    say(format_args!("projection {}: {trouble}", self.dir.display()));
                }
                said = trouble;
            }
        });
        KeptProjection { dir, task }
    }
}

impl std::fmt::Debug for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, dir, sources, .. } = self;
        f.debug_struct("Projection").field("namespace", namespace).field("dir", dir).field("sources", sources).finish()
    }
}

/// A projected volume that is kept up to date as long as this value exists.
#[derive(Debug)]
pub struct KeptProjection {
    dir: PathBuf,
    task: JoinHandle<()>,
}

impl KeptProjection {
    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for KeptProjection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Files {
        Files::from([("tls.crt".to_owned(), b"leaf".to_vec()), ("tls.key".to_owned(), b"key".to_vec())])
    }

    #[test]
    fn a_source_without_items_projects_every_key() {
        assert_eq!(Source::secret("s").project(Some(data())).unwrap(), data());
    }

    #[test]
    fn only_the_items_are_projected_each_at_its_path() {
        let files = Source::secret("s").item("tls.key", "private/key.pem").project(Some(data())).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["private/key.pem"]);
    }

    #[test]
    fn a_missing_key_is_an_error_unless_the_source_is_optional() {
        let source = Source::secret("s").items(&["tls.crt", "ca.crt"]);
        assert!(source.project(Some(data())).unwrap_err().to_string().contains("ca.crt"));
        assert_eq!(source.optional().project(Some(data())).unwrap().len(), 1);
    }

    #[test]
    fn a_missing_object_is_an_error_unless_the_source_is_optional() {
        assert!(Source::config_map("trust").project(None).is_err());
        assert!(Source::config_map("trust").optional().project(None).unwrap().is_empty());
    }
}
