//! A real browser for the tests of pages: Chromium without a window, driven over WebDriver (W3C) through `chromedriver`.
//!
//! Its background networking is switched off, and it resolves no name but localhost: it loads only the requests of a page,
//! and [`Browser::requested`] lists all of them.

mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::assets::on_path;
use crate::control_plane::ports;
use crate::process::{Process, ProcessSpec};
use crate::wait;

use wire::Wire;

/// An open browser with one window and no history. Dropping it closes it.
#[derive(Debug)]
pub struct Browser {
    wire: Wire,
    session: String,
    /// They end with it.
    _driver: Driver,
}

#[derive(Debug)]
struct Driver {
    wire: Wire,
    process: Process,
    profile: TempDir,
}

/// An element as a screen reader presents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its role, as in ARIA.
    pub role: String,
    /// Its accessible name.
    pub name: String,
}

/// Keys that are not characters, as WebDriver encodes them.
pub mod key {
    /// Tab.
    pub const TAB: &str = "\u{E004}";
    /// Enter.
    pub const ENTER: &str = "\u{E007}";
    /// Shift, held down until the end of a text.
    pub const SHIFT: &str = "\u{E008}";
    /// Releases the keys that are held down.
    pub const RELEASE: &str = "\u{E000}";
}

/// The paths of Chromium and its driver; `None` if one of them is not installed.
#[must_use]
pub fn installed() -> Option<[PathBuf; 2]> {
    let program = on_path("chromium").or_else(|| on_path("google-chrome"));
    Some([program?, on_path("chromedriver")?])
}

