//! Configuration of asset-service.

use std::path::PathBuf;

use gaia_runtime::RuntimeConfig;

/// Keeps files for whoever puts them there.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "asset-service", version)]
pub struct Config {
    /// What every service is configured by.
    #[command(flatten)]
    pub runtime: RuntimeConfig,
    /// Where objects are kept: file:///path/of/a/folder
    #[arg(long, env = "GAIA_OBJECT_STORE_URL", value_parser = store_folder)]
    pub object_store_url: PathBuf,
}

impl AsMut<RuntimeConfig> for Config {
    fn as_mut(&mut self) -> &mut RuntimeConfig {
        &mut self.runtime
    }
}

/// The folder a `file:` URL names.
fn store_folder(url: &str) -> Result<PathBuf, String> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') && path.len() > 1 && !path.contains(['%', '?', '#']) => Ok(path.into()),
        Some(_) => Err("must be file:///path with an absolute path and no %, ? or #".to_owned()),
        None if scheme == "s3" => Err("s3 is not supported yet; use file:///path".to_owned()),
        None => Err("must be file:///path".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_for_now() {
        assert_eq!(store_folder("file:///var/lib/assets"), Ok(PathBuf::from("/var/lib/assets")));
        for (url, error) in [
            ("s3://bucket/prefix", "not supported yet"),
            ("file://host/path", "absolute path"),
            ("file://relative", "absolute path"),
            ("file:///", "absolute path"),
            ("file:///a%2e", "no %"),
            ("/var/lib/assets", "must be file:///path"),
            ("", "must be file:///path"),
        ] {
            assert!(store_folder(url).unwrap_err().contains(error), "{url}");
        }
    }
}
