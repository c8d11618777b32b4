//! Recognition of the tree that the old scripts made.
//!
//! In: a [`Listing`] and the time. Out: the files that Gaia did not write, and the CA and the signing key with all
//! faults that keep them from being adopted. Nothing is read or written here.

use gaia_pki::{Ca, Jwk, JwkError, PrivateKey, PublicKey, SigningAlgorithm};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::listing::{Entry, Listing};

/// The origin of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TreeForm {
    /// `ca.key`: made by `setup-dev-ca.sh` and its like.
    Scripts,
    /// `ca-key.pem`: made by hand, by the guide.
    Guide,
}

impl TreeForm {
    /// The file of the CA's private key.
    #[must_use]
    pub(crate) const fn ca_key_file(self) -> &'static str {
        match self {
            Self::Scripts => "ca.key",
            Self::Guide => "ca-key.pem",
        }
    }
}

/// A file that Gaia did not write and whose path it needs, or that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignFile {
    /// Its path below the directory.
    pub(crate) path: String,
    /// The content, by its name.
    pub(crate) what: &'static str,
}

/// The reason why a tree cannot be adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TreeFault {
    /// The path below the directory.
    pub(crate) path: String,
    /// The cause.
    pub(crate) why: String,
    /// The next step.
    pub(crate) next: String,
}

/// A tree that can be adopted.
#[derive(Debug, Clone)]
pub(crate) struct OldTree {
    pub(crate) form: TreeForm,
    pub(crate) ca: Ca,
    /// None: the platform had certificates and no tokens yet.
    pub(crate) signing_key: Option<SigningKey>,
    /// The services that have a folder with a certificate or key.
    pub(crate) services: Vec<String>,
    /// Facts that do not prevent the adoption and that the user must know.
    pub(crate) warnings: Vec<String>,
}

/// The key that signed service tokens.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    pub(crate) key: PrivateKey,
    pub(crate) jwk: Jwk,
}

/// The files that Gaia did not write. Empty: the directory is Gaia's, or has nothing of an old tree.
pub(crate) fn foreign(listing: &Listing) -> Vec<ForeignFile> {
    if listing.contains_key(OBJECTS) { vec![] } else { old_files(listing) }
}

/// The files with names of the old tree. Where Gaia has written, those of services are its own.
fn old_files(listing: &Listing) -> Vec<ForeignFile> {
    let service_files: &[_] = if listing.contains_key(OBJECTS) { &[] } else { &SERVICE_FILES };
    let what_is = |path: &str| {
        let (name, known) =
            path.split_once('/').map_or((path, ROOT_FILES.as_slice()), |(_, name)| (name, service_files));
        known.iter().find(|(known, _)| *known == name).map(|(_, what)| *what)
    };
    let files = listing.iter().filter(|(_, entry)| **entry != Entry::Folder);
    files.filter_map(|(path, _)| Some(ForeignFile { path: path.clone(), what: what_is(path)? })).collect()
}

/// The folders that hold the certificate or key of a service.
pub(crate) fn services(listing: &Listing) -> Vec<String> {
    let folders = listing.iter().filter(|(path, entry)| **entry == Entry::Folder && !path.contains('/'));
    let holds = |folder: &str| SERVICE_FILES.iter().any(|(file, _)| listing.contains_key(&format!("{folder}/{file}")));
    folders.map(|(path, _)| path.clone()).filter(|path| holds(path)).collect()
}

/// The CA and the signing key of an old tree.
///
/// # Errors
/// All faults, not only the first one.
pub(crate) fn recognise(listing: &Listing, now: Timestamp) -> Result<OldTree, Vec<TreeFault>> {
    let mut faults = unsafe_entries(listing);
    let mut warnings = readable_keys(listing);
    let ca = note(ca(listing, now, &mut warnings), &mut faults);
    let signing_key = note(signing_key(listing), &mut faults);
    match (ca, signing_key) {
        (Some((form, ca)), Some(signing_key)) if faults.is_empty() => {
            if signing_key.is_none() {
                warnings.push(format!("{SIGNING_KEY} does not exist: a new signing key is generated"));
            }
            Ok(OldTree { form, ca, signing_key, services: services(listing), warnings })
        }
        _ => Err(faults),
    }
}

fn note<T>(found: Result<T, Vec<TreeFault>>, faults: &mut Vec<TreeFault>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(found) => {
            faults.extend(found);
            None
        }
    }
}

