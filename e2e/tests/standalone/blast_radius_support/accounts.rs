//! Attacks on the routes of the platform: by clients without an account, by accounts of their own, and by a service. Some of them
//! happen while another server does not read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gaia_stand_ins::gotrue::Behaviour;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::attacks::{Fault, PATIENCE, Running, Source, until_closed};
use super::users::{self, USERS, Work};

impl Source {
    /// A source that sends requests needs few connections.
    fn busy(self) -> Self {
        Self { connections: self.connections.div_ceil(40), ..self }
    }

    fn gateway(&self) -> Vec<SocketAddr> {
        vec![self.shop.edge("gateway")]
    }

    /// The number of an account that no user has.
    fn account(&self) -> u64 {
        1000 + u64::from(self.address.octets()[3])
    }
}

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// Sends requests one after another, each when the one before was answered.
async fn repeat(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut request: impl FnMut() -> Vec<u8>) {
    let mut read = [0; 4096];
    loop {
        if stream.write_all(&request()).await.is_err() {
            return;
        }
        match timeout(LONG, stream.read(&mut read)).await {
            Ok(Ok(1..)) => sleep(Duration::from_millis(5)).await,
            _ => return,
        }
    }
}

/// A number that no other request of an attack has.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An account of a user, or one that does not exist.
fn guessed() -> String {
    let number = next();
    if number.is_multiple_of(2) {
        format!("user-{}@example.com", number / 2 % u64::from(USERS) + 1)
    } else {
        format!("{number}@example.com")
    }
}

/// Wrong passwords of users' accounts and of others.
pub(crate) fn wrong_sign_ins(source: Source) -> Running {
    let to = source.gateway();
    source.busy().hold(to, |tcp, _| {
        repeat(tcp, || {
            let body = json!({ "email": guessed(), "password": "a guess" }).to_string();
            post("/auth/login", "content-type: application/json\r\n", &body)
        })
    })
}

/// The same on the pages.
pub(crate) fn wrong_sign_ins_on_pages(source: Source) -> Running {
    let to = source.shop.edge("web-service");
    source.busy().hold(vec![to], |tcp, source| {
        let fields = format!(
            "content-type: application/x-www-form-urlencoded\r\norigin: http://{}\r\n",
            source.shop.edge("web-service")
        );
        repeat(tcp, move || {
            let body = format!("email={}&password=guess&next=%2F", guessed().replace('@', "%40"));
            post("/sign-in", &fields, &body)
        })
    })
}

/// Refresh tokens that were never issued.
pub(crate) fn wrong_refreshes(source: Source) -> Running {
    let to = source.gateway();
    source.busy().hold(to, |tcp, _| {
        repeat(tcp, || {
            let body = json!({ "refresh_token": format!("made-up-{}", next()) }).to_string();
            post("/auth/refresh", "content-type: application/json\r\n", &body)
        })
    })
}

/// Tokens that have just expired, forged ones, and tokens with a key that no issuer has.
pub(crate) fn bad_tokens(source: Source) -> Running {
    let to = source.gateway();
    source.busy().hold(to, |tcp, source| {
        let expired = source.shop.expired_token(source.account());
        repeat(tcp, move || {
            let number = next();
            match number % 3 {
                0 => get("/assets", &expired),
                1 => get("/assets", &format!("{}{number:08}", &expired[..expired.len() - 8])),
                _ => get("/assets", &format!("{expired}.{number}")),
            }
        })
    })
}

/// Each request with another valid token of one account.
pub(crate) fn many_tokens_of_one_account(source: Source) -> Running {
    let to = source.gateway();
    source.busy().hold(to, |tcp, source| {
        let account = source.account();
        repeat(tcp, move || get("/assets", &source.shop.token(account)))
    })
}

/// Tokens that only a server could verify that reads nothing.
pub(crate) fn tokens_of_mute_issuer(source: Source) -> Running {
    let to = source.gateway();
    source.busy().hold(to, |tcp, source| repeat(tcp, move || get("/assets", &source.shop.token_of_mute_issuer(next()))))
}

/// Uploads that stop after 64 KiB.
pub(crate) fn stalled_uploads(source: Source) -> Running {
    let to = source.gateway();
    source.hold(to, |mut tcp, source| async move {
        let token = source.shop.token(source.account());
        let head = format!(
            "PUT /assets/file-{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\n",
            next()
        );
        let _ = tcp.write_all(head.as_bytes()).await;
        let _ = timeout(LONG, tcp.write_all(&[b'x'; 64 * 1024])).await;
        until_closed(tcp).await;
    })
}

