//! The process: reporting of errors, and exit codes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use axum::body::Body;
use gaia_runtime::testing::{Mount, Platform};
use http::{Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

/// auth-service with only these environment variables, and with backtraces enabled.
fn auth_service(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
    command.env_clear().env("RUST_BACKTRACE", "full").envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_is_wrong_before_there_is_a_log_is_one_line_on_standard_error() {
    let name = ("GAIA_SERVICE_NAME", "auth-service");
    for (variables, named) in [
        (&[name, ("GAIA_LOG", "a=b=c")][..], "GAIA_LOG (--log)"),
        (&[name, ("TLS_CA_PATH", "/a"), ("TLS_CA_CERT_PATH", "/b")], "TLS_CA_PATH and TLS_CA_CERT_PATH"),
    ] {
        let output = auth_service(variables).output().unwrap();
        let (stdout, stderr) = text(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (Some(1), ""));
        assert!(stderr.starts_with("error: ") && stderr.contains(named), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn what_is_wrong_after_that_is_one_line_of_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = auth_service(&[("GAIA_SERVICE_NAME", "auth-service"), ("GAIA_MESH_ADDRESS", &address)]).output();
    let output = output.unwrap();
    let (stdout, stderr) = text(&output);
    assert_eq!((output.status.code(), stderr.as_str()), (Some(1), ""));
    let line: Value = serde_json::from_str(stdout.trim_end()).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"ended".into()));
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(&address) && error.contains("GAIA_MESH_ADDRESS"), "{error}");
}

#[test]
fn a_wrong_flag_is_told_with_the_usage() {
    let output = auth_service(&[]).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("--service-name (or GAIA_SERVICE_NAME)") && stderr.contains("Usage:"), "{stderr}");
}

/// A started auth-service with all files required to be ready.
struct Running {
    process: Child,
    stdout: BufReader<ChildStdout>,
    /// The log until it was ready.
    log: String,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn running(platform: &Platform, mesh: &str) -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    let _mount = Mount::new(dir.path(), &platform.mount("auth-service"));
    let mut process = auth_service(&[
        ("GAIA_SERVICE_NAME", "auth-service"),
        ("GAIA_DIR", &dir.path().to_string_lossy()),
        ("GAIA_MESH_ADDRESS", mesh),
        ("GAIA_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("GAIA_SHUTDOWN_DELAY", "0s"),
        ("GAIA_NONSENSE", "1"),
    ])
    .spawn()
    .expect("it starts");
    let mut stdout = BufReader::new(process.stdout.take().expect("its output is ours"));
    let mut log = String::new();
    while !log.contains(r#""serving""#) {
        assert!(stdout.read_line(&mut log).expect("its log is text") > 0, "it ended: {log}");
    }
    Running { process, stdout, log, _dir: dir }
}

#[test]
fn a_process_that_is_asked_to_stop_ends_well() {
    let mut running = running(&Platform::new(), "127.0.0.1:0");
    assert!(running.log.contains("GAIA_NONSENSE"), "{}", running.log);
    let killed = Command::new("kill").args(["-TERM", &running.process.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut after = String::new();
    running.stdout.read_to_string(&mut after).unwrap();
    assert!(running.process.wait().unwrap().success());
    assert!(after.contains(r#""stopped""#), "{after}");
}

/// Returns the resident memory of a process, in KiB.
#[cfg(target_os = "linux")]
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_connections_that_say_nothing_more_take_little_memory() {
    // A free port: the listener is closed when the service starts.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let platform = Platform::new();
    let running = running(&platform, &address);
    let client = platform.client(Some(&platform.leaf("gateway")));
    let request = || Request::get(format!("https://{address}/health")).body(Body::empty()).unwrap();
    assert_eq!(client.request(request()).await.unwrap().status(), StatusCode::OK);
    let before = resident_kib(running.process.id());
    let (mut idle, mut half) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let client = client.apart();
        assert_eq!(client.request(request()).await.unwrap().status(), StatusCode::OK);
        idle.push(client);
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nx: ").unwrap();
        half.push(stream);
    }
    assert_eq!(client.apart().request(request()).await.unwrap().status(), StatusCode::OK);
    let with_them = resident_kib(running.process.id());
    println!("{before} KiB before, {with_them} KiB with 1,000 connections");
    assert!(with_them - before < 1000 * MOST_KIB_PER_CONNECTION, "{before} KiB before, {with_them} KiB after");
}

#[cfg(target_os = "linux")]
const MOST_KIB_PER_CONNECTION: u64 = 48;