/// Links, and files that other users may change.
fn unsafe_entries(listing: &Listing) -> Vec<TreeFault> {
    let mut faults = vec![];
    for file in old_files(listing) {
        let path = file.path;
        match listing.get(&path) {
            Some(Entry::Link) => {
                let next = format!(
                    "replace the link by the file that it names: `cp --remove-destination \"$(realpath {path})\" {path}`"
                );
                faults.push(fault(&path, "it is a link, and only links that Gaia made are followed", next));
            }
            Some(Entry::Other) => faults.push(fault(&path, "it must be a regular file", "remove it")),
            Some(Entry::File { mode, .. }) if mode & 0o022 != 0 => {
                let why = format!("its mode {mode:04o} lets other users change it");
                let next = format!("check its content, then `chmod go-w {path}`");
                faults.push(fault(&path, why, next));
            }
            Some(Entry::File { .. } | Entry::Folder) | None => {}
        }
    }
    for folder in SERVICES {
        if listing.get(folder) == Some(&Entry::Link) {
            faults.push(fault(folder, "it is a link, and only links that Gaia made are followed", "make it a folder"));
        }
    }
    faults
}

/// Keys that other users may read. They are replaced by `rotate`, which is the remedy.
fn readable_keys(listing: &Listing) -> Vec<String> {
    let keys = old_files(listing).into_iter().filter(|file| file.what.starts_with(PRIVATE));
    let readable = keys.filter_map(|file| match listing.get(&file.path) {
        Some(Entry::File { mode, .. }) if mode & 0o044 != 0 => {
            Some(format!("{}: its mode {mode:04o} lets other users read the {}", file.path, file.what))
        }
        _ => None,
    });
    readable.collect()
}

fn ca(listing: &Listing, now: Timestamp, warnings: &mut Vec<String>) -> Result<(TreeForm, Ca), Vec<TreeFault>> {
    let forms = [TreeForm::Scripts, TreeForm::Guide].map(|form| (form, listing.get(form.ca_key_file())));
    let keys: Vec<_> = forms.into_iter().filter_map(|(form, entry)| Some((form, entry?))).collect();
    let mut faults = vec![];
    if keys.is_empty() {
        let why = "it is missing, and ca-key.pem too: without the CA's key no certificate can be issued that the old services accept";
        faults.push(fault(
            CA_KEY,
            why,
            "copy the key here from where the certificates were made, or start with an empty directory",
        ));
    }
    if !listing.contains_key(CA) {
        faults.push(fault(CA, "it is missing", "copy the CA's certificate here from a service"));
    }
    let Some(certificate) = content(listing, CA) else {
        faults.extend(listing.contains_key(CA).then(|| unread(CA)));
        return Err(faults);
    };
    let mut found = vec![];
    for (form, _) in keys {
        let file = form.ca_key_file();
        let Some(key) = content(listing, file).and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
            faults.push(unread(file));
            continue;
        };
        match Ca::from_pem(certificate, key, None, now) {
            Ok(ca) => found.push((form, ca)),
            Err(error) => {
                faults.push(fault(if is_about_key(&error) { file } else { CA }, error.to_string(), ca_next(&error)));
            }
        }
    }
    let mut found = found.into_iter();
    match found.next() {
        // The key of another CA next to it is not used.
        Some((form, ca)) => {
            warnings.extend(faults.iter().map(|other| format!("{} is not used: {}", other.path, other.why)));
            warnings.extend(
                found.map(|(form, _)| format!("{} is not used: it is a second copy of the key", form.ca_key_file())),
            );
            Ok((form, ca))
        }
        None => Err(faults),
    }
}

fn is_about_key(error: &gaia_pki::CaError) -> bool {
    matches!(error, gaia_pki::CaError::Key(_) | gaia_pki::CaError::KeyMismatch { .. })
}

fn ca_next(error: &gaia_pki::CaError) -> &'static str {
    match error {
        gaia_pki::CaError::Expired { .. } => {
            "no client accepts its certificates any more, so nothing is kept by adopting it: run `gaia local init` in an \
             empty directory"
        }
        gaia_pki::CaError::NotYetValid { .. } => "correct the clock of this machine",
        gaia_pki::CaError::Key(gaia_pki::KeyError::Encrypted) => {
            "decrypt it with `openssl rsa`, and remove it again after the adoption"
        }
        gaia_pki::CaError::KeyMismatch { .. } => "copy the key that belongs to ca.pem here",
        _ => "run `gaia local init` in an empty directory, and move callers there",
    }
}

