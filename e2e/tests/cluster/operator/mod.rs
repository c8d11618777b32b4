//! Issue, refusal, plan and rights of the operator on a real API server.

mod external_ca;
mod instances;
mod issue;
mod leadership;
mod legacy;
mod plan;
mod refuse;
mod rights;
mod upgrade;
