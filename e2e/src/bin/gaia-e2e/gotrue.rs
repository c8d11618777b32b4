//! `gaia-e2e gotrue`: the login server as a program, for demos and for clients that are not written in Rust.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions, Signing};
use serde_json::json;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Listening address; port 0: any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// Prefix of its paths.
    #[arg(long, default_value = "/auth/v1")]
    prefix: String,
    /// Sign with a secret: no key is published, tokens are verified by a request.
    #[arg(long)]
    hs256: bool,
    /// A user who can sign in; may be given several times.
    #[arg(long = "user", value_name = "EMAIL:PASSWORD")]
    users: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let signing = if arguments.hs256 { Signing::Hs256 } else { Signing::Es256 };
    let Arguments { address, prefix, users, .. } = arguments;
    let gotrue = GoTrue::start(GoTrueOptions { address, prefix, signing, ..GoTrueOptions::default() }).await?;
    for user in users {
        let (email, password) = user.split_once(':').context("--user must be EMAIL:PASSWORD")?;
        gotrue.add_user(email, password)?;
    }
    print(&gotrue);
    gotrue.serve().await;
    Ok(ExitCode::FAILURE)
}

/// One line of JSON, with the values of a project's settings page.
#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print(gotrue: &GoTrue) {
    let shown = json!({
        "url": gotrue.base_url(),
        "jwksUrl": gotrue.jwks_url(),
        "anonKey": gotrue.anon_key(),
        "serviceRoleKey": gotrue.service_role_key(),
    });
    println!("{shown}");
}