fn signing_key(listing: &Listing) -> Result<Option<SigningKey>, Vec<TreeFault>> {
    let public = match listing.contains_key(SIGNING_PUB) {
        true => Some(content(listing, SIGNING_PUB).ok_or_else(|| vec![unread(SIGNING_PUB)])?),
        false => None,
    };
    if !listing.contains_key(SIGNING_KEY) {
        return match public {
            None => Ok(None),
            Some(_) => {
                let why = format!(
                    "it is missing although {SIGNING_PUB} exists: tokens could not be signed by the key that the old services accept"
                );
                Err(vec![fault(
                    SIGNING_KEY,
                    why,
                    format!("copy the key here, or remove {SIGNING_PUB} to generate a new one"),
                )])
            }
        };
    }
    let text = content(listing, SIGNING_KEY).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| vec![unread(SIGNING_KEY)])?;
    let refused = |why: String, next: &str| vec![fault(SIGNING_KEY, why, next)];
    let key = PrivateKey::from_pem(text).map_err(|error| refused(error.to_string(), "restore the key"))?;
    let jwk =
        jwk(&key).map_err(|error| refused(error.to_string(), "remove it and jwt-signing.pub to generate a new one"))?;
    let found = public.map(|bytes| PublicKey::from_pem(&String::from_utf8_lossy(bytes)));
    match found {
        Some(Err(error)) => Err(vec![fault(SIGNING_PUB, error.to_string(), public_next())]),
        Some(Ok(public)) if public != key.public_key() => {
            Err(vec![fault(SIGNING_PUB, format!("it is not the public key of {SIGNING_KEY}"), public_next())])
        }
        Some(Ok(_)) | None => Ok(Some(SigningKey { key, jwk })),
    }
}

fn public_next() -> String {
    format!("`openssl rsa -in {SIGNING_KEY} -pubout -out {SIGNING_PUB}` if {SIGNING_KEY} is the key in use")
}

fn jwk(key: &PrivateKey) -> Result<Jwk, JwkError> {
    let algorithm = if key.spec().is_rsa() { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 };
    Jwk::from_public_key(&key.public_key(), algorithm)
}

fn content<'a>(listing: &'a Listing, path: &str) -> Option<&'a Zeroizing<Vec<u8>>> {
    match listing.get(path) {
        Some(Entry::File { content, .. }) => content.as_ref().map(|content| &content.0),
        _ => None,
    }
}

fn unread(path: &str) -> TreeFault {
    fault(path, "it cannot be read as a text file", "run the command as the user who owns it")
}

fn fault(path: &str, why: impl Into<String>, next: impl Into<String>) -> TreeFault {
    TreeFault { path: path.to_owned(), why: why.into(), next: next.into() }
}

/// Present once Gaia has written to the directory.
const OBJECTS: &str = ".gaia/objects";
pub(super) const CA: &str = "ca.pem";
const CA_KEY: &str = TreeForm::Scripts.ca_key_file();
pub(super) const SIGNING_KEY: &str = "jwt-signing.key";
const SIGNING_PUB: &str = "jwt-signing.pub";
const PRIVATE: &str = "private key";
/// The names of the old tree at its root.
pub(crate) const ROOT_FILES: [(&str, &str); 6] = [
    (CA_KEY, "private key of the CA"),
    (TreeForm::Guide.ca_key_file(), "private key of the CA"),
    (CA, "certificate of the CA"),
    ("ca.srl", "serial number of the CA's last certificate"),
    (SIGNING_KEY, "private key that signs tokens"),
    (SIGNING_PUB, "public key of tokens"),
];
/// The names of the old tree in the folder of a service.
pub(crate) const SERVICE_FILES: [(&str, &str); 5] = [
    ("cert.pem", "certificate"),
    ("key.pem", "private key"),
    ("ca.pem", "certificate of the CA"),
    ("tls.crt", "certificate"),
    ("tls.key", "private key"),
];
/// The services of the old platform.
const SERVICES: [&str; 5] = ["gateway", "auth-service", "asset-service", "chat-service", "web-service"];

#[cfg(test)]
mod tests;
