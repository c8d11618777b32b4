//! Sources of objects: where read verbs find the objects and files that they report on.

pub(crate) mod directory;

use std::collections::BTreeMap;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub(crate) use self::directory::Directory;
use crate::Failure;

/// The largest input file.
pub(crate) const MAX_INPUT_BYTES: u64 = 1024 * 1024;

/// A source of objects.
#[derive(Debug)]
pub(crate) enum Source {
    /// A directory that `gaia local` operates.
    Directory(Directory),
}

/// A kind of object with a type of its own.
pub(crate) trait Resource: DeserializeOwned {
    /// Its name in the singular.
    const KIND: &'static str;
    /// Its name in paths.
    const PLURAL: &'static str;
}

impl Resource for TrustDomain {
    const KIND: &'static str = "TrustDomain";
    const PLURAL: &'static str = "trustdomains";
}

impl Resource for GaiaService {
    const KIND: &'static str = "GaiaService";
    const PLURAL: &'static str = "gaiaservices";
}

impl Resource for ServiceCertificate {
    const KIND: &'static str = "ServiceCertificate";
    const PLURAL: &'static str = "servicecertificates";
}

/// A kind of object that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// Public data.
    ConfigMap,
    /// Private data.
    Secret,
}

impl DataKind {
    /// Its name in paths.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }
}

/// The requested keys of a Secret or ConfigMap, and their content. It has no `Debug`, as it can hold private keys.
pub(crate) type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// The file, or kind and name.
    pub(crate) object: String,
    /// The cause.
    pub(crate) why: String,
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Listed<K> {
    /// Those that can be read, sorted by namespace and name.
    pub(crate) objects: Vec<K>,
    /// The others.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl Source {
    /// Lists the objects of one kind.
    #[expect(clippy::unused_async, reason = "other sources do I/O")]
    pub(crate) async fn list<K: Resource>(&self) -> Result<Listed<K>, Failure> {
        match self {
            Self::Directory(directory) => directory.list(),
        }
    }

    /// Reads keys of a Secret or ConfigMap, and no others; none: there is no such object.
    #[expect(clippy::unused_async, reason = "other sources do I/O")]
    pub(crate) async fn data(
        &self,
        kind: DataKind,
        namespace: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Option<Data>, Failure> {
        match self {
            Self::Directory(directory) => directory.data(kind, namespace, name, keys),
        }
    }

    /// Namespace and name of the objects that hold data.
    #[expect(clippy::unused_async, reason = "other sources do I/O")]
    pub(crate) async fn data_names(&self, kind: DataKind) -> Result<Vec<(String, String)>, Failure> {
        match self {
            Self::Directory(directory) => directory.names(kind.plural()),
        }
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Directory(directory) => directory.path().display().to_string(),
        }
    }
}
