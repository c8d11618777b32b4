//! The service directories as secrets of Fly.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gaia_api::names::key;
use gaia_pki::{Certificate, PrivateKey, Usage, key_matches, sha256_hex, verify_path};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::plan::Phase;
use crate::Failure;

/// The largest file that fits into a secret: a line of `fly secrets import` ends at 64 KiB, and base64 adds a third.
pub(crate) const MAX_FILE: usize = 48 * 1024;

/// A service, and the app that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The service: the name of its directory.
    pub(crate) service: String,
    /// The app.
    pub(crate) app: String,
}

impl std::str::FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !name.is_empty() && !name.starts_with('-') && name.chars().all(allowed)
        };
        match text.split_once('=') {
            Some((service, app)) if is_name(service) && is_name(app) => {
                Ok(Self { service: service.to_owned(), app: app.to_owned() })
            }
            _ => Err(format!("{text:?} is not like gateway=gaia-gateway-production")),
        }
    }
}

/// A file of a service, and the secret that carries it.
pub(crate) struct File {
    /// Its name in the directory.
    pub(crate) name: String,
    /// The name of the secret.
    pub(crate) secret: String,
    /// The phase in which it changes.
    pub(crate) phase: Phase,
    content: Zeroizing<Vec<u8>>,
}

impl File {
    /// Lower-case hex SHA-256 of the content.
    pub(crate) fn sha256(&self) -> String {
        sha256_hex(&self.content)
    }
}

/// The files of a service at one moment.
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Its files, sorted by name.
    pub(crate) files: Vec<File>,
    /// Its certificate, and those of issuers below the root.
    pub(crate) chain: Vec<Certificate>,
    /// The trust bundle.
    pub(crate) roots: Vec<Certificate>,
}

impl Service {
    /// Reads the directory of a service.
    ///
    /// # Errors
    /// If it cannot be read, is no service directory, or a file does not fit into a secret.
    pub(crate) fn read(dir: &Path, name: &str, now: Timestamp) -> Result<Self, Failure> {
        let path = dir.join(name);
        let mut files = vec![];
        // The engine replaces all files in one rename; a read that saw two states is repeated.
        for _ in 0..RETRIES {
            let before = current(&path)?;
            match files_of(&before) {
                Ok(read) if current(&path)? == before => {
                    files = read;
                    break;
                }
                Ok(_) => {}
                Err(_) if current(&path)? != before => {}
                Err(failure) => return Err(failure),
            }
        }
        Self::of_files(&path, name, files, now)
    }

    fn of_files(path: &Path, name: &str, files: Vec<File>, now: Timestamp) -> Result<Self, Failure> {
        let wrong = |file: &str, why: String| {
            Failure::failing(format!("{}: {why}", path.join(file).display()))
                .next(format!("gaia check --dir {}", path.parent().unwrap_or(path).display()))
        };
        let content = |file: &str| {
            let found = files.iter().find(|other| other.name == file).map(|found| found.content.as_slice());
            found.ok_or_else(|| {
                Failure::usage(format!("{} is missing", path.join(file).display()))
                    .next(format!("gaia local init --dir {}", path.parent().unwrap_or(path).display()))
            })
        };
        let chain = |file| Certificate::chain_from_pem(content(file)?).map_err(|error| wrong(file, error.to_string()));
        let (certificates, roots) = (chain(key::TLS_CERT)?, chain(key::CA_CERT)?);
        let private = std::str::from_utf8(content(key::TLS_KEY)?).ok().and_then(|pem| PrivateKey::from_pem(pem).ok());
        let Some((leaf, issuers)) = certificates.split_first() else {
            return Err(wrong(key::TLS_CERT, "there is no certificate in it".to_owned()));
        };
        if !private.is_some_and(|private| key_matches(leaf, &private)) {
            return Err(wrong(key::TLS_KEY, "it is not the private key of tls.crt".to_owned()));
        }
        if !is_trusted(leaf, issuers, &roots, Usage::ServerAuth, now) {
            return Err(wrong(key::TLS_CERT, "ca.crt does not trust it at this time".to_owned()));
        }
        if let Some(file) = files.iter().find(|file| file.content.len() > MAX_FILE) {
            let size = file.content.len();
            return Err(wrong(&file.name, format!("it has {size} bytes, and a secret of Fly has at most {MAX_FILE}")));
        }
        Ok(Self { name: name.to_owned(), chain: certificates, roots, files })
    }

    /// The certificate.
    pub(crate) fn leaf(&self) -> &Certificate {
        // `of_files` refuses an empty chain.
        &self.chain[0]
    }

    /// The content of a file.
    pub(crate) fn content(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.content.as_slice())
    }

    /// True if the bundle trusts a presented chain.
    pub(crate) fn trusts(&self, chain: &[Certificate], now: Timestamp) -> bool {
        let Some((leaf, issuers)) = chain.split_first() else { return false };
        is_trusted(leaf, issuers, &self.roots, Usage::ServerAuth, now)
    }

    /// The input of `fly secrets import`: one line for each file of these phases, in base64 without line breaks.
    pub(crate) fn stream(&self, phases: &[Phase]) -> Zeroizing<String> {
        let mut lines = Zeroizing::new(String::new());
        for file in self.files.iter().filter(|file| phases.contains(&file.phase)) {
            let encoded = Zeroizing::new(STANDARD.encode(&*file.content));
            lines.push_str(&file.secret);
            lines.push('=');
            lines.push_str(&encoded);
            lines.push('\n');
        }
        lines
    }
}

