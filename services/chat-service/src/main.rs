//! Entry point of chat-service.

use std::process::ExitCode;

use gaia_chat_service::ChatService;

#[tokio::main]
async fn main() -> ExitCode {
    gaia_runtime::main(ChatService::start, ChatService::serve).await
}
