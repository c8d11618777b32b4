//! Verbs that change trust: `renew`, `rotate`, `distrust` and `revoke`.

mod ask;
pub(crate) mod distrust;
pub(crate) mod renew;
pub(crate) mod revoke;
pub(crate) mod rotate;

use clap::Args;
use gaia_api::crd::{GenerationStatus, RingStatus, TrustDomain};
use gaia_operator::directory::RequestAction;
use serde_json::Value;

use crate::cli::Context;
use crate::local::change::change;
use crate::source::{Directory, Source};
use crate::{Exit, Failure};

/// Options of verbs that change an object.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Print the merge patch, and change nothing.
    #[arg(long)]
    print_patch: bool,
}

/// A merge patch of an object.
fn patch(kind: &str, namespace: &str, name: &str, patch: Value) -> RequestAction {
    RequestAction::Patch { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned(), patch }
}

/// The directory as a source; default: `certs`.
fn source(context: &Context) -> Result<Source, Failure> {
    Ok(Source::Directory(Directory::open(&context.dir())?))
}

/// The TrustDomain with that name, or the only one.
async fn trust_domain(source: &Source, name: Option<&str>) -> Result<(String, TrustDomain), Failure> {
    let mut domains = source.list::<TrustDomain>().await?.objects;
    domains.retain(|domain| name.is_none_or(|name| domain.metadata.name.as_deref() == Some(name)));
    match (domains.pop(), domains.is_empty()) {
        (Some(domain), true) => Ok((domain.metadata.name.clone().unwrap_or_default(), domain)),
        (Some(_), false) => Err(Failure::usage("there are several TrustDomains").next("name one")),
        (None, _) => {
            Err(Failure::usage(format!("{}: there is no such TrustDomain", source.name()))
                .next("gaia status lists all"))
        }
    }
}

/// All generations of a ring.
fn generations(ring: Option<&RingStatus>) -> Vec<&GenerationStatus> {
    fn all(ring: &RingStatus) -> impl Iterator<Item = &GenerationStatus> {
        let RingStatus { active, next, retiring, distrusted } = ring;
        active.iter().chain(next).chain(retiring).chain(distrusted)
    }
    ring.into_iter().flat_map(all).collect()
}

/// Patches the TrustDomain, or prints the patch.
async fn patch_domain(name: &str, patch: Value, args: &ChangeArgs, context: &mut Context) -> Result<Exit, Failure> {
    if args.print_patch {
        context.console.print(&format!("{patch}\n"))?;
        return Ok(Exit::Done);
    }
    let action = self::patch("TrustDomain", "", name, patch);
    change(&context.dir(), vec![action], context).await?;
    context.console.progress(&format!("TrustDomain {name}: accepted; `gaia status` shows the progress"));
    Ok(Exit::Done)
}
