//! Entity tags of files in a folder.
//!
//! The store's own tags contain the inode, which reveals information about other files. These are a hash of path, time
//! and size. They are the same for each instance on the folder, and after a restart or a restore.

use std::path::Path;
use std::time::{Duration, SystemTime};

use gaia_auth::sha256_hex;
use object_store::ObjectMeta;

/// Returns the entity tag of a file.
pub(crate) fn of_file(meta: &ObjectMeta) -> String {
    let modified = meta.last_modified.timestamp_nanos_opt().unwrap_or_else(|| meta.last_modified.timestamp());
    let state = format!("gaia etag\n{}\n{modified}\n{}", meta.location, meta.size);
    format!("\"{}\"", &sha256_hex(state.as_bytes())[..32])
}

/// Gives a file that replaced `before` a later modification time if the file system's clock, with ticks of some
/// milliseconds, has assigned the same time to both. Returns the new metadata.
pub(crate) async fn tell_apart(file: &Path, before: Option<&ObjectMeta>, mut meta: ObjectMeta) -> ObjectMeta {
    let Some(before) = before.filter(|before| before.size == meta.size && before.last_modified >= meta.last_modified)
    else {
        return meta;
    };
    let later = SystemTime::from(before.last_modified) + Duration::from_micros(1);
    let file = file.to_owned();
    let set = move || std::fs::File::options().write(true).open(file)?.set_modified(later);
    match tokio::task::spawn_blocking(set).await {
        Ok(Ok(())) => meta.last_modified = later.into(),
        Ok(Err(error)) => tracing::warn!(%error, "failed to set the modification time of a file"),
        Err(error) => tracing::warn!(%error, "failed to set the modification time of a file"),
    }
    meta
}
