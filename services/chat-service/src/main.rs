//! Entry point of chat-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    gaia_chat_service::main()
}
