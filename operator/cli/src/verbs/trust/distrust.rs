//! `gaia distrust`.

use clap::{Args, ValueEnum};
use gaia_api::crd::{DistrustMode, DistrustedCa, DistrustedKey};
use serde_json::json;

use super::ask::confirm;
use super::{ChangeArgs, generations, patch_domain, trust_domain};
use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia distrust`.
#[derive(Debug, Args)]
pub(crate) struct DistrustArgs {
    /// What has leaked.
    what: Leaked,
    /// The id of its generation, or its fingerprint or kid in full.
    id: String,
    /// The TrustDomain; without it the only one.
    trust_domain: Option<String>,
    /// Remove it from the bundles now. Without this, a replacement is in use first, for at most five minutes.
    #[arg(long)]
    immediate: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leaked {
    /// A certificate authority.
    Ca,
    /// A key that signs tokens.
    Kid,
}

/// Ends the trust in a CA or signing key. It cannot be undone.
pub(crate) async fn run(args: &DistrustArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (name, domain) = trust_domain(&super::source(context)?, args.trust_domain.as_deref()).await?;
    let status = domain.status.as_ref();
    let mode = if args.immediate { DistrustMode::Immediate } else { DistrustMode::AfterReissue };
    let (ring, what) = match args.what {
        Leaked::Ca => (status.and_then(|status| status.ca.as_ref()), "CA"),
        Leaked::Kid => (status.and_then(|status| status.signing_keys.as_ref()), "signing key"),
    };
    let unknown = || {
        Failure::usage(format!("TrustDomain {name} has no {what} {}", args.id))
            .next("gaia status lists the generations")
    };
    let is_it = |text: &Option<String>| text.as_deref() == Some(args.id.as_str());
    let all = generations(ring);
    let found =
        all.iter().find(|it| it.id == args.id || is_it(&it.fingerprint) || is_it(&it.kid)).ok_or_else(unknown)?;
    let patch = match args.what {
        Leaked::Ca => {
            let fingerprint = found.fingerprint.clone().ok_or_else(unknown)?;
            let mut list = domain.spec.ca.distrusted.clone();
            list.retain(|known| known.fingerprint != fingerprint);
            list.push(DistrustedCa { fingerprint, mode });
            json!({ "spec": { "ca": { "distrusted": list } } })
        }
        Leaked::Kid => {
            let kid = found.kid.clone().ok_or_else(unknown)?;
            let mut list = domain.spec.tokens.distrusted.clone();
            list.retain(|known| known.kid != kid);
            list.push(DistrustedKey { kid, mode });
            json!({ "spec": { "tokens": { "distrusted": list } } })
        }
    };
    if !args.change.print_patch {
        let question = format!("this ends the trust in {what} {} of TrustDomain {name}; it cannot be undone", found.id);
        confirm(&question, args.yes, &mut context.console)?;
    }
    patch_domain(&name, patch, &args.change, context).await
}
