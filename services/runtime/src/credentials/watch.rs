//! Change notifications for the credential directory. They are only a hint in addition to polling, because not every
//! file system sends them, and none are sent for files elsewhere.

#[cfg(target_os = "linux")]
mod inotify {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    use tokio::net::unix::pipe::Receiver;
    use tokio::time::sleep;

    /// A watch on a directory's entries.
    #[derive(Debug)]
    pub(crate) struct Watch {
        path: PathBuf,
        /// None if inotify is unavailable.
        events: Option<Events>,
    }

    /// An inotify instance, read like a pipe.
    #[derive(Debug)]
    struct Events {
        /// The same instance, for adding watches.
        control: OwnedFd,
        pipe: Receiver,
    }

    impl Watch {
        pub(crate) fn new(path: &Path) -> Self {
            let events = Events::new();
            if let Err(error) = &events {
                tracing::info!(%error, "cannot watch the credential directory; it is only polled");
            }
            Self { path: path.to_owned(), events: events.ok() }
        }

        /// Watches the directory that is currently at the path, which may have been replaced or created.
        pub(crate) fn renew(&self) {
            if let Some(events) = &self.events {
                // Without the directory there are no events.
                let _ = add_watch(&events.control, &self.path, WHAT);
            }
        }

        /// Resolves [`SETTLING`] after a change. It may be dropped at any time without losing a change.
        pub(crate) async fn changed(&mut self) {
            let Some(events) = &self.events else { return std::future::pending().await };
            if let Err(error) = events.heard().await {
                tracing::warn!(%error, "the watch on the credential directory failed; it is only polled");
                self.events = None;
            }
        }
    }

    impl Events {
        fn new() -> io::Result<Self> {
            let control = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let pipe = Receiver::from_owned_fd_unchecked(control.try_clone()?)?;
            Ok(Self { control, pipe })
        }

        async fn heard(&self) -> io::Result<()> {
            self.pipe.readable().await?;
            // A plain directory is written file by file.
            sleep(SETTLING).await;
            // The contents of the events are not needed.
            let mut events = [0; 4096];
            loop {
                match self.pipe.try_read(&mut events) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    const WHAT: WatchFlags = WatchFlags::CREATE
        .union(WatchFlags::CLOSE_WRITE)
        .union(WatchFlags::MOVE)
        .union(WatchFlags::DELETE)
        .union(WatchFlags::ONLYDIR);
    const SETTLING: Duration = Duration::from_millis(100);
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::path::Path;

    /// No watch: not supported on this system.
    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new(_: &Path) -> Self {
            Self
        }

        pub(crate) fn renew(&self) {}

        pub(crate) async fn changed(&mut self) {
            std::future::pending().await
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use inotify::Watch;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::Watch;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::testing::{Mount, MountedFiles};

    async fn hear(watch: &mut Watch) {
        timeout(Duration::from_secs(10), watch.changed()).await.expect("a change is reported");
    }

    #[tokio::test]
    async fn a_swap_and_a_written_file_are_heard_once_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = |content: &str| MountedFiles::from([("a", content.into())]);
        let mut mount = Mount::new(dir.path(), &files("1"));
        let mut watch = Watch::new(dir.path());
        watch.renew();
        mount.swap(&files("2"));
        hear(&mut watch).await;
        fs::read(dir.path().join("..data/a")).unwrap();
        let again = timeout(Duration::from_millis(500), watch.changed()).await;
        assert!(again.is_err(), "the change was reported already");
        fs::write(dir.path().join("b"), "plain").unwrap();
        hear(&mut watch).await;
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_or_anew_is_watched_from_the_next_look_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gaia");
        let mut watch = Watch::new(&path);
        watch.renew();
        for _ in 0..2 {
            fs::create_dir(&path).unwrap();
            watch.renew();
            fs::write(path.join("a"), "1").unwrap();
            hear(&mut watch).await;
            fs::remove_dir_all(&path).unwrap();
            hear(&mut watch).await;
        }
    }
}
