//! Assets in a bucket of S3, or of a compatible store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use gaia_runtime::{OutsideClientError, outside_client};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::client::{HttpClient, HttpConnector};
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, CredentialProvider, ObjectStore, RetryConfig};
use zeroize::Zeroizing;

use crate::config::{Bucket, StoreConfig};

/// Reason why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// No file with credentials is configured.
    #[error("a bucket needs credentials: set GAIA_OBJECT_STORE_CREDENTIALS_FILE")]
    NoCredentialsFile,
    /// The file is malformed. Its contents are not part of the error.
    #[error("{path} (GAIA_OBJECT_STORE_CREDENTIALS_FILE) {what}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Description of the fault.
        what: String,
    },
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Client(#[from] OutsideClientError),
    /// The store rejects its configuration.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Opens a bucket without sending a request.
///
/// # Errors
/// [`BucketError`] if the credentials cannot be read or the store rejects its configuration.
pub(crate) fn open(bucket: &Bucket, config: &StoreConfig) -> Result<Arc<dyn ObjectStore>, BucketError> {
    let path = config.object_store_credentials_file.clone().ok_or(BucketError::NoCredentialsFile)?;
    let credentials = MountedCredentials { path };
    credentials.read()?;
    let patience = config.bounds.bucket_silence;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&config.object_store_region)
        .with_http_connector(Connector(outside_client(config.object_store_ca_file.as_deref(), Some(patience))?))
        .with_credentials(Arc::new(credentials))
        // Some stores do not support this request.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig { max_retries: MAX_RETRIES, retry_timeout: patience, ..RetryConfig::default() });
    if let Some(endpoint) = &config.object_store_endpoint {
        // Only loopback endpoints can be http, which the configuration ensures.
        builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(true);
    }
    let store = builder.build()?;
    Ok(match bucket.prefix.as_str() {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    })
}

/// Credentials from a mounted file, re-read for each request so that a replaced file takes effect without a restart.
struct MountedCredentials {
    path: PathBuf,
}

impl MountedCredentials {
    fn read(&self) -> Result<AwsCredential, BucketError> {
        let failed = |what: String| BucketError::Credentials { path: self.path.clone(), what };
        let text = std::fs::read_to_string(&self.path).map(Zeroizing::new);
        let text = text.map_err(|error| failed(format!("cannot be read: {error}")))?;
        parse(&text).map_err(|what| failed(what.to_owned()))
    }
}

/// Parses AWS's credentials file: one profile, lines `name = value`.
fn parse(text: &str) -> Result<AwsCredential, &'static str> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut profiles = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            profiles += 1;
            continue;
        }
        let (name, value) = line.split_once('=').ok_or("has a line that is not `name = value`")?;
        let field = match name.trim() {
            "aws_access_key_id" => &mut key_id,
            "aws_secret_access_key" => &mut secret_key,
            "aws_session_token" => &mut token,
            _ => return Err("has a name other than aws_access_key_id, aws_secret_access_key, aws_session_token"),
        };
        if field.replace(value.trim().to_owned()).is_some() || profiles > 1 {
            return Err("must have one profile, and each name once");
        }
    }
    let key_id = key_id.filter(|value| !value.is_empty()).ok_or("has no aws_access_key_id")?;
    let secret_key = secret_key.filter(|value| !value.is_empty()).ok_or("has no aws_secret_access_key")?;
    Ok(AwsCredential { key_id, secret_key, token: token.filter(|value| !value.is_empty()) })
}

impl fmt::Debug for MountedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountedCredentials").field("path", &self.path).finish()
    }
}

impl CredentialProvider for MountedCredentials {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(&'a self) -> BoxFuture<'b, object_store::Result<Arc<AwsCredential>>>
    where
        'a: 'b,
        Self: 'b,
    {
        let failed = |error: BucketError| object_store::Error::Generic { store: "S3", source: error.into() };
        Box::pin(std::future::ready(self.read().map(Arc::new).map_err(failed)))
    }
}

/// Makes the store use our HTTP client: without proxies, redirects, and certificates from the environment. The client
/// options of the store are ignored; the client sets its own timeouts.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Returns true for a valid bucket name, without characters that have a meaning in a URL.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (3..=63).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.contains("..")
        && !name.starts_with(['-', '.'])
}

/// Returns true for a valid prefix of plain segments.
pub(crate) fn is_prefix(prefix: &str) -> bool {
    let is_plain = |segment: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(is_plain)
    };
    Path::new(prefix).is_relative() && prefix.split('/').all(is_plain)
}

const MAX_RETRIES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_one_profile_of_awss_file() {
        let found = parse("# by hand\n[default]\naws_access_key_id = AK\naws_secret_access_key=s=e/c+\n\n").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token), ("AK", "s=e/c+", None));
        let temporary = "aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c";
        assert_eq!(parse(temporary).unwrap().token.as_deref(), Some("c"));
        for (text, what) in [
            ("", "no aws_access_key_id"),
            ("aws_access_key_id=a", "no aws_secret_access_key"),
            ("aws_access_key_id=a\naws_secret_access_key=", "no aws_secret_access_key"),
            ("AKIA123", "not `name = value`"),
            ("region=eu", "a name other than"),
            ("[a]\naws_access_key_id=a\n[b]\naws_secret_access_key=b", "one profile"),
            ("aws_access_key_id=a\naws_access_key_id=b", "each name once"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
