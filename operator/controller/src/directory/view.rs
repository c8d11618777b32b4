//! A directory opened for reading: no lock, and no write but a request.

use std::collections::BTreeMap;
use std::path::Path;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::changes::Changes;
use super::disk::dir::{Dir, Kind};
use super::disk::error::DirectoryError;
use super::disk::objects::Objects;
use super::engine::{HIDDEN, OBJECTS, RINGS_NAMESPACE};
use super::manifests;
use crate::api_server::Resource;
use crate::api_server::object::{Reading, read};

type Result<T> = std::result::Result<T, DirectoryError>;

/// A directory, read without its lock: each object and each service directory is read before or after a write, never in part.
pub struct Directory {
    pub(super) root: Dir,
    pub(super) hidden: Dir,
    pub(super) objects: Objects,
}

/// A service directory and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDirectory {
    /// The service's name.
    pub name: String,
    /// The names of its files, as a pod has them in `/etc/gaia`.
    pub files: Vec<String>,
}

/// Checks `gaia.yaml` with the patches of `gaia.changes.yaml`, as the engine does before it accepts them. Objects that
/// cannot be read are not compared.
///
/// # Errors
/// The first fault, with its file, line and field.
pub fn check_manifests(path: &Path) -> Result<()> {
    let (root, stored) = (Dir::open(path)?, Directory::open(path).ok());
    let changes = Changes::read(&root)?;
    manifests::read_from(&root, &changes, &BTreeMap::new(), stored.as_ref().map(|it| &it.objects)).map(drop)
}

impl Directory {
    /// Opens a directory that `gaia local init` made.
    ///
    /// # Errors
    /// It does not exist, has no `.gaia`, or another user may change that.
    pub fn open(path: &Path) -> Result<Self> {
        let root = Dir::open(path)?;
        let missing = || DirectoryError::Missing {
            path: path.to_owned(),
            what: HIDDEN.to_owned(),
            next: "run `gaia local init`, or name the directory with --dir".to_owned(),
        };
        let hidden = root.own_sub(HIDDEN)?.ok_or_else(missing)?;
        let objects = hidden.own_sub(OBJECTS)?.ok_or_else(missing)?;
        Ok(Self { root, hidden, objects: Objects::open(objects) })
    }

    /// The TrustDomains with their status.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn trust_domains(&self) -> Result<Vec<TrustDomain>> {
        self.all(Resource::TRUST_DOMAIN)
    }

    /// The GaiaServices with their status.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn services(&self) -> Result<Vec<GaiaService>> {
        self.all(Resource::SERVICE)
    }

    /// The ServiceCertificates with their status.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn certificates(&self) -> Result<Vec<ServiceCertificate>> {
        self.all(Resource::CERTIFICATE)
    }

    /// The ConfigMaps.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn config_maps(&self) -> Result<Vec<ConfigMap>> {
        self.all(Resource::CONFIG_MAP)
    }

    /// The names of the Secrets of a namespace, without the rings: their namespace and name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn secret_names(&self) -> Result<Vec<(String, String)>> {
        let places = self.objects.places(Resource::SECRET)?;
        Ok(places.into_iter().filter(|(namespace, _)| namespace != RINGS_NAMESPACE).collect())
    }

    /// A Secret; none: it does not exist. Only verbs that carry private keys read rings.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>> {
        self.one(Resource::SECRET, namespace, name)
    }

    /// A ConfigMap; none: it does not exist.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>> {
        self.one(Resource::CONFIG_MAP, namespace, name)
    }

    /// The service directories, by name.
    ///
    /// # Errors
    /// One is a link, belongs to another user, or may be changed by one.
    pub fn service_directories(&self) -> Result<Vec<ServiceDirectory>> {
        let mut directories = vec![];
        for certificate in self.certificates()? {
            let name = certificate.metadata.name.unwrap_or_default();
            if let Some(version) = self.version(&name)? {
                let files = version.entries()?.into_iter().filter(|(_, kind)| *kind == Kind::File);
                directories.push(ServiceDirectory { files: files.map(|(file, _)| file).collect(), name });
            }
        }
        Ok(directories)
    }

    /// A file of a service, as the service reads it; none: it does not exist.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&self, service: &str, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        self.version(service)?.map_or(Ok(None), |version| version.read(file))
    }

    /// Merge patches of `gaia.changes.yaml`: kind, namespace, name and patch.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn changes(&self) -> Result<Vec<(String, String, String, serde_json::Value)>> {
        Ok(Changes::read(&self.root)?.into_parts())
    }

    /// The folder of a service that `..data` names now.
    fn version(&self, service: &str) -> Result<Option<Dir>> {
        let Some(folder) = self.root.own_sub(service)? else { return Ok(None) };
        let Some(target) = folder.read_link("..data")? else { return Ok(None) };
        folder.own_sub(&target)
    }

    pub(super) fn all<K: DeserializeOwned>(&self, resource: Resource) -> Result<Vec<K>> {
        let mut all = vec![];
        for (namespace, name) in self.objects.places(resource)? {
            all.extend(self.one(resource, &namespace, &name)?);
        }
        Ok(all)
    }

    pub(super) fn one<K: DeserializeOwned>(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>> {
        let place = (namespace.to_owned(), name.to_owned());
        let Some(text) = self.objects.read(resource, &place)? else { return Ok(None) };
        let path = || self.objects.path(resource, &place);
        match read(text) {
            Ok(Reading::Object(object)) => Ok(Some(object)),
            Ok(Reading::Unreadable(found)) => {
                Err(DirectoryError::Unreadable { path: path(), why: found.fault.to_string() })
            }
            Err(fault) => Err(DirectoryError::Unreadable { path: path(), why: fault.to_string() }),
        }
    }
}

/// Returns true for an object that the engine wrote.
#[must_use]
pub fn is_own(labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(MANAGED_BY_LABEL)).is_some_and(|value| value == MANAGED_BY)
}
