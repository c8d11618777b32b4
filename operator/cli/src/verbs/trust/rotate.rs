//! `gaia rotate`.

use clap::{Args, ValueEnum};
use gaia_api::names::annotation;
use serde_json::json;

use super::{ChangeArgs, generations, patch_domain, trust_domain};
use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The ring.
    ring: Ring,
    /// The TrustDomain; without it the only one.
    trust_domain: Option<String>,
    /// Abort the rotation to this generation: the one before it signs again.
    #[arg(long, value_name = "GENERATION", conflicts_with = "advance_without")]
    abort: Option<String>,
    /// Let the rotation to this generation continue without the instances that lag.
    #[arg(long, value_name = "GENERATION")]
    advance_without: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ring {
    /// The certificate authority.
    Ca,
    /// The key that signs tokens.
    SigningKey,
}

/// Starts a rotation, aborts it, or lets it continue.
pub(crate) async fn run(args: &RotateArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (name, domain) = trust_domain(&super::source(context)?, args.trust_domain.as_deref()).await?;
    let status = domain.status.as_ref();
    let ring = match args.ring {
        Ring::Ca => status.and_then(|status| status.ca.as_ref()),
        Ring::SigningKey => status.and_then(|status| status.signing_keys.as_ref()),
    };
    let named = [(annotation::ABORT, &args.abort), (annotation::ADVANCE_WITHOUT, &args.advance_without)];
    for (annotation, generation) in named {
        let Some(generation) = generation else { continue };
        if !generations(ring).iter().any(|known| known.id == *generation) {
            return Err(Failure::usage(format!("TrustDomain {name} has no generation {generation} of that ring"))
                .next("gaia status lists the generations"));
        }
        let patch = json!({ "metadata": { "annotations": { annotation: generation } } });
        return patch_domain(&name, patch, &args.change, context).await;
    }
    let patch = match args.ring {
        Ring::Ca => json!({ "spec": { "ca": { "rotationRevision": domain.spec.ca.rotation_revision + 1 } } }),
        Ring::SigningKey => {
            json!({ "spec": { "tokens": { "rotationRevision": domain.spec.tokens.rotation_revision + 1 } } })
        }
    };
    patch_domain(&name, patch, &args.change, context).await
}
