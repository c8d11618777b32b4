//! The commands of `fly`.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::sync::Mutex;

use super::machine::{self, Machine};
use super::{Answer, App, Config, Fault, State};

/// Runs a command.
pub(super) async fn run(state: &Mutex<State>, arguments: &[String], input: &[u8]) -> Answer {
    match result(state, arguments, input).await {
        Ok(stdout) => Answer { code: 0, stdout, ..Answer::default() },
        Err(error) => Answer { code: 1, stderr: format!("Error: {error:#}\n"), ..Answer::default() },
    }
}

async fn result(state: &Mutex<State>, arguments: &[String], input: &[u8]) -> Result<String> {
    let (app, words) = app_and_words(arguments)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["secrets", "list", "--json"] => {
            with(state, &app, |app| Ok(format!("{}\n", app.secrets.list(&app.machines, app.fault)))).await
        }
        ["secrets", "import", "--stage"] => {
            with(state, &app, |app| app.secrets.import(input)).await.map(|()| STAGED.into())
        }
        ["secrets", "import"] => {
            with(state, &app, |app| app.secrets.import(input)).await?;
            roll(state, &app).await
        }
        ["secrets", "deploy"] => roll(state, &app).await,
        ["secrets", "sync"] => Ok(String::new()),
        ["secrets", "unset", names @ ..] => {
            with(state, &app, |app| {
                let unknown = names.iter().find(|name| !app.secrets.remove(name));
                unknown.map_or(Ok(()), |name| bail!("secret {name} does not exist"))
            })
            .await?;
            roll(state, &app).await
        }
        ["machine", "list", "--json"] => with(state, &app, |app| Ok(list(&app.machines))).await,
        ["machine", "stop", id] => {
            let index = index(state, &app, id).await?;
            stop(state, &app, index).await?;
            with(state, &app, |app| {
                app.machines[index].is_stopped = true;
                Ok(String::new())
            })
            .await
        }
        ["machine", "start" | "restart", id] => {
            let index = index(state, &app, id).await?;
            stop(state, &app, index).await?;
            with(state, &app, |app| {
                app.machines[index].is_stopped = false;
                Ok(())
            })
            .await?;
            start(state, &app, index).await.map(|()| String::new())
        }
        ["deploy"] => {
            with(state, &app, |app| {
                app.config = Config::parse(&app.spec.config)?;
                Ok(())
            })
            .await?;
            roll(state, &app).await
        }
        _ => bail!("unknown command {words:?}"),
    }
}

/// The app of `-a`, and the other arguments.
fn app_and_words(arguments: &[String]) -> Result<(String, Vec<String>)> {
    let at = arguments.iter().position(|argument| argument == "-a").context("the app is missing: -a")?;
    let mut words = arguments.to_vec();
    let app = words.drain(at..(at + 2).min(arguments.len())).nth(1).context("the app is missing")?;
    Ok((app, words))
}

async fn with<T>(state: &Mutex<State>, app: &str, change: impl FnOnce(&mut App) -> Result<T>) -> Result<T> {
    let mut state = state.lock().await;
    change(state.apps.get_mut(app).with_context(|| format!("Could not find App \"{app}\""))?)
}

async fn index(state: &Mutex<State>, app: &str, id: &str) -> Result<usize> {
    with(state, app, |app| app.machines.iter().position(|machine| machine.id == id).context("no such machine")).await
}

fn list(machines: &[Machine]) -> String {
    let row = |machine: &Machine| {
        json!({
            "id": machine.id,
            "state": machine.state(),
            "instance_id": machine.instance_id(),
            "private_ip": machine.address,
            "region": "fra",
        })
    };
    format!("{}\n", serde_json::Value::Array(machines.iter().map(row).collect()))
}

/// A rolling update: one machine after another gets the stored secrets, and a started one restarts.
async fn roll(state: &Mutex<State>, app: &str) -> Result<String> {
    let (fault, count) = with(state, app, |app| Ok((app.fault, app.machines.len()))).await?;
    for index in 0..count {
        let (is_in_release, is_stopped) =
            with(state, app, |app| Ok((app.machines[index].is_in_release, app.machines[index].is_stopped))).await?;
        match fault {
            Fault::StaysStaged => return Ok("Secrets have been deployed\n".to_owned()),
            Fault::Partial if index > 0 => bail!("timeout reached waiting for health checks"),
            _ if !is_in_release => continue,
            _ => {}
        }
        if !is_stopped {
            stop(state, app, index).await?;
        }
        with(state, app, |app| {
            app.machines[index].update(&app.secrets);
            Ok(())
        })
        .await?;
        if !is_stopped {
            start(state, app, index).await?;
        }
    }
    Ok("Secrets have been deployed\n".to_owned())
}

async fn stop(state: &Mutex<State>, app: &str, index: usize) -> Result<()> {
    let (process, config) =
        with(state, app, |app| Ok((app.machines[index].take_process(), app.config.clone()))).await?;
    match process {
        Some(process) => machine::stop(process, &config).await,
        None => Ok(()),
    }
}

/// Starts a machine with the stored secrets, including staged ones.
async fn start(state: &Mutex<State>, app: &str, index: usize) -> Result<()> {
    let boot = with(state, app, |app| Ok(app.machines[index].boot(&app.spec, &app.config, &app.secrets))).await?;
    let process = boot.start().await?;
    with(state, app, |app| {
        app.machines[index].set_process(process);
        Ok(())
    })
    .await
}

/// The address of a host name of the private network, such as `<id>.vm.<app>.internal`.
pub(super) async fn resolve(state: &Mutex<State>, host: &str, port: u16) -> Result<SocketAddr> {
    let mut parts = host.split('.');
    let (id, app) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    with(state, app, |app| {
        let found = app.machines.iter().find(|machine| machine.id == id).context("no such machine")?;
        Ok(SocketAddr::new(found.address, port))
    })
    .await
}

const STAGED: &str = "Secrets have been staged, but not set on VMs.\n";
