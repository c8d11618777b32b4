//! `gaia-stand-ins` as a process.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> (Running, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gaia-stand-ins"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = vec![];
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let is_last = line.contains(": ready") || line.contains(": error");
        lines.push(line);
        if is_last {
            break;
        }
    }
    (Running(child), lines)
}

/// The host, port and path of the first URL in a line.
fn url(lines: &[String], label: &str) -> (String, String) {
    let line = lines.iter().find(|line| line.contains(label)).unwrap();
    let url = line.split("http://").nth(1).unwrap().split([';', ' ']).next().unwrap();
    let (host, path) = url.split_once('/').unwrap();
    (host.to_owned(), format!("/{path}"))
}

fn post(host: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n");
    write!(stream, "{head}{headers}content-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_account_signs_in_and_the_provider_echoes() {
    let (_running, lines) = start(&["--login", "127.0.0.1:0", "--provider", "127.0.0.1:0"]);
    let (host, prefix) = url(&lines, "login server");
    let session = post(&host, &format!("{prefix}/token?grant_type=password"), "", ACCOUNT);
    assert!(session.starts_with("HTTP/1.1 200") && session.contains("access_token"), "{session}");
    let (host, prefix) = url(&lines, "provider of chat");
    let key = lines.iter().find_map(|line| line.split("its key: ").nth(1)).unwrap();
    let key = format!("authorization: Bearer {key}\r\n");
    let question = r#"{"model":"echo","messages":[{"role":"user","content":"hello"}]}"#;
    let answer = post(&host, &format!("{prefix}/chat/completions"), &key, question);
    assert!(answer.contains("You said: hello"), "{answer}");
}

#[test]
fn every_line_says_that_these_are_stand_ins() {
    let (_running, lines) = start(&["--login", "127.0.0.1:0", "--provider", "127.0.0.1:0", "--require-api-key"]);
    assert!(lines.len() >= 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("stand-in, for development only: ")), "{lines:?}");
    let (host, prefix) = url(&lines, "login server");
    let refused = post(&host, &format!("{prefix}/token?grant_type=password"), "", "{}");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}

#[test]
fn connections_are_passed_on_to_a_stand_in_in_another_container() {
    let [server, near] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string());
    let issuer = format!("http://{near}/auth/v1");
    let (_server, lines) = start(&["--login", &server, "--login-url", &issuer, "--no-provider"]);
    assert!(lines[0].contains(&issuer), "the issuer is the URL for its clients: {lines:?}");
    let (_near, _) = start(&["--forward", &format!("{near}={server}")]);
    let session = post(&near, "/auth/v1/token?grant_type=password", "", ACCOUNT);
    assert!(session.starts_with("HTTP/1.1 200") && session.contains("access_token"), "{session}");
}

#[test]
fn another_address_than_loopback_is_refused_without_the_flag() {
    let (mut running, lines) = start(&["--login", "0.0.0.0:0", "--no-provider"]);
    assert!(lines[0].contains("error: --login 0.0.0.0:0") && lines[0].contains("--on-network"), "{lines:?}");
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    let (_running, lines) = start(&["--login", "0.0.0.0:0", "--no-provider", "--on-network"]);
    assert!(lines.last().unwrap().contains(": ready"), "{lines:?}");
}

const ACCOUNT: &str = r#"{"email":"ada@example.com","password":"analytical-engine"}"#;