impl Browser {
    /// Opens a browser; its driver logs into `logs`.
    ///
    /// # Errors
    /// If Chromium or its driver is not installed, or does not start.
    pub async fn open(logs: &Path) -> Result<Self> {
        let [program, driver] = installed().context("chromium or chromedriver is not installed: see .ci/deps")?;
        let mut failed = anyhow::anyhow!("it was not tried");
        // On a loaded machine Chromium sometimes fails to start.
        for _ in 0..ATTEMPTS {
            match Self::try_open(&program, &driver, logs).await {
                Ok(browser) => return Ok(browser),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn try_open(program: &Path, driver: &Path, logs: &Path) -> Result<Self> {
        let driver = Driver::start(driver, logs).await?;
        let made = driver.wire.post("/session", &capabilities(program, driver.profile.path())).await;
        let made = made.with_context(|| format!("Chromium does not start: {}", driver.process.log_tail()))?;
        let session = made["sessionId"].as_str().context("the driver names no session")?.to_owned();
        let browser = Self { wire: driver.wire.clone(), session: format!("/session/{session}"), _driver: driver };
        browser.post("/timeouts", json!({ "pageLoad": 60_000, "script": 60_000 })).await?;
        Ok(browser)
    }

    /// Loads a page.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.post("/url", json!({ "url": url })).await.map(drop)
    }

    /// The current URL.
    ///
    /// # Errors
    /// If the driver does not say.
    pub async fn url(&self) -> Result<String> {
        text(&self.get("/url").await?)
    }

    /// Waits until the browser is at a path, with its query.
    ///
    /// # Errors
    /// If it does not get there, with its current URL.
    pub async fn wait_at(&self, path: &str) -> Result<()> {
        let there = async || -> Result<()> {
            let url = self.url().await?;
            let at = url.splitn(4, '/').nth(3).unwrap_or_default();
            ensure!(format!("/{at}") == path, "it is at {url}");
            Ok(())
        };
        wait::until(&format!("the browser is at {path}"), SOON, there).await
    }

    /// Waits until the text of an element contains `wanted`.
    ///
    /// # Errors
    /// If it does not, with its text.
    pub async fn wait_text(&self, css: &str, wanted: &str) -> Result<()> {
        let holds = async || -> Result<()> {
            let found = self.text(css).await?;
            ensure!(found.contains(wanted), "it says {found:?}");
            Ok(())
        };
        wait::until(&format!("{css} says {wanted:?}"), SOON, holds).await
    }

    /// Waits until an element at a selector is visible.
    ///
    /// # Errors
    /// If none appears.
    pub async fn wait_for(&self, css: &str) -> Result<()> {
        let is_there = async || -> Result<()> {
            let element = self.find(css).await?;
            ensure!(self.get(&format!("{element}/displayed")).await? == true, "it is hidden");
            Ok(())
        };
        wait::until(&format!("{css} is to be seen"), SOON, is_there).await
    }

    /// The number of elements.
    ///
    /// # Errors
    /// If the driver does not say.
    pub async fn count(&self, css: &str) -> Result<usize> {
        let found = self.post("/elements", json!({ "using": "css selector", "value": css })).await?;
        Ok(found.as_array().map_or(0, Vec::len))
    }

    /// The visible text of an element.
    ///
    /// # Errors
    /// If there is no such element.
    pub async fn text(&self, css: &str) -> Result<String> {
        let element = self.find(css).await?;
        text(&self.get(&format!("{element}/text")).await?)
    }

    /// Clicks an element.
    ///
    /// # Errors
    /// If there is none, or another one is in the way.
    pub async fn click(&self, css: &str) -> Result<()> {
        let element = self.find(css).await?;
        self.post(&format!("{element}/click"), json!({})).await.map(drop)
    }

    /// Types into an element: characters, the names in [`key`], or for a field of files their paths.
    ///
    /// # Errors
    /// If there is no such element, or nothing can be typed into it.
    pub async fn type_into(&self, css: &str, keys: &str) -> Result<()> {
        let element = self.find(css).await?;
        self.post(&format!("{element}/value"), json!({ "text": keys })).await.map(drop)
    }

    /// Presses keys, wherever the focus is.
    ///
    /// # Errors
    /// If the driver does not.
    pub async fn press(&self, keys: &str) -> Result<()> {
        let shift = key::SHIFT;
        let is_shifted = keys.starts_with(shift);
        let press = |key: &str| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let mut actions: Vec<Value> = Vec::new();
        if is_shifted {
            actions.push(json!({ "type": "keyDown", "value": shift }));
        }
        for key in keys.trim_start_matches(shift).chars() {
            actions.extend(press(key.to_string().as_str()));
        }
        if is_shifted {
            actions.push(json!({ "type": "keyUp", "value": shift }));
        }
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("/actions", keyboard).await.map(drop)
    }

    /// The focused element as a screen reader presents it.
    ///
    /// # Errors
    /// If no element has the focus.
    pub async fn focused(&self) -> Result<Told> {
        let element = self.get("/element/active").await?;
        self.told(&path_of(&element)?).await
    }

    /// Every element of a selector as a screen reader presents it.
    ///
    /// # Errors
    /// If the driver does not say.
    pub async fn all_told(&self, css: &str) -> Result<Vec<Told>> {
        let found = self.post("/elements", json!({ "using": "css selector", "value": css })).await?;
        let mut told = Vec::new();
        for element in found.as_array().into_iter().flatten() {
            told.push(self.told(&path_of(element)?).await?);
        }
        Ok(told)
    }

    /// Answers a dialog of the page with `confirm`.
    ///
    /// # Errors
    /// If none is open.
    pub async fn accept_question(&self) -> Result<()> {
        self.post("/alert/accept", json!({})).await.map(drop)
    }

    /// The result of a script, which runs as a function's body in the page.
    ///
    /// # Errors
    /// If it throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// A command of Chromium's own protocol.
    ///
    /// # Errors
    /// If Chromium does not take it.
    pub async fn command(&self, name: &str, parameters: &Value) -> Result<Value> {
        self.post("/goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await
    }

    /// Sets the screen size (in CSS pixels) and the system's colour scheme, light or dark.
    ///
    /// # Errors
    /// If Chromium does not take it.
    pub async fn look(&self, width: u32, height: u32, colours: &str) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &metrics).await?;
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        self.command("Emulation.setEmulatedMedia", &media).await.map(drop)
    }

    /// The visible page, as a PNG.
    ///
    /// # Errors
    /// If the driver gives none.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(STANDARD.decode(text(&self.get("/screenshot").await?)?)?)
    }

