//! Children that end with their parent.
//!
//! Linux sends a child its parent-death signal when the *thread* that forked it ends, and a test's thread ends with the
//! test. So one thread, which runs as long as the process, forks all children.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Spawns `command` so that the kernel kills it when this process ends, however it ends. The child leads a process
/// group of its own: Ctrl-C on the terminal reaches only this process, which then ends its children in order.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(command: Command) -> io::Result<Child> {
    let (reply, result) = channel();
    let gone = || io::Error::other("the thread that spawns children is gone");
    spawner().send(Request { command, reply }).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

struct Request {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

fn spawner() -> &'static Sender<Request> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (requests, inbox) = channel();
        // A thread that cannot be started closes the inbox, and every spawn returns that error.
        let _ = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || serve(&inbox));
        requests
    })
}

fn serve(inbox: &Receiver<Request>) {
    for Request { mut command, reply } in inbox {
        die_with_parent(&mut command);
        command.process_group(0);
        // The receiver may be gone: then the child is dropped, and still ends with this process.
        let _ = reply.send(command.spawn());
    }
}

#[expect(unsafe_code, reason = "there is no safe way to run something between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above: then there is no signal any longer.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::other("the parent is gone")) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called; prctl(2) and getppid(2) are bare
    // system calls, and the error path allocates only in a child whose parent has ended, where a deadlock is no worse
    // than an exit.
    unsafe { command.pre_exec(prepare) };
}
