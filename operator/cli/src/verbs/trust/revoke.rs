//! `gaia revoke`.

use clap::{Args, ValueEnum};
use gaia_api::crd::{RevokedSubject, ServiceCertificate};
use serde_json::json;

use super::ask::confirm;
use super::{ChangeArgs, patch_domain, trust_domain};
use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The kind of credential.
    what: Credential,
    /// The fingerprint of a certificate or the name of its service; the id of a token; a subject, whose tokens until now
    /// are refused.
    value: String,
    /// The TrustDomain; without it the only one.
    trust_domain: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Credential {
    /// A certificate of a service.
    Leaf,
    /// A token.
    Jti,
    /// All tokens of a subject.
    Subject,
}

/// Revokes a certificate or tokens.
pub(crate) async fn run(args: &RevokeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let source = super::source(context)?;
    let (name, domain) = trust_domain(&source, args.trust_domain.as_deref()).await?;
    let mut revoked = domain.spec.revoked;
    let value = args.value.clone();
    let patch = match args.what {
        Credential::Leaf => {
            let is_fingerprint =
                value.len() == 64 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let fingerprint = if is_fingerprint {
                value
            } else {
                let certificates = source.list::<ServiceCertificate>().await?.objects;
                let found = certificates.into_iter().find(|it| it.metadata.name.as_ref() == Some(&value));
                found.and_then(|it| it.status?.fingerprint).ok_or_else(|| {
                    Failure::usage(format!("{value:?} is neither a fingerprint nor a service with a certificate"))
                        .next("gaia inspect secret/NAME-tls shows the fingerprint")
                })?
            };
            revoked.leaves.retain(|known| *known != fingerprint);
            revoked.leaves.push(fingerprint);
            json!({ "spec": { "revoked": { "leaves": revoked.leaves } } })
        }
        Credential::Jti => {
            revoked.jtis.retain(|known| *known != value);
            revoked.jtis.push(value);
            json!({ "spec": { "revoked": { "jtis": revoked.jtis } } })
        }
        Credential::Subject => {
            revoked.subjects.retain(|known| known.sub != value);
            let not_before = gaia_api::crd::whole_seconds(context.console.clock.now());
            revoked.subjects.push(RevokedSubject { sub: value, not_before });
            json!({ "spec": { "revoked": { "subjects": revoked.subjects } } })
        }
    };
    if !args.change.print_patch {
        confirm(
            &format!("this ends the trust in {} of TrustDomain {name}", args.value),
            args.yes,
            &mut context.console,
        )?;
    }
    patch_domain(&name, patch, &args.change, context).await
}
