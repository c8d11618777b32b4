//! Twenty users, each from an address of its own, on the routes of the platform. Half of them open a connection for each request, the
//! others keep theirs.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::platform::{API_KEY, Shop};

/// The work of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Stores, reads and lists files through gateway, with a token of the login server: exchange and forwarded calls.
    Files,
    /// Chats through gateway.
    Chat,
    /// Pages of web-service, which calls the services directly.
    Pages,
    /// Refreshes its session through gateway.
    Refresh,
    /// Signs in through gateway.
    SignIn,
    /// Calls a service directly, with an API key over plain HTTP.
    Key,
}

/// In the order of the users.
const WORK: [Work; 10] = [
    Work::Files,
    Work::Chat,
    Work::Pages,
    Work::Refresh,
    Work::Key,
    Work::Files,
    Work::Pages,
    Work::Refresh,
    Work::SignIn,
    Work::Key,
];

/// Users between two attacks.
pub(crate) struct Users(Vec<User>);

/// Users at work.
pub(crate) struct Working {
    spared: &'static [Work],
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(User, Tally)>,
}

/// The results of the users.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) served: usize,
    pub(crate) failed: BTreeMap<String, usize>,
    pub(crate) slowest: Duration,
    /// The fewest requests of one user.
    pub(crate) fewest: usize,
}

struct User {
    number: u8,
    work: Work,
    client: Client<HttpConnector, Body>,
    addresses: Addresses,
    /// Token of a user of [`Work::Files`] and [`Work::Chat`].
    token: String,
    refresh_token: String,
    cookies: BTreeMap<String, String>,
    step: usize,
    signed_in: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Addresses {
    gateway: SocketAddr,
    web: SocketAddr,
    keys: [SocketAddr; 3],
}

impl Users {
    /// Signs in those who need it.
    pub(crate) async fn enter(shop: &Shop) -> Self {
        let keys = ["auth-service", "asset-service", "chat-service"].map(|name| shop.mesh(name));
        let addresses = Addresses { gateway: shop.edge("gateway"), web: shop.edge("web-service"), keys };
        let mut users = Vec::new();
        for number in 1..=USERS {
            let work = WORK[usize::from(number - 1) % WORK.len()];
            let mut connector = HttpConnector::new();
            connector.set_local_address(Some(Ipv4Addr::new(127, 0, 2, number).into()));
            let keeps = number % 2 == 0;
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(20))
                .pool_max_idle_per_host(usize::from(keeps))
                .build(connector);
            let (token, email) = (shop.token(number.into()), email(number));
            shop.login.add_user(&email, PASSWORD).unwrap();
            let (refresh_token, cookies) = (String::new(), BTreeMap::new());
            let mut user =
                User { number, work, client, addresses, token, refresh_token, cookies, step: 0, signed_in: None };
            match work {
                Work::Pages => user.enter_pages().await.unwrap(),
                Work::Refresh => user.sign_in().await.unwrap(),
                _ => {}
            }
            users.push(user);
        }
        Self(users)
    }

    /// Starts all but those whose work is spared.
    pub(crate) fn start(&mut self, spared: &'static [Work]) -> Working {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for mut user in std::mem::take(&mut self.0) {
            let stop = Arc::clone(&stop);
            tasks.spawn(async move {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    if !spared.contains(&user.work) {
                        user.work_once(&mut tally).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                (user, tally)
            });
        }
        Working { spared, stop, tasks }
    }
}

impl Working {
    /// Stops the users.
    pub(crate) async fn stop(self) -> (Users, Tally) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut users, mut all) = (Vec::new(), Tally { fewest: usize::MAX, ..Tally::default() });
        for (user, tally) in self.tasks.join_all().await {
            all.served += tally.served;
            all.slowest = all.slowest.max(tally.slowest);
            if user.work != Work::SignIn && !self.spared.contains(&user.work) {
                all.fewest = all.fewest.min(tally.served);
            }
            users.push(user);
            for (error, count) in tally.failed {
                *all.failed.entry(error).or_default() += count;
            }
        }
        users.sort_by_key(|user| user.number);
        (Users(users), all)
    }
}

impl User {
    async fn work_once(&mut self, tally: &mut Tally) {
        let began = Instant::now();
        self.step += 1;
        let done = match self.work {
            Work::Files => self.files().await,
            Work::Chat => self.chat().await,
            Work::Pages => self.pages().await,
            Work::Refresh => self.refresh().await,
            // An address may sign in to an account every six seconds.
            Work::SignIn if self.signed_in.is_none_or(|at| at.elapsed() > Duration::from_secs(7)) => {
                self.signed_in = Some(began);
                self.sign_in().await
            }
            Work::SignIn => return,
            Work::Key => self.call_with_key().await,
        };
        tally.slowest = tally.slowest.max(began.elapsed());
        match done {
            Ok(()) => tally.served += 1,
            Err(error) => *tally.failed.entry(format!("{:?}: {error}", self.work)).or_default() += 1,
        }
    }

