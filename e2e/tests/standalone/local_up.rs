//! `gaia local up` as a user without rights: the whole platform from one executable, to the first answer of the chat.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use gaia_e2e::{Curl, http, process, programs, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A directory of an unprivileged user, with the executables in it: that user may not read the target directory.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["gaia", "gaia-stand-ins"] {
            let (from, to) = (programs::locate(name).unwrap(), dir.path().join(name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).unwrap();
            }
        }
        if is_root() {
            chown(dir.path(), Some(USER), Some(USER)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn up(&self, offset: u16, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.args(["local", "up", "-o", "json", "--port-offset", &offset.to_string()]).args(arguments);
        command
    }

    /// The executable, run in this directory by its user.
    fn program(&self) -> Command {
        let mut command = Command::new(self.path("gaia"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if is_root() {
            command.uid(USER).gid(USER);
        }
        command
    }
}

/// The running platform. Dropping it ends it.
struct Up {
    child: Child,
    home: Home,
    offset: u16,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Up {
    /// Starts it on ports that are free.
    async fn start() -> (Self, Value) {
        let home = Home::new();
        // Each test has ports of its own; others on this machine may have some of them.
        static STARTS: AtomicU16 = AtomicU16::new(0);
        for _ in 0..5 {
            let first = u16::try_from(std::process::id() % 30_000).unwrap();
            let offset = 10_000 + first + 20 * STARTS.fetch_add(1, Ordering::Relaxed);
            let (out, log) = (home.path("screen.json"), home.path("log"));
            let mut command = home.up(offset, &[]);
            command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&log).unwrap());
            let mut child = process::spawn(command).unwrap();
            let shown = wait::until("the addresses are shown or it ended", SOON, async || {
                let screen = fs::read_to_string(&out).ok().and_then(|text| serde_json::from_str(&text).ok());
                screen.map(Some).or_else(|| child.try_wait().unwrap().map(|_| None))
            });
            match shown.await {
                Ok(Some(screen)) => return (Self { child, home, offset }, screen),
                _ => {
                    let log = fs::read_to_string(&log).unwrap();
                    assert!(log.contains("it is in use"), "{log}");
                }
            }
        }
        panic!("no offset has free ports");
    }

    fn port(&self, base: u16) -> u16 {
        base + self.offset
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path("log")).unwrap()
    }

    async fn end(mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = wait::until("it has ended", SOON, async || self.child.try_wait().unwrap()).await;
        let status = status.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
        status.code()
    }
}

#[tokio::test]
async fn one_command_runs_the_platform_as_an_ordinary_user_up_to_the_first_answer() {
    let start = Instant::now();
    let (up, screen) = Up::start().await;
    let certs = up.home.path("certs");
    // Mutual TLS with the leaf of gateway, verified by curl.
    let url = format!("https://localhost:{}/assets", up.port(8444));
    let answer = Curl::to(&url, &certs.join("gateway")).as_peer(&certs.join("gateway")).send().await.unwrap();
    assert_eq!(answer.status, 401, "a certificate alone is no credential");
    println!("from the start to the first call over mutual TLS: {:.2} s", start.elapsed().as_secs_f64());

    let account = &screen["account"];
    let gateway = screen["gateway"].as_str().unwrap();
    let session = Curl::plain(&format!("{gateway}/auth/login")).json(&account.to_string()).send().await.unwrap();
    let session: Value = serde_json::from_str(&session.expect(200).unwrap()).unwrap();
    let token = session["access_token"].as_str().unwrap();
    let question = json!({ "messages": [{ "role": "user", "content": "Who are you?" }] }).to_string();
    let asked = Curl::plain(&format!("{gateway}/chat")).bearer(token).json(&question).send().await.unwrap();
    let said = asked.expect(200).unwrap();
    assert!(said.contains("Who") && said.contains("event: done"), "{said}");
    the_web_page_answers(screen["web"].as_str().unwrap(), account).await;
    successors_of_old_commands_run(&up).await;

    let names: Vec<&str> = screen["services"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["auth-service", "asset-service", "chat-service", "gateway", "web-service"]);
    let log = up.log();
    assert!(log.lines().any(|line| line.starts_with("gateway        | ")), "a prefix per service:\n{log}");
    assert!(log.lines().any(|line| line.contains("stand-in, for development only: login server")), "{log}");
    for secret in
        [up.home.path("gaia-data/web-service/session-keys"), up.home.path("gaia-data/chat-service/provider-key")]
    {
        let secret = fs::read_to_string(secret).unwrap();
        assert!(!log.contains(secret.trim()) && !log.contains("PRIVATE KEY"), "a key is in the log:\n{log}");
    }
    let ports: Vec<u16> = [8443, 8446, 8666, 8080, 9443, 9999, 9998].map(|base| up.port(base)).into();
    assert_eq!(up.end().await, Some(0));
    for port in ports {
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
    }
}

/// Signs in at the page and sends a message, as a browser without scripts does.
async fn the_web_page_answers(web: &str, account: &Value) {
    let field = |name: &str| account[name].as_str().unwrap().replace('@', "%40");
    let form = |call: Curl, body: &str| {
        call.header(&format!("Origin: {web}")).header("Content-Type: application/x-www-form-urlencoded").body(body)
    };
    let credentials = format!("email={}&password={}", field("email"), field("password"));
    let entered = form(Curl::plain(&format!("{web}/sign-in")), &credentials).send().await.unwrap();
    assert_eq!(entered.status, 303, "{}\n{}", entered.head, entered.body);
    let session = entered.head.split("__Host-gaia=").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let chat = Curl::plain(&format!("{web}/chat")).header(&format!("Cookie: __Host-gaia={session}"));
    let page = form(chat, "history=&message=Hello+there").send().await.unwrap().expect(200).unwrap();
    assert!(page.contains("You said: Hello there"), "{page}");
}

/// Runs the commands for a running platform in docs/how-to/from-scripts.md, in order.
async fn successors_of_old_commands_run(up: &Up) {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/from-scripts.md")).unwrap();
    let (_, section) = page.split_once("## Calls and rotations on a running platform").unwrap();
    let (table, _) = section.split_once("\n## ").unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').nth(1));
    let commands = cells.filter_map(|cell| cell.trim().strip_prefix("`gaia ")?.strip_suffix('`'));
    let mut count = 0;
    for command in commands {
        let words = command.replace(":8444", &format!(":{}", up.port(8444)));
        let mut gaia = up.home.program();
        gaia.args(words.split(' '));
        let ended = tokio::task::spawn_blocking(move || output(gaia)).await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert_eq!(ended.status.code(), Some(0), "gaia {words}: {text}");
        assert!(!text.contains("PRIVATE KEY"), "gaia {words} printed a private key");
        count += 1;
    }
    assert!(count >= 8, "{count} commands in {table}");
}

#[tokio::test]
async fn a_crashed_service_is_started_again_and_named() {
    let (up, _) = Up::start().await;
    let ready = format!("http://127.0.0.1:{}/readyz", up.port(9446));
    let gateway = child_named(up.child.id(), "gateway");
    kill_process(gateway, Signal::KILL).unwrap();
    wait::until("the end is named", SOON, async || up.log().contains("gateway ended with signal: 9")).await.unwrap();
    wait::until("it is ready again", SOON, async || http::get(&ready).await.is_ok_and(|(status, _)| status == 200))
        .await
        .unwrap();
    assert!(up.log().contains("gateway is started again"), "{}", up.log());

    let second = output(up.home.up(up.offset, &["--dir", "other", "--data", "other-data"]));
    let message = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(2), "{message}");
    for (program, port) in [("gateway", 8666), ("web-service", 8080), ("gaia-stand-ins", 9999)] {
        assert!(message.contains(&format!("{program} cannot listen on port {}", up.port(port))), "{message}");
    }
    assert!(!up.home.path("other").exists() && !up.home.path("other-data").exists(), "nothing was started");
    assert_eq!(up.end().await, Some(0));
}

#[test]
fn stand_ins_have_no_place_in_a_real_environment() {
    let home = Home::new();
    for environment in ["staging", "production"] {
        let refused = output(home.up(1, &["--environment", environment, "--provider-url", "https://llm.example/v1"]));
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{message}");
        assert!(message.contains(environment) && message.contains("--supabase-url"), "{message}");
        assert!(!home.path("certs").exists());
    }
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

/// The child of a process with this name as its first argument.
fn child_named(parent: u32, name: &str) -> Pid {
    let is_it = |pid: &u32| {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        let of_parent =
            stat.rsplit(") ").next().is_some_and(|rest| rest.split(' ').nth(1) == Some(&parent.to_string()));
        let command = fs::read(proc.join("cmdline")).unwrap_or_default();
        of_parent && command.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it);
    Pid::from_raw(i32::try_from(found.unwrap()).unwrap()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// nobody.
const USER: u32 = 65534;
const SOON: Duration = Duration::from_secs(60);
