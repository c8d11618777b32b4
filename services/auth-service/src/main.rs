//! Entry point of auth-service.

use std::process::ExitCode;
use std::thread::available_parallelism;

use gaia_auth_service::AuthService;
use tokio::runtime::Builder;

#[expect(clippy::print_stderr, reason = "logging is not set up yet")]
fn main() -> ExitCode {
    // Signing has a thread on each processor and takes ten times as long as the rest of a request. More threads for
    // serving would only cause context switches.
    let serving = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    match Builder::new_multi_thread().worker_threads(serving).enable_all().build() {
        Ok(runtime) => runtime.block_on(gaia_runtime::main(AuthService::start, AuthService::serve)),
        Err(error) => {
            eprintln!("error: failed to start threads: {error}");
            ExitCode::FAILURE
        }
    }
}
