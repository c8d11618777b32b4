//! A clock for programs that is not the real one, by libfaketime.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use gaia_api::{Clock, ManualClock, SystemClock};
use jiff::{SignedDuration, Timestamp};

/// The clock of programs that are started with [`FakeTime::env`].
pub struct FakeTime {
    library: PathBuf,
    file: PathBuf,
    pub clock: Arc<Offset>,
}

/// The same clock in this process.
pub struct Offset(ManualClock);

impl Clock for Offset {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0.now().duration_since(Timestamp::UNIX_EPOCH)
    }
}

impl FakeTime {
    pub fn new(dir: &Path, library: PathBuf) -> Self {
        let clock = Arc::new(Offset(ManualClock::new(Timestamp::UNIX_EPOCH)));
        let time = Self { library, file: dir.join("faketime"), clock };
        time.jump(SignedDuration::ZERO);
        time
    }

    /// Sets all clocks this far ahead of the real one.
    pub fn jump(&self, ahead: SignedDuration) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{:+}\n", ahead.as_secs())).unwrap();
        std::fs::rename(new, &self.file).unwrap();
        self.clock.0.set(Timestamp::UNIX_EPOCH + ahead);
    }

    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// The library, if it is installed.
pub fn library() -> Result<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").context("there is no /usr/lib")?.flatten();
    let found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.context("libfaketime is not installed: run `make deps`")
}
