//! Rules for what users request: `limits` (validity, rotation periods, sizes) and `name_policy` (DNS names and IP addresses that
//! a ServiceCertificate may contain).

pub mod limits;
pub mod name_policy;
