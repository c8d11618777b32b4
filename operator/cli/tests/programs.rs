//! The programs in this executable, selected by a link or by the first argument, and the health check.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

const GAIA: &str = env!("CARGO_BIN_EXE_gaia");

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[rstest]
fn a_link_and_a_hidden_command_run_a_program(
    #[values("gaia-operator", "auth-service", "asset-service", "chat-service", "gateway", "web-service")] program: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join(program);
    symlink(GAIA, &link).unwrap();
    let version = format!("{program} {}\n", env!("CARGO_PKG_VERSION"));
    let (by_link, by_command) = (run(&link, &["--version"]), run(Path::new(GAIA), &[program, "--version"]));
    for ended in [&by_link, &by_command] {
        assert_eq!((ended.status.code(), text(&ended.stdout)), (Some(0), version.as_str()), "{ended:?}");
    }
    // Its usage and its exit codes are those of its own binary: 2, not 64.
    let (by_link, by_command) = (run(&link, &["--frobnicate"]), run(Path::new(GAIA), &[program, "--frobnicate"]));
    assert_eq!((by_link.status.code(), text(&by_link.stderr)), (Some(2), text(&by_command.stderr)));
    assert!(text(&by_link.stderr).contains(&format!("Usage: {program}")), "{by_link:?}");
    assert_eq!(by_command.status.code(), Some(2));
    assert!(!text(&run(Path::new(GAIA), &["--help"]).stdout).contains(program), "the help lists {program}");
}

#[test]
fn a_link_of_another_name_is_gaia() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("gateways");
    symlink(GAIA, &link).unwrap();
    assert_eq!(run(&link, &["--frobnicate"]).status.code(), Some(64));
}

#[rstest]
#[case::ready("HTTP/1.1 200 OK\r\n\r\nok", 0)]
#[case::not_ready("HTTP/1.1 503 Service Unavailable\r\n\r\nno certificate", 2)]
#[case::another_protocol("SSH-2.0-OpenSSH_9.2\r\n", 3)]
fn a_health_check_ends_by_the_answer(#[case] answer: &'static str, #[case] code: i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 256];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let ended = run(Path::new(GAIA), &["probe", "--ready", "--address", &address]);
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
}

#[test]
fn a_health_check_without_a_listener_is_3() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = run(Path::new(GAIA), &["probe", "--address", &free.to_string()]);
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    assert!(text(&ended.stderr).contains("GAIA_ADMIN_ADDRESS"), "{ended:?}");
}