    async fn files(&mut self) -> Result<(), String> {
        let (file, content) = (format!("/assets/user-{}.txt", self.number), "remember ".repeat(200));
        let (request, status) = match self.step % 3 {
            1 => (self.to_gateway("PUT", &file).body(content.clone().into()), STORED),
            2 => (self.to_gateway("GET", &file).body(Body::empty()), OK),
            _ => (self.to_gateway("GET", "/assets").body(Body::empty()), OK),
        };
        let (_, body) = self.send(request, status).await?;
        if self.step % 3 == 2 && body != content { Err("another content".to_owned()) } else { Ok(()) }
    }

    async fn chat(&mut self) -> Result<(), String> {
        let body = json!({ "messages": [{ "role": "user", "content": "tell me" }] }).to_string();
        let request = self.to_gateway("POST", "/chat").header("content-type", "application/json").body(body.into());
        let (_, answer) = self.send(request, OK).await?;
        if answer.contains("event: done") { Ok(()) } else { Err(format!("an incomplete answer: {answer}")) }
    }

    async fn pages(&mut self) -> Result<(), String> {
        let (method, path, body, status) = match self.step % 3 {
            1 => ("PUT", "/files/page.txt", "remember", STORED),
            2 => ("GET", "/files/page.txt", "", OK),
            _ => ("GET", "/files", "", OK),
        };
        let request = self.to_web(method, path).body(body.into());
        self.send(request, status).await.map(drop)
    }

    async fn refresh(&mut self) -> Result<(), String> {
        let body = json!({ "refresh_token": self.refresh_token }).to_string();
        self.session("/auth/refresh", body).await
    }

    async fn sign_in(&mut self) -> Result<(), String> {
        self.session("/auth/login", json!({ "email": email(self.number), "password": PASSWORD }).to_string()).await
    }

    async fn session(&mut self, path: &str, body: String) -> Result<(), String> {
        let request = Request::post(format!("http://{}{path}", self.addresses.gateway));
        let request = request.header("content-type", "application/json").body(body.into());
        let (_, session) = self.send(request, OK).await?;
        let session: Value = serde_json::from_str(&session).map_err(|error| error.to_string())?;
        session["refresh_token"].as_str().ok_or("no refresh token")?.clone_into(&mut self.refresh_token);
        Ok(())
    }

    async fn call_with_key(&mut self) -> Result<(), String> {
        let place = self.step % 3;
        let path = if place == 1 { "/assets" } else { "/health" };
        let request = Request::get(format!("http://{}{path}", self.addresses.keys[place])).header("x-api-key", API_KEY);
        let (_, body) = self.send(request.body(Body::empty()), OK).await?;
        // Only an accepted key sees the dates of certificates.
        if place == 1 || body.contains("certificates") { Ok(()) } else { Err(format!("the key had no effect: {body}")) }
    }

    async fn enter_pages(&mut self) -> Result<(), String> {
        let email = email(self.number).replace('@', "%40");
        let form = format!("email={email}&password={}&next=%2Ffiles", PASSWORD.replace(' ', "+"));
        let request = self.to_web("POST", "/sign-in").header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(form.into()), &[StatusCode::SEE_OTHER]).await.map(drop)
    }

    fn to_gateway(&self, method: &str, path: &str) -> http::request::Builder {
        let url = format!("http://{}{path}", self.addresses.gateway);
        Request::builder().method(method).uri(url).header("authorization", format!("Bearer {}", self.token))
    }

    fn to_web(&self, method: &str, path: &str) -> http::request::Builder {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addresses.web))
            .header("accept", "text/html")
            .header("origin", format!("http://{}", self.addresses.web))
            .header("cookie", cookies.join("; "))
    }

    async fn send(
        &mut self,
        request: http::Result<Request<Body>>,
        wanted: &[StatusCode],
    ) -> Result<(StatusCode, String), String> {
        let request = request.map_err(|error| error.to_string())?;
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let cookies: Vec<String> = answer
                .headers()
                .get_all("set-cookie")
                .iter()
                .filter_map(|value| value.to_str().ok()?.split(';').next().map(str::to_owned))
                .collect();
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| format!("the body: {error:?}"))?;
            Ok::<_, String>((status, String::from_utf8_lossy(&body.to_bytes()).into_owned(), cookies))
        };
        let (status, body, cookies) = timeout(PATIENCE, asking).await.map_err(|_| "no answer".to_owned())??;
        self.cookies.extend(cookies.iter().filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        }));
        if wanted.contains(&status) { Ok((status, body)) } else { Err(format!("{status}: {body}")) }
    }
}

fn email(number: u8) -> String {
    format!("user-{number}@example.com")
}

/// A connection from this address.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// One request of a probe.
pub(crate) fn get_blocking(to: SocketAddr, path: &str) -> io::Result<()> {
    let mut tcp = std::net::TcpStream::connect_timeout(&to, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(answer)) }
}

const OK: &[StatusCode] = &[StatusCode::OK];
const STORED: &[StatusCode] = &[StatusCode::CREATED, StatusCode::NO_CONTENT];
pub(crate) const USERS: u8 = 20;
pub(crate) const PASSWORD: &str = "correct horse battery";
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of a user.
const PAUSE: Duration = Duration::from_millis(50);
