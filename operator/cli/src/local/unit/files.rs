//! The texts of the units.

use super::quote::{path, whole, word};
use super::{Form, UnitFile};

/// The engine, and the directory it operates.
pub(super) struct Daemon {
    /// The path of `gaia`.
    pub(super) program: String,
    /// The directory.
    pub(super) dir: String,
    /// The static user.
    pub(super) user: String,
    /// The group that may read the service directories.
    pub(super) gid: u32,
}

/// A unit that reads a service directory.
pub(super) struct Reader<'a> {
    /// The service.
    pub(super) service: &'a str,
    /// Its unit.
    pub(super) unit: &'a str,
    /// The directory in which it finds its files.
    pub(super) mount: &'a str,
    /// The form in which the engine runs.
    pub(super) form: Form,
}

/// The unit of the daemon.
pub(super) const DAEMON: &str = "gaia.service";
/// The timer of the timer form.
pub(super) const TIMER: &str = "gaia-once.timer";

/// The units of the engine.
pub(super) fn engine(daemon: &Daemon, form: Form) -> Vec<UnitFile> {
    let file = |path: &str, text: String| UnitFile { path: path.to_owned(), text };
    let mut units = vec![];
    if form != Form::Timer {
        units.push(file(DAEMON, service(daemon)));
    }
    if form != Form::Daemon {
        units.push(file("gaia-once.service", once(daemon)));
        units.push(file(TIMER, ONCE_TIMER.to_owned()));
        units.push(file("gaia-renew@.service", renewal(daemon)));
        units.push(file("gaia-renew@.timer", RENEWAL_TIMER.to_owned()));
    }
    units.push(file("gaia-failure@.service", FAILURE.to_owned()));
    units
}

/// The drop-in of a unit that reads a service directory.
pub(super) fn drop_in(daemon: &Daemon, reader: &Reader<'_>) -> UnitFile {
    let dir = path(&daemon.dir);
    let source = format!("{}/{}:{}", daemon.dir, reader.service, reader.mount);
    // The service starts with the files that are there, also if the engine does not run.
    let after = if reader.form == Form::Timer { "gaia-once.service" } else { DAEMON };
    let text = format!(
        "# The files of {service}, read only. A renewal replaces them without a restart of this unit.
[Unit]
After={after}

[Service]
SupplementaryGroups={gid}
BindReadOnlyPaths={source}
# The rest of the directory: the rings, and the keys of other services.
InaccessiblePaths=-{dir}
Environment=\"GAIA_DIR={mount}\"
",
        service = reader.service,
        gid = daemon.gid,
        source = path(&source),
        mount = whole(reader.mount),
    );
    UnitFile { path: format!("{}.d/gaia.conf", reader.unit), text }
}

fn service(daemon: &Daemon) -> String {
    format!(
        "[Unit]
Description=Certificates, keys and tokens of a platform (Gaia)
After=network-online.target
Wants=network-online.target
AssertPathExists={manifest}
OnFailure=gaia-failure@%n.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WatchdogSec=60s
TimeoutStopSec=35s
Restart=always
RestartSec=5s
{sandbox}
[Install]
WantedBy=multi-user.target
",
        manifest = whole(&format!("{}/gaia.yaml", daemon.dir)),
        command = command(daemon, "run", &format!("--group {}", daemon.gid)),
        sandbox = sandbox(daemon),
    )
}

fn once(daemon: &Daemon) -> String {
    format!(
        "[Unit]
Description=Renewals and rotations that are due (Gaia)
After=network-online.target
Wants=network-online.target
AssertPathExists={manifest}
OnFailure=gaia-failure@%n.service
# The daemon does the same.
Conflicts={DAEMON}

[Service]
Type=oneshot
ExecStart={command}
# 1: waits for instances. The next run continues.
SuccessExitStatus=1
TimeoutStartSec=5min
{sandbox}",
        manifest = whole(&format!("{}/gaia.yaml", daemon.dir)),
        command = command(daemon, "run", &format!("--once --group {}", daemon.gid)),
        sandbox = sandbox(daemon),
    )
}

fn renewal(daemon: &Daemon) -> String {
    format!(
        "[Unit]
Description=Renewal of the certificate of %i, if it is due (Gaia)
AssertPathExists={manifest}
OnFailure=gaia-failure@%n.service

[Service]
Type=oneshot
# 0: due or missing. 1: not due, skipped. 255: cannot tell, a failure.
ExecCondition={condition}
ExecStart={command}
SuccessExitStatus=1
TimeoutStartSec=5min
{sandbox}",
        manifest = whole(&format!("{}/gaia.yaml", daemon.dir)),
        condition = command(daemon, "needs-renewal", "%i"),
        command = command(daemon, "run", &format!("--once --group {}", daemon.gid)),
        sandbox = sandbox(daemon),
    )
}

/// A command of `gaia local`.
fn command(daemon: &Daemon, verb: &str, rest: &str) -> String {
    format!("{} local {verb} --dir {} {rest}", word(&daemon.program), word(&daemon.dir))
}

/// The user, and what the process may access.
fn sandbox(daemon: &Daemon) -> String {
    let dir = path(&daemon.dir);
    let is_below = |parent: &str| daemon.dir.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'));
    // The homes are hidden; a directory below them is bound into the empty place.
    let homes = if ["/home", "/root", "/run/user"].into_iter().any(is_below) {
        format!("ProtectHome=tmpfs\nBindPaths={dir}")
    } else {
        "ProtectHome=yes".to_owned()
    };
    format!(
        "User={user}
Group={gid}
UMask=0077
ReadWritePaths={dir}
{homes}
{SANDBOX}",
        user = daemon.user,
        gid = daemon.gid,
    )
}

/// Settings that are the same on every machine. The engine opens connections to instances, so it keeps the network.
const SANDBOX: &str = "ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
KeyringMode=private
LimitCORE=0
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @debug
# The files get the group of their readers.
SystemCallFilter=@chown
";

const ONCE_TIMER: &str = "[Unit]
Description=Renewals and rotations that are due, every ten minutes (Gaia)

[Timer]
OnCalendar=*:0/10
RandomizedDelaySec=60s
# After the machine was off, at once.
Persistent=yes

[Install]
WantedBy=timers.target
";

const RENEWAL_TIMER: &str = "[Unit]
Description=Renewal of the certificate of %i, if it is due (Gaia)

[Timer]
OnCalendar=*:0/10
RandomizedDelaySec=60s
Persistent=yes

[Install]
WantedBy=timers.target
";

const FAILURE: &str = "[Unit]
Description=Report of the failure of %i (Gaia)

[Service]
Type=oneshot
# Replace this command to send mail or to page.
ExecStart=/bin/echo '%i failed. Next: journalctl --unit %i'
SyslogLevel=err
DynamicUser=yes
ProtectHome=yes
PrivateNetwork=yes
";
