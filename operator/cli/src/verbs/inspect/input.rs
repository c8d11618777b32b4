//! Inputs: files, stdin, objects of the source, and servers.

use std::path::Path;

use gaia_api::names::key;
use zeroize::Zeroizing;

use super::tls;
use crate::source::{DataKind, Source, directory};
use crate::{Console, Failure};

/// The content of an input.
pub(super) enum Content {
    /// The bytes of a file or of a key of an object.
    Bytes(Zeroizing<Vec<u8>>),
    /// The chain that a server presented, in DER.
    Chain(Vec<Vec<u8>>),
    /// Keys of an object, by name.
    Keys(Vec<(String, Zeroizing<Vec<u8>>)>),
}

/// The keys of objects that are decoded.
const KEYS: [&str; 5] = [key::TLS_CERT, key::CA_CERT, key::JWKS, key::JWT_SIGNING_PUB, key::API_KEYS];

/// Reads an input.
pub(super) async fn read(input: &str, source: Option<&Source>, console: &mut Console) -> Result<Content, Failure> {
    if let Some(address) = input.strip_prefix("tls://") {
        return tls::presented_chain(address).await.map(Content::Chain);
    }
    for (prefix, kind) in [("secret/", DataKind::Secret), ("configmap/", DataKind::ConfigMap)] {
        if let Some(name) = input.strip_prefix(prefix) {
            return object(input, kind, name, source).await;
        }
    }
    let read = match input {
        "-" => directory::read_stream(&mut console.stdin),
        path => directory::read_bounded(Path::new(path)),
    };
    let bytes = read.map_err(|error| Failure::usage(format!("cannot read {input}: {error}")))?;
    Ok(Content::Bytes(bytes))
}

async fn object(input: &str, kind: DataKind, name: &str, source: Option<&Source>) -> Result<Content, Failure> {
    let Some(source) = source else {
        return Err(Failure::usage(format!("{input}: the objects of which platform?"))
            .next(format!("gaia inspect {input} --dir certs")));
    };
    let mut found = source.data_names(kind).await?;
    let (namespace, plain) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    found.retain(|(space, found)| found == plain && namespace.is_none_or(|wanted| wanted == space));
    let (namespace, name) = match found.as_slice() {
        [one] => one,
        [] => {
            return Err(Failure::usage(format!("{}: there is no {input}", source.name()))
                .next(format!("gaia status --dir {} lists the services", source.name())));
        }
        many => {
            let names: Vec<String> = many.iter().map(|(space, name)| format!("{space}/{name}")).collect();
            return Err(Failure::usage(format!("{input} is in several namespaces: {}", names.join(", ")))
                .next("name it with its namespace: secret/NAMESPACE/NAME"));
        }
    };
    let data = source.data(kind, namespace, name, &KEYS).await?;
    let keys: Vec<_> = data.into_iter().flatten().collect();
    if keys.is_empty() {
        return Err(Failure::usage(format!("{input} has none of the keys that can be decoded: {}", KEYS.join(", "))));
    }
    Ok(Content::Keys(keys))
}