/// Reads the services of some apps. All have the same bundle.
///
/// # Errors
/// As [`Service::read`], or if the bundles stay different.
pub(crate) fn read_all(dir: &Path, apps: &[Assignment], now: Timestamp) -> Result<BTreeMap<String, Service>, Failure> {
    for (index, one) in apps.iter().enumerate() {
        if apps[..index].iter().any(|other| other.app == one.app) {
            return Err(Failure::usage(format!(
                "--app {}={}: the app has another service already",
                one.service, one.app
            )));
        }
    }
    let services: BTreeMap<String, Service> = apps
        .iter()
        .map(|one| Ok((one.service.clone(), Service::read(dir, &one.service, now)?)))
        .collect::<Result<_, Failure>>()?;
    let mut bundles = services.values().map(|service| (service.name.as_str(), service.content(key::CA_CERT)));
    if let Some((first, bundle)) = bundles.next()
        && let Some((other, _)) = bundles.find(|other| other.1 != bundle)
    {
        let cause = format!("{}: the trust bundles of {first} and {other} differ", dir.display());
        return Err(Failure::unknown(cause).next("run the command again when the engine has written both"));
    }
    Ok(services)
}

fn is_trusted(
    leaf: &Certificate,
    issuers: &[Certificate],
    roots: &[Certificate],
    usage: Usage,
    now: Timestamp,
) -> bool {
    roots.iter().any(|root| verify_path(leaf, issuers, root, usage, now).is_ok())
}

/// The folder that has the files now: the target of `..data`, or the directory itself.
fn current(path: &Path) -> Result<PathBuf, Failure> {
    match fs::read_link(path.join("..data")) {
        Ok(target) if target.components().count() == 1 && target.is_relative() => Ok(path.join(target)),
        Ok(target) => Err(Failure::failing(format!(
            "{}: the link leads out of the directory, to {}",
            path.join("..data").display(),
            target.display()
        ))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            Ok(path.to_owned())
        }
        Err(error) => Err(cannot_read(path, &error)),
    }
}

fn files_of(folder: &Path) -> Result<Vec<File>, Failure> {
    let mut files: Vec<File> = vec![];
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, &error))? {
        names.push(entry.map_err(|error| cannot_read(folder, &error))?.file_name());
    }
    names.sort();
    for name in names {
        let Some((name, phase)) = name.to_str().and_then(|name| Some((name.to_owned(), phase_of(name)?))) else {
            continue;
        };
        let path = folder.join(&name);
        let kind = fs::symlink_metadata(&path).map_err(|error| cannot_read(&path, &error))?;
        if !kind.is_file() {
            return Err(Failure::failing(format!("{} is no regular file", path.display())));
        }
        let content = Zeroizing::new(fs::read(&path).map_err(|error| cannot_read(&path, &error))?);
        let secret = secret_name(&name);
        if let Some(other) = files.iter().find(|other| other.secret == secret) {
            let cause = format!("{} and {} would be the same secret, {secret}", other.name, path.display());
            return Err(Failure::failing(cause));
        }
        files.push(File { secret, name, phase, content });
    }
    Ok(files)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(format!("{}: there is no such service directory", path.display())),
        _ => Failure::unknown(format!("cannot read {}: {error}", path.display())),
    }
}

/// The phase of a file; none: it is not sent, as the links of other names.
fn phase_of(name: &str) -> Option<Phase> {
    match name {
        key::TLS_CERT | key::TLS_KEY | key::JWT_SIGNING_KEY | key::KID => Some(Phase::Switch),
        key::CA_CERT | key::JWKS | key::JWT_SIGNING_PUB | key::DENYLIST | key::POLICY | key::GRANTS | key::API_KEYS => {
            Some(Phase::Publish)
        }
        _ if name.starts_with("issuer-") && name.ends_with(".key") => Some(Phase::Publish),
        _ => None,
    }
}

/// The name of the secret of a file. It does not begin with `GAIA_`: the secrets are variables of the process too, and
/// services warn about those that are no settings of theirs.
fn secret_name(file: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("ETC_GAIA_{}", file.chars().map(upper).collect::<String>())
}

/// The names of the secrets of the old scripts for a service, such as `GATEWAY_CERT`.
pub(crate) fn old_names(service: &str) -> Vec<String> {
    let long = service.replace('-', "_").to_ascii_uppercase();
    let mut stems = vec![long.as_str()];
    stems.extend(long.strip_suffix("_SERVICE"));
    let mut names: Vec<String> =
        stems.into_iter().flat_map(|stem| [format!("{stem}_CERT"), format!("{stem}_KEY")]).collect();
    names.push("CA_CERT".to_owned());
    names
}

const RETRIES: usize = 5;
