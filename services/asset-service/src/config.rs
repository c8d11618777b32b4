//! Configuration of asset-service.

use std::path::PathBuf;
use std::time::Duration;

use gaia_runtime::{RuntimeConfig, is_outside_address, part_of_limit};

use crate::assets::quota::Limits;
use crate::bucket::{is_bucket_name, is_prefix};

/// Stores files for users and services.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "asset-service", version)]
pub struct Config {
    /// Settings shared by all services.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Settings of the object store.
    #[command(flatten)]
    pub store: StoreConfig,
}

/// Settings of the object store.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreConfig {
    /// Location of the objects: file:///path/of/a/folder or s3://bucket/prefix
    #[arg(long, env = "GAIA_OBJECT_STORE_URL", value_parser = place)]
    pub object_store_url: Place,
    /// File with the credentials of the bucket in AWS's format; re-read for each request
    #[arg(long, env = "GAIA_OBJECT_STORE_CREDENTIALS_FILE")]
    pub object_store_credentials_file: Option<PathBuf>,
    /// Endpoint of a store other than AWS: https, or http on loopback
    #[arg(long, env = "GAIA_OBJECT_STORE_ENDPOINT", value_parser = endpoint)]
    pub object_store_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, env = "GAIA_OBJECT_STORE_REGION", default_value = "us-east-1")]
    pub object_store_region: String,
    /// File with root certificates for the store, instead of the system's
    #[arg(long, env = "GAIA_OBJECT_STORE_CA_FILE")]
    pub object_store_ca_file: Option<PathBuf>,
    /// Maximum bytes per subject, as 500Mi or 10Gi; 0: no quota
    #[arg(long, env = "GAIA_ASSETS_MAX_BYTES_PER_SUBJECT", default_value = "10Gi", value_parser = bytes)]
    pub assets_max_bytes_per_subject: u64,
    /// Maximum number of assets per subject; 0: no quota
    #[arg(long, env = "GAIA_ASSETS_MAX_COUNT_PER_SUBJECT", default_value_t = 100_000)]
    pub assets_max_count_per_subject: u64,
    /// Maximum bytes of all assets, counted in disk blocks; 0: limited by the disk only
    #[arg(long, env = "GAIA_ASSETS_MAX_BYTES", default_value = "0", value_parser = bytes)]
    pub assets_max_bytes: u64,
    /// Memory and time limits.
    #[arg(skip)]
    pub bounds: Bounds,
}

/// Memory and time limits.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Memory for all uploads: small assets, and parts of large ones until they are sent.
    pub held_bytes: usize,
    /// Time that an upload waits for memory.
    pub memory_timeout: Duration,
    /// Read timeout of requests to a bucket, and the time after the start of a request in which it is retried.
    pub bucket_silence: Duration,
}

const MIB: usize = 1024 * 1024;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // The rest is for connections, heads and bodies: see docs/services.md.
            held_bytes: part_of_limit(4, 8 * MIB..=64 * MIB),
            memory_timeout: Duration::from_secs(10),
            bucket_silence: Duration::from_secs(20),
        }
    }
}

/// Location of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A local folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(Bucket),
}

/// A bucket of S3, or of a compatible store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The name.
    pub name: String,
    /// Prefix of all objects of this service; may be empty.
    pub prefix: String,
}

impl StoreConfig {
    /// Creates a configuration with a local folder.
    #[must_use]
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            object_store_url: Place::Folder(path.into()),
            object_store_credentials_file: None,
            object_store_endpoint: None,
            object_store_region: "us-east-1".to_owned(),
            object_store_ca_file: None,
            assets_max_bytes_per_subject: 0,
            assets_max_count_per_subject: 0,
            assets_max_bytes: 0,
            bounds: Bounds::default(),
        }
    }

    /// Returns the quotas.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let limit = |number: u64| if number == 0 { u64::MAX } else { number };
        Limits {
            bytes: limit(self.assets_max_bytes_per_subject),
            assets: limit(self.assets_max_count_per_subject),
            total_bytes: limit(self.assets_max_bytes),
        }
    }
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// Parses the location of a URL.
fn place(url: &str) -> Result<Place, String> {
    if let Some(path) = url.strip_prefix("file://") {
        let is_plain = path.starts_with('/') && path.len() > 1 && !path.contains(['%', '?', '#']);
        return if is_plain {
            Ok(Place::Folder(path.into()))
        } else {
            Err("must be file:///path with an absolute path and no %, ? or #".to_owned())
        };
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err("must be file:///path or s3://bucket/prefix".to_owned());
    };
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    if !is_bucket_name(name) {
        return Err("must be s3://bucket/prefix with a bucket of 3 to 63 characters of a-z, 0-9, - and .".to_owned());
    }
    if !prefix.is_empty() && !is_prefix(prefix) {
        return Err("must be s3://bucket/prefix with a prefix of letters, digits, -, _, . and /".to_owned());
    }
    Ok(Place::Bucket(Bucket { name: name.to_owned(), prefix: prefix.to_owned() }))
}

/// Parses a number of bytes with an optional unit of Kubernetes quantities.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err("must be a number of bytes with an optional unit Ki, Mi, Gi, Ti, k, M, G or T".to_owned()),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_number);
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "must be a number of bytes, such as 10Gi".to_owned())
}

fn endpoint(url: &str) -> Result<String, String> {
    let is_one =
        url.parse().is_ok_and(|uri: http::Uri| is_outside_address(&uri) && uri.path() == "/" && uri.query().is_none());
    if is_one && !url.contains(['@', '#']) {
        Ok(url.to_owned())
    } else {
        Err("must be https, or http on loopback, without a path".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_kept_in_a_folder_or_a_bucket() {
        assert_eq!(place("file:///var/lib/assets"), Ok(Place::Folder(PathBuf::from("/var/lib/assets"))));
        let bucket =
            |name: &str, prefix: &str| Ok(Place::Bucket(Bucket { name: name.to_owned(), prefix: prefix.to_owned() }));
        assert_eq!(place("s3://my-bucket"), bucket("my-bucket", ""));
        assert_eq!(place("s3://my-bucket/"), bucket("my-bucket", ""));
        assert_eq!(place("s3://my-bucket/gaia/assets/"), bucket("my-bucket", "gaia/assets"));
        for (url, error) in [
            ("file://host/path", "absolute path"),
            ("file://relative", "absolute path"),
            ("file:///", "absolute path"),
            ("file:///a%2e", "no %"),
            ("s3://", "a bucket"),
            ("s3://A", "a bucket"),
            ("s3://user:secret@bucket/x", "a bucket"),
            ("s3://bucket/a//b", "a prefix"),
            ("s3://bucket/../x", "a prefix"),
            ("s3://bucket/a?b=c", "a prefix"),
            ("gs://bucket", "must be file:///path or s3"),
            ("/var/lib/assets", "must be file:///path"),
            ("", "must be file:///path"),
        ] {
            assert!(place(url).unwrap_err().contains(error), "{url}");
        }
    }

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        for (text, number) in [("0", 0), ("12", 12), ("10Gi", 10 << 30), ("5M", 5_000_000), ("1Ti", 1 << 40)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "Gi", "-1", "+1", "1.5Gi", "10 Gi", "10GB", "99999999999999999999", "99999999Ti", "１"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_store_of_ones_own_is_reached_by_https_or_on_this_machine() {
        for url in ["https://minio.example.com:9000", "http://127.0.0.1:9000/", "http://localhost:9000"] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in ["http://minio:9000", "https://minio/path", "https://a:b@minio", "https://minio/?a", "minio", ""] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
