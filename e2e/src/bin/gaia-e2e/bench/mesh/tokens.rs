//! Service tokens of auth-service, against bare RSA signatures with the same key: signatures per second of processor time.
//!
//! Processor time of the service as a whole and of the signing thread is measured; the clients' is not.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use futures::future::try_join_all;
use gaia_api::names::key;
use gaia_e2e::{Standalone, progress};
use gaia_runtime::testing::{Platform, grants};
use gaia_runtime::{MeshClient, TokenRequest};
use http::Uri;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::cpu::processor_seconds;
use super::super::report::{Bound, Report};
use super::super::tally::number;
use super::server::SERVICE;

pub(super) async fn measure(rounds: usize, platform: &Platform, dir: &Path, report: &mut Report) -> Result<()> {
    // Each has its own limit, and stays within its burst.
    let names: Vec<Vec<String>> =
        (0..rounds).map(|round| (0..CALLERS).map(|caller| format!("caller-{round}-{caller}")).collect()).collect();
    let pairs: Vec<_> = names.iter().flatten().map(|name| (name.as_str(), SERVICE, &["orders:read"][..])).collect();
    let services: Vec<_> = names.iter().flatten().map(String::as_str).chain([SERVICE, "auth-service"]).collect();
    let mut files = platform.mount("auth-service");
    files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
    files.insert(key::GRANTS, grants(&services, &pairs));
    let auth = Standalone::start("auth-service", &dir.join("tokens"), &files, &[]).await?;
    let url: Uri = format!("https://{}", auth.mesh).parse()?;
    let (mut without, mut with) = (vec![], vec![]);
    for (round, names) in names.iter().enumerate() {
        progress::say(format_args!("round {} of {rounds}: service tokens", round + 1));
        let clients = clients(platform, &url, names).await?;
        let [mut bare, mut service] = [0.0; 2];
        for _ in 0..TURNS {
            bare += signatures(platform).await?;
            service += tokens(&auth, &url, &clients).await?;
        }
        ensure!(service > 0.0, "auth-service did nothing");
        without.push(number(SIGNATURES * available_parallelism()?.get() * TURNS) / bare);
        with.push(number(CALLERS * TOKENS * TURNS) / service);
    }
    let ratio: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    report.section(format!("service tokens (RS256) over mTLS, {} a round, audit on", CALLERS * TOKENS * TURNS));
    report.figure("bare RSA signatures a second of a processor", "/s", &without);
    report.figure("service tokens a second of auth-service's processor time", "/s", &with);
    report.bounded("service tokens against bare signatures", "", &ratio, Bound::AtLeast(0.85));
    Ok(())
}

/// Connected callers: a connection is used for many tokens, and its handshake is measured elsewhere.
async fn clients<'a>(platform: &Platform, url: &Uri, names: &'a [String]) -> Result<Vec<(MeshClient, &'a str)>> {
    let client = |name: &'a String| (platform.client(Some(&platform.leaf(name))), name.as_str());
    let clients: Vec<_> = names.iter().map(client).collect();
    try_join_all(clients.iter().map(|(client, name)| ask(client, url, name, 1))).await?;
    Ok(clients)
}

async fn ask(client: &MeshClient, url: &Uri, name: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        let wanted = TokenRequest { service_name: name, target_service: Some(SERVICE), scope: None, expires_in: None };
        client.service_token(url, &wanted).await?;
    }
    Ok(())
}

/// The processor time of auth-service for a turn, in seconds.
async fn tokens(auth: &Standalone, url: &Uri, clients: &[(MeshClient, &str)]) -> Result<f64> {
    let before = processor_seconds(auth.pid())?;
    try_join_all(clients.iter().map(|(client, name)| ask(client, url, name, TOKENS))).await?;
    Ok(processor_seconds(auth.pid())? - before)
}

/// This process's own processor time for a turn, in seconds: nothing else of it runs in it. On every processor at once,
/// as while tokens are issued: two threads that share a core are slower than one alone, and it is not known whether
/// these processors do.
async fn signatures(platform: &Platform) -> Result<f64> {
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(platform.signing_key().as_bytes())?;
    let pair = RsaKeyPair::from_pkcs8(pkcs8.secret_pkcs8_der()).context("the platform's signing key is RSA")?;
    let (pair, own) = (Arc::new(pair), std::process::id());
    let before = processor_seconds(own)?;
    let signers = (0..available_parallelism()?.get()).map(|_| {
        let pair = Arc::clone(&pair);
        tokio::task::spawn_blocking(move || {
            let (random, mut signature) = (SystemRandom::new(), vec![0; pair.public_modulus_len()]);
            (0..SIGNATURES).try_for_each(|number| {
                pair.sign(&RSA_PKCS1_SHA256, &random, format!("{number:0400}").as_bytes(), &mut signature)
            })
        })
    });
    let signers: Vec<_> = signers.collect();
    for signed in try_join_all(signers).await? {
        signed.context("signing")?;
    }
    Ok(processor_seconds(own)? - before)
}

const CALLERS: usize = 60;
/// Tokens in a turn. With the turn before they are half the burst of a caller: two callers may share a cell of the limits.
const TOKENS: usize = 49 / TURNS;
/// Signatures of a processor, in a turn.
const SIGNATURES: usize = 300;
/// As in the other parts, but longer: processor time is counted in hundredths of a second.
const TURNS: usize = 7;