    /// The console messages since the last call: script errors, and violations of the page's policy.
    ///
    /// # Errors
    /// If the driver does not say.
    pub async fn console(&self) -> Result<Vec<String>> {
        let lines = self.log("browser").await?;
        Ok(lines.iter().map(|line| format!("{}: {}", line["level"], line["message"])).collect())
    }

    /// The addresses of all requests since the last call, except those of the browser's own pages.
    ///
    /// # Errors
    /// If the driver does not say.
    pub async fn requested(&self) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for line in self.log("performance").await? {
            let message: Value = serde_json::from_str(line["message"].as_str().unwrap_or_default())?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                urls.push(text(&message["params"]["request"]["url"])?);
                urls.pop_if(|url| ITS_OWN.iter().any(|scheme| url.starts_with(scheme)));
            }
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let lines = self.post("/se/log", json!({ "type": kind })).await?;
        Ok(lines.as_array().cloned().unwrap_or_default())
    }

    async fn told(&self, element: &str) -> Result<Told> {
        let role = text(&self.get(&format!("{element}/computedrole")).await?)?;
        Ok(Told { role, name: text(&self.get(&format!("{element}/computedlabel")).await?)? })
    }

    async fn find(&self, css: &str) -> Result<String> {
        let found = self.post("/element", json!({ "using": "css selector", "value": css })).await;
        path_of(&found.with_context(|| format!("there is no {css}"))?)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        self.wire.get(&format!("{}{path}", self.session)).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.wire.post(&format!("{}{path}", self.session), &body).await
    }
}

impl Driver {
    async fn start(program: &Path, logs: &Path) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let [port]: [u16; 1] = ports::free()?;
        // It is also the home directory: all files of Chromium are removed with it.
        let spec = ProcessSpec::new("chromedriver", program, logs)
            .arg(format!("--port={port}"))
            .env("HOME", profile.path())
            .env("XDG_CONFIG_HOME", profile.path())
            .env("XDG_CACHE_HOME", profile.path());
        let driver = Self { wire: Wire::new(port), process: Process::start(spec)?, profile };
        let ready = async || driver.wire.get("/status").await.is_ok_and(|status| status["ready"] == true);
        wait::until("chromedriver is ready", SOON, ready).await.with_context(|| driver.process.log_tail())?;
        Ok(driver)
    }
}

fn capabilities(program: &Path, profile: &Path) -> Value {
    let mut args: Vec<String> = ARGUMENTS.iter().map(|&argument| argument.to_owned()).collect();
    args.push(format!("--user-data-dir={}", profile.join("chromium").display()));
    if rustix::process::getuid().is_root() {
        // Chromium's own sandbox does not work for root.
        args.push("--no-sandbox".to_owned());
    }
    let options = json!({ "binary": program, "args": args });
    let logs = json!({ "browser": "ALL", "performance": "ALL" });
    let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs });
    json!({ "capabilities": { "alwaysMatch": wanted } })
}

/// The path of an element below its session.
fn path_of(element: &Value) -> Result<String> {
    let id = element[ELEMENT].as_str().context("the driver names no element")?;
    Ok(format!("/element/{id}"))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

/// The key of an element's id (W3C WebDriver, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const ATTEMPTS: usize = 3;
const ITS_OWN: [&str; 3] = ["about:", "chrome:", "data:"];
/// A loaded machine is slow to start a browser.
const SOON: Duration = Duration::from_secs(60);
/// Only requests of pages, and an end with the driver: the pipe to it is then closed.
const ARGUMENTS: [&str; 16] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-client-side-phishing-detection",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--disable-gpu",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--lang=en-GB",
];
