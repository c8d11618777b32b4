//! `gaia local` as a process, as an ordinary user.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A folder that any user may write to.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let home = Self(home);
        // Another user may not be able to read the target directory.
        let built = env!("CARGO_BIN_EXE_gaia");
        if std::fs::hard_link(built, home.program()).is_err() {
            std::fs::copy(built, home.program()).unwrap();
        }
        home
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("gaia")
    }

    fn certs(&self) -> PathBuf {
        self.0.path().join("certs")
    }

    fn gaia(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        if is_root() {
            command.uid(USER_ID).gid(USER_ID);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        ended(&self.gaia(arguments).output().unwrap())
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The exit code, and everything that was printed. No private key is ever printed.
fn ended(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned();
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    (output.status.code().unwrap_or(-1), text)
}

/// Starts the daemon and waits until it works.
fn daemon(home: &Home) -> Child {
    let log = std::fs::File::create(home.0.path().join("log")).unwrap();
    let child = home.gaia(&["local", "run"]).stderr(log).stdout(Stdio::null()).spawn().unwrap();
    let log = home.0.path().join("log");
    let is_running = || std::fs::read_to_string(&log).unwrap().contains("running on certs");
    let started = (0..1500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        is_running()
    });
    assert!(started, "the daemon does not start: {}", std::fs::read_to_string(&log).unwrap());
    child
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_directory_is_created_operated_and_survives_a_killed_daemon() {
    let home = Home::new();
    let (code, text) = home.run(&["local", "init"]);
    assert_eq!(code, 0, "{text}");
    assert!(home.certs().join("gateway/tls.crt").exists());
    assert_eq!(home.run(&["local", "needs-renewal", "gateway"]).0, 1);
    assert_eq!(home.run(&["local", "needs-renewal", "nothing"]).0, 255);

    let mut killed = daemon(&home);
    let (code, text) = home.run(&["local", "run", "--once"]);
    assert_eq!(code, 3, "a second writer: {text}");
    assert!(text.contains("another process of gaia holds the directory"), "{text}");
    let (code, text) = home.run(&["local", "prune", "gateway", "--yes"]);
    assert_eq!(code, 64, "a service of gaia.yaml: {text}");
    assert!(text.contains("gateway is in gaia.yaml"), "{text}");
    signal(&killed, "KILL");
    killed.wait().unwrap();

    let mut stopped = daemon(&home);
    signal(&stopped, "TERM");
    assert_eq!(stopped.wait().unwrap().code(), Some(0));

    std::fs::remove_dir_all(home.certs().join("gateway")).unwrap();
    assert_eq!(home.run(&["local", "needs-renewal", "gateway"]).0, 0);
    let (code, text) = home.run(&["local", "init"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(home.run(&["local", "needs-renewal", "gateway"]).0, 1);
}

#[test]
fn a_refused_manifest_is_exit_code_64_and_changes_nothing() {
    let home = Home::new();
    std::fs::write(
        home.0.path().join("own.yaml"),
        "apiVersion: gaia.dev/v1alpha1\nkind: TrustDomain\nmetadata: {name: gaia}\nspec: {trustDomian: x}\n",
    )
    .unwrap();
    let (code, text) = home.run(&["local", "init", "--from", "own.yaml"]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("own.yaml:4: TrustDomain gaia: spec.trustDomian: unknown field"), "{text}");
    assert!(!home.certs().exists());
}

/// On a full disk, and on one that cannot be written, the error names the path, and the next run succeeds.
#[test]
fn a_full_or_read_only_disk_is_exit_code_2_with_its_path() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let script = |options: &str, first: &str| {
        let disk = home.0.path().join("disk");
        std::fs::create_dir_all(&disk).unwrap();
        let (disk, gaia) = (disk.display(), home.program().display().to_string());
        let user = format!("setpriv --reuid {USER_ID} --regid {USER_ID} --clear-groups");
        format!(
            "mount -t tmpfs -o size={options},mode=0777 tmpfs {disk} && cd {disk} && {first} {user} {gaia} local init; \
             code=$?; mount -o remount,rw,size=8m {disk}; {user} {gaia} local init >&2 && exit $code"
        )
    };
    let run = |script: &str| -> Option<(i32, String)> {
        let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).output().ok()?;
        let (code, text) = ended(&output);
        (!text.contains("Operation not permitted") && !text.contains("permission denied")).then_some((code, text))
    };
    let Some((code, text)) = run(&script("64k", "")) else { return };
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("No space left on device") && text.contains("certs"), "{text}");
    let user = format!("setpriv --reuid {USER_ID} --regid {USER_ID} --clear-groups");
    let before = format!("{user} {} local init >&2 && mount -o remount,ro . &&", home.program().display());
    let Some((code, text)) = run(&script("8m", &before)) else { return };
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("Read-only file system") && text.contains(".gaia"), "{text}");
}

const USER_ID: u32 = 65534;
