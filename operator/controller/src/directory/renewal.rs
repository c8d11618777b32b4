//! `gaia local needs-renewal`: the renewal state of one certificate.

use std::path::Path;

use gaia_api::names::key;
use gaia_pki::Certificate;
use jiff::Timestamp;

use super::disk::error::DirectoryError;
use super::view::Directory;

/// The renewal state of a service's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// It is missing, expired, not readable or due for renewal, for this cause.
    Due(String),
    /// Not before that time.
    NotDue(Timestamp),
}

/// Looks at the file that the service reads, and at the planned time of renewal. Takes no lock and changes nothing.
///
/// # Errors
/// The directory cannot be read, or has no such service.
pub fn needs_renewal(path: &Path, service: &str, now: Timestamp) -> Result<Renewal, DirectoryError> {
    let directory = Directory::open(path)?;
    let named = |meta: &Option<String>| meta.as_deref() == Some(service);
    let certificate = directory.certificates()?.into_iter().find(|found| named(&found.metadata.name));
    let is_declared = certificate.is_some() || directory.services()?.iter().any(|found| named(&found.metadata.name));
    if !is_declared {
        return Err(DirectoryError::Missing {
            path: path.to_owned(),
            what: format!("service {service}"),
            next: "`gaia status --dir` lists the services".to_owned(),
        });
    }
    let Some(file) = directory.file(service, key::TLS_CERT)? else {
        return Ok(Renewal::Due(format!("{service}/{} is missing", key::TLS_CERT)));
    };
    let chain = Certificate::chain_from_pem(&file);
    let Some(leaf) = chain.ok().and_then(|chain| chain.into_iter().next()) else {
        return Ok(Renewal::Due(format!("{service}/{} is not a certificate", key::TLS_CERT)));
    };
    let until = leaf.not_after();
    if until <= now {
        return Ok(Renewal::Due(format!("the certificate expired at {until}")));
    }
    let planned = certificate.and_then(|found| found.status?.renewal_time);
    match planned {
        Some(at) if at > now => Ok(Renewal::NotDue(at)),
        Some(at) => Ok(Renewal::Due(format!("renewal was due at {at}"))),
        None => Ok(Renewal::Due("no renewal is planned yet".to_owned())),
    }
}
