//! `gaia local init`: a new directory, or a repair of one that exists.

mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::crd::{ServiceCertificate, TrustDomain};
use jiff::Timestamp;

pub use self::template::Environment;
use self::template::Start;
use super::adopt::{self, Adoption};
use super::changes::Changes;
use super::disk::dir::{Access, Dir, Kind};
use super::disk::error::DirectoryError;
use super::engine::{Engine, EngineSettings, HIDDEN, MANIFESTS, ROOT};
use super::manifests;
use super::view::Directory;
use crate::api_server::Resource;

/// Options of [`init`].
pub struct InitOptions {
    /// The environment, which is part of the trust domain's name; none: that of `gaia.yaml`, else development.
    pub environment: Option<Environment>,
    /// The user's manifests in place of the five services, one text a file.
    pub from: Vec<(PathBuf, String)>,
    /// True: a tree that the old scripts made is taken over.
    pub adopt: bool,
    /// Settings of the engine; it probes no instance.
    pub engine: EngineSettings,
}

/// A directory after [`init`].
#[derive(Debug)]
pub struct Initialised {
    /// False: it existed and was repaired.
    pub is_new: bool,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// Facts about an adopted tree that the user must know.
    pub warnings: Vec<String>,
    /// The service directories with the expiry of their certificates.
    pub issued: Vec<(String, Timestamp)>,
    /// Services without a certificate, and the cause.
    pub waiting: Vec<(String, String)>,
}

/// Creates a directory, or repairs one, and issues everything.
///
/// # Errors
/// The directory holds files of other tools, is not safe to use or is held by another process, a manifest is refused,
/// or the disk cannot be written.
pub async fn init(path: &Path, options: InitOptions) -> Result<Initialised, DirectoryError> {
    check_clock(path, options.engine.clock.now())?;
    let is_new = !path.join(HIDDEN).exists();
    let given = joined(&options.from);
    if let Some((file, text)) = &given {
        manifests::read(file, text, &Changes::default(), &options.engine.endpoints, None)?;
    }
    let environment = options.environment.unwrap_or(Environment::Dev);
    if options.adopt && given.is_some() {
        let next = "leave --from out, and merge its files into gaia.yaml afterwards";
        return Err(DirectoryError::old_tree(path, "an adopted tree gets its own manifests", next));
    }
    let adoption = match options.adopt {
        true => adopt::read(&Dir::open(path)?, &environment.trust_domain(), options.engine.clock.now())?,
        false if path.exists() => adopt::refuse(&Dir::open(path)?).map(|()| None)?,
        false => None,
    };
    let root = open_or_create(path)?;
    let clock = Arc::clone(&options.engine.clock);
    if let Some(adoption) = &adoption {
        begin(adoption, &root, environment, &*clock).await?;
    }
    match (root.read(MANIFESTS)?, given) {
        (Some(present), Some((_, text))) if present.as_slice() != text.as_bytes() => {
            return Err(DirectoryError::hazard(
                &path.join(MANIFESTS),
                "it exists and differs from the file that --from names",
                "edit it, or remove it and run the command again",
            ));
        }
        (Some(present), _) => check_environment(path, &String::from_utf8_lossy(&present), options.environment)?,
        (None, given) => {
            let text = given.map_or_else(|| template::manifests(environment, &Start::fresh()), |(_, text)| text);
            root.write(MANIFESTS, text.as_bytes(), Access { mode: 0o644, group: None })?;
        }
    }
    if root.kind(".gitignore")?.is_none() {
        root.write(".gitignore", GITIGNORE.as_bytes(), Access { mode: 0o644, group: None })?;
    }
    write_env(path)?;
    let mut engine = Engine::start_in(root, EngineSettings { probes: false, ..options.engine }).await?;
    let is_settled = engine.settle(PATIENCE).await;
    let failure = engine.disk_failure();
    let refusal = engine.take_refusal();
    engine.stop().await;
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    if let Some(failure) = failure {
        return Err(DirectoryError::hazard(path, failure, "what was written before is intact"));
    }
    let mut done = summary(path, is_new, is_settled)?;
    if let Some(adoption) = &adoption {
        adoption.complete(&Dir::open(path)?)?;
        done.warnings = adoption.warnings().to_vec();
    }
    Ok(done)
}

