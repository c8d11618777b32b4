//! A directory that `gaia local` operates, for reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Data, DataKind, Listed, MAX_INPUT_BYTES, Resource, Unreadable};
use crate::Failure;

/// The folder of the engine's own files.
pub(crate) const OWN: &str = ".gaia";
/// The folder of objects without a namespace.
const CLUSTER: &str = "_";

/// A directory that `gaia local` operates.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
}

/// The parts of a Secret or ConfigMap that are read. The content of a Secret is in memory that is wiped.
#[derive(Deserialize)]
struct DataObject {
    #[serde(default)]
    data: BTreeMap<String, Zeroizing<String>>,
}

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// If it is none, or if `gaia local` does not operate it.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let own = path.join(OWN);
        match std::fs::read_dir(&own) {
            Ok(_) => Ok(Self { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::usage(format!("--dir {}: there is no {}", path.display(), own.display()))
                    .next(format!("gaia local init --dir {}", path.display())))
            }
            Err(error) => Err(cannot_read(&own, &error)),
        }
    }

    /// The path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn list<K: Resource>(&self) -> Result<Listed<K>, Failure> {
        let mut listed = Listed { objects: vec![], unreadable: vec![] };
        for (namespace, name) in self.names(K::PLURAL)? {
            let file = self.file(K::PLURAL, &namespace, &name);
            let text = read_bounded(&file).map_err(|error| cannot_read(&file, &error))?;
            // An error of the parser can quote what it found.
            match serde_json::from_slice(&text) {
                Ok(object) => listed.objects.push(object),
                Err(error) => listed.unreadable.push(Unreadable {
                    object: file.display().to_string(),
                    why: format!("no {} (line {}, column {})", K::KIND, error.line(), error.column()),
                }),
            }
        }
        Ok(listed)
    }

    pub(super) fn data(
        &self,
        kind: DataKind,
        namespace: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Option<Data>, Failure> {
        let file = self.file(kind.plural(), namespace, name);
        let text = match read_bounded(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_read(&file, &error)),
        };
        let unreadable = |why: &str| {
            Failure::unknown(format!("{}: {why}", file.display()))
                .next("gaia local run --once repairs what can be repaired; else restore a backup")
        };
        let object: DataObject =
            serde_json::from_slice(&text).map_err(|_| unreadable("not a JSON object with data"))?;
        let mut content = Data::new();
        for (key, value) in object.data.into_iter().filter(|(key, _)| keys.contains(&key.as_str())) {
            let bytes = match kind {
                DataKind::ConfigMap => value.as_bytes().to_vec(),
                DataKind::Secret => {
                    STANDARD.decode(value.as_bytes()).map_err(|_| unreadable(&format!("data.{key} is not base64")))?
                }
            };
            content.insert(key, Zeroizing::new(bytes));
        }
        Ok(Some(content))
    }

    /// Namespace (empty: none) and name of all objects of a kind, sorted.
    pub(super) fn names(&self, plural: &str) -> Result<Vec<(String, String)>, Failure> {
        let kind = self.path.join(OWN).join("objects").join(plural);
        let mut names = vec![];
        for namespace in entries(&kind)? {
            for file in entries(&kind.join(&namespace))? {
                if let Some(name) = file.strip_suffix(".json").filter(|name| !name.starts_with('.')) {
                    let namespace = if namespace == CLUSTER { String::new() } else { namespace.clone() };
                    names.push((namespace, name.to_owned()));
                }
            }
        }
        Ok(names)
    }

    fn file(&self, plural: &str, namespace: &str, name: &str) -> PathBuf {
        let namespace = if namespace.is_empty() { CLUSTER } else { namespace };
        self.path.join(OWN).join("objects").join(plural).join(namespace).join(format!("{name}.json"))
    }
}

/// Reads a file of at most [`MAX_INPUT_BYTES`], into memory that is wiped.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_stream(&mut File::open(path)?)
}

/// Reads a stream of at most [`MAX_INPUT_BYTES`], into memory that is wiped.
pub(crate) fn read_stream(stream: &mut dyn io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    stream.take(MAX_INPUT_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_INPUT_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_INPUT_BYTES} bytes")));
    }
    Ok(text)
}

/// The failure for a file or folder that the system refuses.
pub(crate) fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::unknown(format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.next("run the command as the user who owns the directory"),
        _ => failure,
    }
}

/// The names in a folder, sorted; none if it does not exist, or is a file.
fn entries(folder: &Path) -> Result<Vec<String>, Failure> {
    let found = match std::fs::read_dir(folder) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(cannot_read(folder, &error)),
    };
    let mut names = vec![];
    for entry in found {
        let entry = entry.map_err(|error| cannot_read(folder, &error))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
