//! The form that all audit lines share: each names the source of the event.

use std::net::IpAddr;

use http::HeaderMap;
use tracing::field::{DisplayValue, display};

use crate::{Connection, request_id};

/// The source of an audited event. [`audit_line!`](crate::audit_line) is the only way to write an audit line, and takes
/// one, so that no line lacks its address and, where there is a request, its ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    address: Option<IpAddr>,
    request_id: Option<&'a str>,
}

impl<'a> Origin<'a> {
    /// The source of a request.
    #[must_use]
    pub fn of(connection: &Connection, headers: &'a HeaderMap) -> Self {
        Self::new(connection.address, request_id(headers))
    }

    /// The source of a request whose client was determined by other means than its connection.
    #[must_use]
    pub fn new(address: Option<IpAddr>, request_id: Option<&'a str>) -> Self {
        Self { address, request_id }
    }

    /// The source of a connection on which no request was made.
    #[must_use]
    pub fn of_connection(address: IpAddr) -> Self {
        Self { address: Some(address), request_id: None }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn address(&self) -> Option<DisplayValue<IpAddr>> {
        self.address.map(|address| display(address.to_canonical()))
    }

    #[doc(hidden)]
    #[must_use]
    pub fn request_id(&self) -> Option<&'a str> {
        self.request_id
    }
}

/// Writes an audit line: `audit_line!(origin, event = "…", result = "…", …)`, with fields as in [`tracing::info!`].
/// `origin` is an [`Origin`](crate::audit::Origin); its fields `address` and `request_id` are added.
#[macro_export]
macro_rules! audit_line {
    ($origin:expr, $($fields:tt)+) => {{
        let origin: &$crate::audit::Origin<'_> = &$origin;
        $crate::audit::tracing::info!(
            target: $crate::audit::AUDIT_TARGET,
            address = origin.address(),
            request_id = origin.request_id(),
            $($fields)+
        );
    }};
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Kind: an audit line that does not name its source, as it is written past the macro.
    #[test]
    fn every_audit_line_of_the_services_is_written_with_its_origin() {
        let services = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (mut folders, mut events) = (vec![services.to_owned()], 0);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("audit/line.rs") {
                    continue;
                }
                let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
                let is_writer = path.ends_with("observability/audit_log.rs");
                for bypass in ["target:AUDIT_TARGET", "audit::AUDIT_TARGET,", "target:\"gaia.audit\""] {
                    assert!(is_writer || !text.contains(bypass), "{} writes an audit line by {bypass}", path.display());
                }
                events += text.matches("audit_line!(").count();
            }
        }
        assert!(events >= 8, "{events} events were found");
    }
}