/// Writes the rings and `gaia.yaml` of an adopted tree. `gaia.yaml` comes last: without it no engine works here.
async fn begin(
    adoption: &Adoption,
    root: &Dir,
    environment: Environment,
    clock: &dyn Clock,
) -> Result<(), DirectoryError> {
    let file = root.path().join(MANIFESTS);
    let present = root.read(MANIFESTS)?;
    let text = match &present {
        Some(present) if adoption.is_continued() => String::from_utf8_lossy(present).into_owned(),
        Some(_) => {
            let next = "move it away, run the command again, and merge it into the new one";
            return Err(DirectoryError::old_tree(&file, "an adopted tree gets its own manifests", next));
        }
        None => template::manifests(
            environment,
            &Start {
                auth: "APIKeyOnly",
                tls: "Permissive",
                api_keys: Some(API_KEYS),
                trust_domain: adoption.trust_domain_fields(clock.now()),
                algorithm: adoption.signs_by_es256().then_some("ES256"),
                more: adoption.services().iter().map(String::as_str).collect(),
            },
        ),
    };
    let manifests = manifests::read(&file, &text, &Changes::default(), &BTreeMap::new(), None)?;
    let domain = manifests.into_iter().find(|it| it.resource == Resource::TRUST_DOMAIN);
    let domain = domain.and_then(|it| serde_json::from_value::<TrustDomain>(it.value).ok());
    let none = || DirectoryError::hazard(&file, "it has no TrustDomain", "remove it and run the command again");
    adoption.write_rings(root, &domain.ok_or_else(none)?, clock).await?;
    if present.is_none() {
        root.write(MANIFESTS, text.as_bytes(), Access { mode: 0o644, group: None })?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) fn template_of(environment: Environment) -> String {
    template::manifests(environment, &Start::fresh())
}

/// The directories and certificates as they are on the disk.
fn summary(path: &Path, is_new: bool, is_settled: bool) -> Result<Initialised, DirectoryError> {
    let directory = Directory::open(path)?;
    let domains = directory.trust_domains()?;
    let trust_domain = domains.first().map(|domain| domain.spec.trust_domain.clone()).unwrap_or_default();
    let written: Vec<String> = directory.service_directories()?.into_iter().map(|found| found.name).collect();
    let (mut issued, mut waiting) = (vec![], vec![]);
    for certificate in directory.certificates()? {
        let name = certificate.metadata.name.clone().unwrap_or_default();
        let until = certificate.status.as_ref().and_then(|status| status.not_after);
        match until.filter(|_| written.contains(&name)) {
            Some(until) => issued.push((name, until)),
            None => waiting.push((name, why(&certificate, is_settled))),
        }
    }
    let has_certificate = |name: &str| issued.iter().any(|(known, _)| known == name);
    for service in directory.services()? {
        let name = service.metadata.name.unwrap_or_default();
        if !has_certificate(&name) && !waiting.iter().any(|(known, _)| *known == name) {
            let message = service.status.and_then(|status| status.message);
            waiting.push((name, message.unwrap_or_else(|| "no certificate issued yet".to_owned())));
        }
    }
    Ok(Initialised { is_new, trust_domain, warnings: vec![], issued, waiting })
}

/// Certificates that are issued by a clock in the past are expired for every other machine.
fn check_clock(path: &Path, now: Timestamp) -> Result<(), DirectoryError> {
    if now.as_second() >= EARLIEST {
        return Ok(());
    }
    Err(DirectoryError::hazard(
        path,
        format!("the clock of this machine says {now}"),
        "set the clock and run the command again",
    ))
}

fn why(certificate: &ServiceCertificate, is_settled: bool) -> String {
    let message = certificate.status.as_ref().and_then(|status| status.message.clone());
    message.unwrap_or_else(|| {
        let late = format!("not issued within {} s", PATIENCE.as_secs());
        if is_settled { "no certificate issued yet".to_owned() } else { late }
    })
}

fn joined(from: &[(PathBuf, String)]) -> Option<(PathBuf, String)> {
    let (first, _) = from.first()?;
    let texts: Vec<&str> = from.iter().map(|(_, text)| text.trim_end()).collect();
    Some((first.clone(), format!("{}\n", texts.join("\n---\n"))))
}

fn open_or_create(path: &Path) -> Result<Dir, DirectoryError> {
    let is_missing = !path.exists();
    if is_missing {
        std::fs::create_dir_all(path).map_err(|error| DirectoryError::io("create", path, error))?;
    }
    let root = Dir::open(path)?;
    if is_missing {
        root.set_access(ROOT)?;
    }
    Ok(root)
}

/// Two environments never share a CA: the environment of a directory does not change.
fn check_environment(path: &Path, text: &str, wanted: Option<Environment>) -> Result<(), DirectoryError> {
    let Some(wanted) = wanted else { return Ok(()) };
    if text.contains(&format!("trustDomain: {}", wanted.trust_domain())) {
        return Ok(());
    }
    let why = format!("its trust domain is not {}, that of the environment {wanted}", wanted.trust_domain());
    Err(DirectoryError::hazard(&path.join(MANIFESTS), why, "name another directory for this environment with --dir"))
}

/// The ids that Compose runs the services with, in the `.env` next to the directory. Other lines are kept.
fn write_env(path: &Path) -> Result<(), DirectoryError> {
    let full = std::fs::canonicalize(path).map_err(|error| DirectoryError::io("resolve", path, error))?;
    let Some(parent) = full.parent() else { return Ok(()) };
    let folder = Dir::open(parent)?;
    if folder.kind(".env")?.is_some_and(|kind| kind != Kind::File) {
        return Ok(());
    }
    let present = folder.read(".env")?;
    let mut text = String::from_utf8_lossy(&present.unwrap_or_default()).into_owned();
    let before = text.len();
    let ids = [("GAIA_UID", rustix::process::geteuid().as_raw()), ("GAIA_GID", rustix::process::getegid().as_raw())];
    for (name, id) in ids {
        if !text.lines().any(|line| line.trim_start().starts_with(&format!("{name}="))) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!("{name}={id}\n"));
        }
    }
    if text.len() == before {
        return Ok(());
    }
    let mode = folder.read_with_mode(".env")?.map_or(0o644, |(_, mode)| mode);
    folder.write(".env", text.as_bytes(), Access { mode, group: None })
}

/// Private keys do not belong in git; the manifests may.
const GITIGNORE: &str = "# Private keys: never commit this directory.\n*\n!.gitignore\n!gaia.yaml\n";
/// 2025-01-01: no clock that is right shows an earlier time.
const EARLIEST: i64 = 1_735_689_600;
/// The Secret of the API keys of an adopted platform.
const API_KEYS: &str = "platform-api-keys";
/// Hundreds of keys are generated in that time.
const PATIENCE: Duration = Duration::from_secs(60);
