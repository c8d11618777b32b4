//! An asset on its way in: held here while it is small, in parts in the store once it is not, and nowhere to be seen
//! before all of it has arrived.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart};
use tokio::time::timeout;

use crate::assets::{AssetError, MAX_ASSET_BYTES};

/// An asset that has arrived, and is not there yet.
pub(crate) enum Arrived {
    /// All of it.
    Small(Vec<Bytes>),
    /// The parts in the store.
    Large(WriteMultipart),
}

/// Receives an asset.
///
/// # Errors
/// [`AssetError::TooLarge`], [`AssetError::BodyNotArrived`] or [`AssetError::Store`]; what was written is taken back.
pub(crate) async fn receive(store: &dyn ObjectStore, object: &Path, mut body: Body) -> Result<Arrived, AssetError> {
    let mut pieces = Vec::new();
    let mut size = 0;
    while let Some(piece) = next(&mut body, &mut size).await? {
        pieces.push(piece);
        if size > SMALL_BYTES {
            let mut writer = WriteMultipart::new(store.put_multipart(object).await?);
            return match forward(&mut writer, pieces, body, size).await {
                Ok(()) => Ok(Arrived::Large(writer)),
                Err(error) => {
                    // The first error is the one to tell of.
                    let _ = writer.abort().await;
                    Err(error)
                }
            };
        }
    }
    Ok(Arrived::Small(pieces))
}

impl Arrived {
    /// Lets it be there. Returns its entity tag.
    pub(crate) async fn finish(
        self,
        store: &dyn ObjectStore,
        object: &Path,
        mode: PutMode,
    ) -> Result<Option<String>, AssetError> {
        match self {
            Self::Small(pieces) => {
                let options = PutOptions { mode, ..PutOptions::default() };
                let put = store.put_opts(object, PutPayload::from_iter(pieces), options).await;
                match put {
                    Ok(put) => Ok(put.e_tag),
                    // Somebody else was faster.
                    Err(object_store::Error::AlreadyExists { .. }) => Err(AssetError::Condition),
                    Err(error) => Err(error.into()),
                }
            }
            // Parts cannot be joined on a condition.
            Self::Large(writer) => Ok(writer.finish().await?.e_tag),
        }
    }

    /// Lets nothing of it remain.
    pub(crate) async fn take_back(self) {
        if let Self::Large(writer) = self
            && let Err(error) = writer.abort().await
        {
            tracing::warn!(%error, "the parts of an upload that came to nothing could not be deleted");
        }
    }
}

async fn forward(
    writer: &mut WriteMultipart,
    pieces: Vec<Bytes>,
    mut body: Body,
    mut size: u64,
) -> Result<(), AssetError> {
    for piece in pieces {
        writer.wait_for_capacity(PARTS_IN_FLIGHT).await?;
        writer.put(piece);
    }
    while let Some(piece) = next(&mut body, &mut size).await? {
        writer.wait_for_capacity(PARTS_IN_FLIGHT).await?;
        writer.put(piece);
    }
    Ok(())
}

/// The next piece of a body whose pieces so far have `size` bytes.
async fn next(body: &mut Body, size: &mut u64) -> Result<Option<Bytes>, AssetError> {
    loop {
        let frame = timeout(PIECE_TIMEOUT, body.frame()).await.map_err(|_| AssetError::BodyNotArrived)?;
        let Some(frame) = frame else { return Ok(None) };
        let Ok(piece) = frame.map_err(|_| AssetError::BodyNotArrived)?.into_data() else { continue };
        *size = size.saturating_add(piece.len() as u64);
        return if *size > MAX_ASSET_BYTES { Err(AssetError::TooLarge) } else { Ok(Some(piece)) };
    }
}

const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
const PARTS_IN_FLIGHT: usize = 2;
/// The least that a bucket takes as a part.
const SMALL_BYTES: u64 = 5 * 1024 * 1024;
