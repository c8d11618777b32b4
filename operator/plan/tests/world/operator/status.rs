//! The status of any of the three kinds.

use gaia_api::crd::{
    GaiaService, GaiaServiceStatus, ServiceCertificate, ServiceCertificateStatus, TrustDomain, TrustDomainStatus,
};

use super::{Resource, World};

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Status {
    Domain(TrustDomainStatus),
    Certificate(ServiceCertificateStatus),
    Service(GaiaServiceStatus),
}

impl World {
    /// Writes the status if it differs.
    pub(crate) fn report(&mut self, resource: &Resource, status: Status) -> bool {
        let slot: &mut dyn StatusSlot = match resource {
            Resource::Domain(name) => match self.domains.get_mut(name) {
                Some(domain) => domain,
                None => return false,
            },
            Resource::Certificate(name) => match self.certificates.get_mut(name) {
                Some(certificate) => certificate,
                None => return false,
            },
            Resource::Service(name) => match self.services.get_mut(name) {
                Some(service) => service,
                None => return false,
            },
        };
        slot.write(status)
    }

    /// The status that was last reported.
    pub(crate) fn reported(&self, resource: &Resource) -> Status {
        match resource {
            Resource::Domain(name) => Status::Domain(self.domains[name].status.clone().unwrap_or_default()),
            Resource::Certificate(name) => {
                Status::Certificate(self.certificates[name].status.clone().unwrap_or_default())
            }
            Resource::Service(name) => Status::Service(self.services[name].status.clone().unwrap_or_default()),
        }
    }
}

impl Status {
    pub(crate) fn conditions(&self) -> &[gaia_api::crd::Condition] {
        match self {
            Self::Domain(status) => &status.conditions,
            Self::Certificate(status) => &status.conditions,
            Self::Service(status) => &status.conditions,
        }
    }

    pub(crate) fn condition(&self, type_: &str) -> (&str, &str, &str) {
        let found = gaia_api::crd::find_condition(self.conditions(), type_);
        found.map_or(("", "", ""), |c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()))
    }

    /// Returns true if the cause is temporary.
    pub(crate) fn waits(&self) -> bool {
        let (status, reason, _) = self.condition("Reconciling");
        status == "True" && !["TrustDomainNotFound", "TrustDomainNotReady"].contains(&reason)
    }
}

trait StatusSlot {
    fn write(&mut self, status: Status) -> bool;
}

macro_rules! status_slot {
    ($kind:ty, $variant:ident) => {
        impl StatusSlot for $kind {
            fn write(&mut self, status: Status) -> bool {
                let Status::$variant(status) = status else { return false };
                let differs = self.status.as_ref() != Some(&status);
                self.status = Some(status);
                differs
            }
        }
    };
}

status_slot!(TrustDomain, Domain);
status_slot!(ServiceCertificate, Certificate);
status_slot!(GaiaService, Service);
