//! What a decision about a TrustDomain rests on.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::crd::{GaiaService, TrustDomain};
use jiff::Timestamp;

use crate::backoff::Failures;
use crate::object::{Held, ObjectFacts};
use crate::ring::{CaMaterial, Ring, RingError, SigningMaterial};

/// Everything a decision about one TrustDomain rests on.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// It.
    pub domain: &'a TrustDomain,
    /// The CA's ring.
    pub ca: RingView<'a, CaMaterial>,
    /// The signing keys' ring.
    pub signing: RingView<'a, SigningMaterial>,
    /// Whether a copy of the CA's ring from before a transition exists.
    pub ca_copy_exists: bool,
    /// Whether a copy of the signing ring from before a transition exists.
    pub signing_copy_exists: bool,
    /// Whether leaves of this TrustDomain exist.
    pub leaves_exist: bool,
    /// With `spec.ca.existingSecretRef`: the CA in that Secret, or what is wrong with it.
    pub brought_ca: Option<Result<BroughtCa, String>>,
    /// Namespaces with objects that refer to this TrustDomain.
    pub consumers: BTreeSet<String>,
    /// Those of them that it selects and that are not being deleted.
    pub granted: BTreeSet<String>,
    /// ConfigMap `<td>-trust` by namespace, wherever one is known.
    pub trust: BTreeMap<String, Held<ObjectFacts>>,
    /// ConfigMap `<td>-grants` by namespace, wherever one is known.
    pub grants: BTreeMap<String, Held<ObjectFacts>>,
    /// Secret `<td>-token-signer` by namespace, wherever one is known.
    pub signers: BTreeMap<String, Held<SignerSecret>>,
    /// Projections that somebody else deleted while the operator watched.
    pub lost: BTreeSet<crate::object::ObjectKey>,
    /// The GaiaServices of this TrustDomain in granted namespaces.
    pub services: Vec<&'a GaiaService>,
    /// Attempts that failed.
    pub failures: Option<&'a Failures>,
    /// Where the rings are.
    pub operator_namespace: &'a str,
}

impl Observed<'_> {
    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.domain.metadata.name.as_deref().unwrap_or_default()
    }
}

/// A ring as it was found.
#[derive(Debug, Clone)]
pub enum RingView<'a, M> {
    /// There is none.
    Missing,
    /// It can be worked with.
    Readable {
        /// Its public part.
        ring: &'a Ring<M>,
        /// Its Secret.
        facts: &'a ObjectFacts,
    },
    /// It cannot be worked with.
    Unreadable {
        /// Why.
        error: &'a RingError,
        /// Its Secret.
        facts: &'a ObjectFacts,
    },
}

impl<'a, M> RingView<'a, M> {
    /// The ring, if it can be worked with.
    #[must_use]
    pub fn ring(&self) -> Option<&'a Ring<M>> {
        match self {
            Self::Readable { ring, .. } => Some(ring),
            Self::Missing | Self::Unreadable { .. } => None,
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn error(&self) -> Option<&'a RingError> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Missing | Self::Readable { .. } => None,
        }
    }

    /// Its Secret.
    #[must_use]
    pub fn facts(&self) -> Option<&'a ObjectFacts> {
        match self {
            Self::Readable { facts, .. } | Self::Unreadable { facts, .. } => Some(facts),
            Self::Missing => None,
        }
    }
}

/// A CA brought from outside, judged usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BroughtCa {
    /// Lower-case hex SHA-256 of its certificate's DER.
    pub fingerprint: String,
    /// When the first certificate of its chain ends.
    pub not_after: Timestamp,
}

/// The Secret `<td>-token-signer`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignerSecret {
    /// Everything but the key.
    pub facts: ObjectFacts,
    /// The kid of the key that it really holds; none if it cannot be read.
    pub kid: Option<String>,
}
