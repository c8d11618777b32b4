//! A client for the API server that works on raw JSON.
//!
//! The typed functions of kube's client log whole responses where they cannot parse them, and a response can hold
//! private keys. So every call goes through [`ApiServer`]: responses are bytes, parsed one object at a time by
//! [`object`], and errors have Gaia's own text.

mod call;
mod json;
pub(crate) mod object;
pub(crate) mod text;
mod watch;

pub(crate) use self::call::{Answer, ApiServer, CallError, within};
pub(crate) use self::object::{Fault, Object, Reading, Unreadable};
pub(crate) use self::watch::{Change, Selection, Watch, WatchError};

/// A kind of object and where the API server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) kind: &'static str,
    /// `/api/v1`, or `/apis` with group and version.
    root: &'static str,
    plural: &'static str,
}

impl Resource {
    pub(crate) const SECRET: Self = Self::core("Secret", "secrets");
    pub(crate) const CONFIG_MAP: Self = Self::core("ConfigMap", "configmaps");
    pub(crate) const POD: Self = Self::core("Pod", "pods");
    pub(crate) const NAMESPACE: Self = Self::core("Namespace", "namespaces");
    pub(crate) const TRUST_DOMAIN: Self = Self::gaia("TrustDomain", "trustdomains");
    pub(crate) const SERVICE: Self = Self::gaia("GaiaService", "gaiaservices");
    pub(crate) const CERTIFICATE: Self = Self::gaia("ServiceCertificate", "servicecertificates");
    pub(crate) const DEPLOYMENT: Self = Self::apps("Deployment", "deployments");
    pub(crate) const STATEFUL_SET: Self = Self::apps("StatefulSet", "statefulsets");
    pub(crate) const DAEMON_SET: Self = Self::apps("DaemonSet", "daemonsets");
    pub(crate) const LEASE: Self = Self { kind: "Lease", root: "/apis/coordination.k8s.io/v1", plural: "leases" };
    pub(crate) const EVENT: Self = Self { kind: "Event", root: "/apis/events.k8s.io/v1", plural: "events" };

    const fn core(kind: &'static str, plural: &'static str) -> Self {
        Self { kind, root: "/api/v1", plural }
    }

    const fn gaia(kind: &'static str, plural: &'static str) -> Self {
        Self { kind, root: "/apis/gaia.dev/v1alpha1", plural }
    }

    const fn apps(kind: &'static str, plural: &'static str) -> Self {
        Self { kind, root: "/apis/apps/v1", plural }
    }

    /// The name of the collection.
    pub(crate) fn plural(&self) -> &'static str {
        self.plural
    }

    /// The collection in a namespace; everywhere, or cluster-scoped, without one.
    fn collection(&self, namespace: Option<&str>) -> Result<String, CallError> {
        let Self { root, plural, .. } = self;
        Ok(match namespace {
            Some(namespace) => format!("{root}/namespaces/{}/{plural}", segment(namespace)?),
            None => format!("{root}/{plural}"),
        })
    }

    fn object(&self, namespace: Option<&str>, name: &str) -> Result<String, CallError> {
        Ok(format!("{}/{}", self.collection(namespace)?, segment(name)?))
    }
}

/// A name as a segment of a path. Names come from other objects: none may lead anywhere else.
fn segment(name: &str) -> Result<&str, CallError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(is_plain) {
        return Err(CallError::InvalidName);
    }
    Ok(name)
}
