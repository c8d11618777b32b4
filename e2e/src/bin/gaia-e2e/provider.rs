//! `gaia-e2e provider`.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use gaia_api::Span;
use gaia_e2e::progress;
use gaia_stand_ins::provider::{self, Provider, ProviderOptions};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Listening address; port 0 for any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// The accepted key; it protects nothing.
    #[arg(long, default_value = provider::KEY)]
    key: String,
    /// Delay before each word of a stream.
    #[arg(long, default_value = "0s", value_parser = Span::parse)]
    pause: Span,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { address, key, pause } = arguments;
    let provider = Provider::start(ProviderOptions { address, key, pause: pause.value() }).await?;
    say(&provider.url());
    progress::say("runs until it is stopped; a message `!stall`, `!cut`, `!429 7` … makes it misbehave");
    provider.run().await
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn say(url: &str) {
    println!("{url}");
}