/// Downloads of a file of 4 MiB that are not read.
pub(crate) fn unread_downloads(source: Source) -> Running {
    Box::pin(async move {
        let token = source.shop.token(source.account());
        if let Ok(mut tcp) = users::connect(source.address, source.shop.edge("gateway")).await {
            let head = format!(
                "PUT /assets/large HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {LARGE}\r\n\r\n",
            );
            let _ = tcp.write_all(head.as_bytes()).await;
            let _ = timeout(LONG, tcp.write_all(&vec![b'x'; LARGE])).await;
            let _ = timeout(LONG, until_closed(tcp)).await;
        }
        let to = source.gateway();
        source
            .hold(to, |mut tcp, source| async move {
                let _ = tcp.write_all(&get("/assets/large", &source.shop.token(source.account()))).await;
                // The connection stays open, and nothing is read.
                sleep(Duration::from_secs(60)).await;
            })
            .await;
    })
}

async fn chat(mut tcp: TcpStream, source: Source, content: &str) {
    let body = json!({ "messages": [{ "role": "user", "content": content }] }).to_string();
    let token = source.shop.token(source.account());
    let fields = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let _ = timeout(LONG, tcp.write_all(&post("/chat", &fields, &body))).await;
    until_closed(tcp).await;
}

/// Chats whose answers stop in the middle.
pub(crate) fn stalled_chats(source: Source) -> Running {
    let to = source.gateway();
    source.hold(to, |tcp, source| async move { chat(tcp, source, "!stall").await })
}

/// Chats that the provider does not answer.
pub(crate) fn unanswered_chats(source: Source) -> Running {
    let to = source.gateway();
    source.hold(to, |tcp, source| async move { chat(tcp, source, "!late 60").await })
}

/// Chats of 60 KiB.
pub(crate) fn large_chats(source: Source) -> Running {
    let to = source.gateway();
    source.hold(to, |tcp, source| async move { chat(tcp, source, &"x".repeat(60_000)).await })
}

/// Requests for tokens, and exchanges, by a service of the platform that may call no other.
pub(crate) fn requests_of_a_service(source: Source) -> Running {
    let to = vec![source.shop.mesh("auth-service")];
    source.busy().hold(to, |tcp, source| async move {
        let leaf = source.shop.platform.leaf("stranger");
        let config = Arc::new(source.shop.platform.client_config(Some(&leaf)));
        let Ok(name) = ServerName::try_from("127.0.0.1") else { return };
        let Ok(Ok(tls)) = timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp)).await else { return };
        let expired = source.shop.expired_token(source.account());
        repeat(tls, move || {
            if next().is_multiple_of(2) {
                let body = json!({ "service_name": "stranger", "target_service": "asset-service" }).to_string();
                return post("/internal/service-token", "content-type: application/json\r\n", &body);
            }
            let body = format!(
                "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={expired}\
                 &subject_token_type=urn:ietf:params:oauth:token-type:jwt&audience=asset-service"
            );
            post("/internal/token-exchange", "content-type: application/x-www-form-urlencoded\r\n", &body)
        })
        .await;
    })
}

/// The login server does not answer sign-ins.
pub(crate) static SILENT_LOGIN: Fault = Fault {
    begin: |shop| shop.login.behave(PASSWORDS, Behaviour::Hang),
    end: |shop| shop.login.behave(PASSWORDS, Behaviour::Normal),
    spared: &[Work::SignIn],
    paused: None,
};

/// The process of chat-service does not run.
pub(crate) static PAUSED_CHAT: Fault = Fault {
    begin: |shop| shop.member("chat-service").service.pause().unwrap(),
    end: |shop| shop.member("chat-service").service.resume().unwrap(),
    spared: &[Work::Chat, Work::Key],
    paused: Some("chat-service"),
};

/// The process of asset-service does not run.
pub(crate) static PAUSED_ASSETS: Fault = Fault {
    begin: |shop| shop.member("asset-service").service.pause().unwrap(),
    end: |shop| shop.member("asset-service").service.resume().unwrap(),
    spared: &[Work::Files, Work::Pages, Work::Key],
    paused: Some("asset-service"),
};

/// The process of auth-service does not run.
pub(crate) static PAUSED_AUTH: Fault = Fault {
    begin: |shop| shop.member("auth-service").service.pause().unwrap(),
    end: |shop| shop.member("auth-service").service.resume().unwrap(),
    spared: &[Work::Refresh, Work::SignIn, Work::Key],
    paused: Some("auth-service"),
};

const PASSWORDS: &str = "/token?grant_type=password";
const LARGE: usize = 4 << 20;
/// An attacker waits longer than a user.
const LONG: Duration = Duration::from_secs(30);
