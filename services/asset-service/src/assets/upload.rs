//! An upload: buffered in memory while it is small, sent to the store in parts when it is larger, and invisible until
//! it is complete.
//!
//! Buffered bytes are charged to the subject's share of the memory of all uploads, from their arrival until they are written.

use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_runtime::{MemoryReservation, SubjectMemory};
use http_body_util::BodyExt as _;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayloadMut, PutResult};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::assets::MAX_ASSET_BYTES;
use crate::assets::quota::Reservation;
use crate::error::AssetError;

/// A received asset that is not visible yet.
pub(crate) enum Arrived {
    /// The whole asset.
    Small(Pieces),
    /// The parts in the store, and the last bytes.
    Large(Parts, Pieces),
}

/// The memory for uploads of one subject.
#[derive(Debug)]
pub(crate) struct UploadMemory {
    pub(crate) memory: SubjectMemory,
    /// The size of the parts of a large asset.
    pub(crate) part_bytes: usize,
}

/// Buffered bytes, copied so that the larger buffers they arrived in are freed.
pub(crate) struct Pieces {
    bytes: PutPayloadMut,
    held: MemoryReservation,
    /// Maximum size.
    part_bytes: usize,
}

/// The parts of a large asset. Each is charged to the budget until it is sent.
pub(crate) struct Parts {
    upload: Box<dyn MultipartUpload>,
    sending: JoinSet<object_store::Result<()>>,
}

/// Receives an asset.
///
/// # Errors
/// [`AssetError::TooLarge`], [`AssetError::BodyNotArrived`], [`AssetError::Busy`], [`AssetError::QuotaExceeded`],
/// [`AssetError::StoreFull`] or [`AssetError::Store`]; uploaded data is removed.
pub(crate) async fn receive(
    store: &dyn ObjectStore,
    object: &Path,
    body: Body,
    memory: &UploadMemory,
    reservation: &mut Reservation,
) -> Result<Arrived, AssetError> {
    let mut pieces = Pieces::new(memory);
    let mut body = Arriving { body, size: 0, reservation };
    while let Some(mut piece) = body.next().await? {
        pieces.fill(&mut piece).await?;
        if !piece.is_empty() {
            let upload = store.put_multipart(object).await?;
            let mut parts = Parts { upload, sending: JoinSet::new() };
            return match parts.forward(pieces, piece, body, memory).await {
                Ok(last) => Ok(Arrived::Large(parts, last)),
                Err(error) => {
                    // The first error is returned.
                    let _ = parts.abort().await;
                    Err(error)
                }
            };
        }
    }
    Ok(Arrived::Small(pieces))
}

impl Arrived {
    /// Makes the asset visible. Returns its entity tag.
    pub(crate) async fn finish(
        self,
        store: &dyn ObjectStore,
        object: &Path,
        mode: PutMode,
    ) -> Result<Option<String>, AssetError> {
        match self {
            Self::Small(Pieces { bytes, held: _held, .. }) => {
                let options = PutOptions { mode, ..PutOptions::default() };
                let put = store.put_opts(object, bytes.freeze(), options).await;
                match put {
                    Ok(put) => Ok(put.e_tag),
                    // Another writer created it first.
                    Err(object_store::Error::AlreadyExists { .. }) => Err(AssetError::Condition),
                    Err(error) => Err(error.into()),
                }
            }
            // A multipart upload cannot be completed conditionally.
            Self::Large(parts, last) => Ok(parts.finish(last).await?.e_tag),
        }
    }

    /// Removes all uploaded data.
    pub(crate) async fn take_back(self) {
        if let Self::Large(parts, _) = self
            && let Err(error) = parts.abort().await
        {
            tracing::warn!(%error, "failed to delete the parts of an aborted upload");
        }
    }
}

impl Pieces {
    fn new(memory: &UploadMemory) -> Self {
        let UploadMemory { memory, part_bytes } = memory;
        Self { bytes: PutPayloadMut::new(), held: memory.reservation(), part_bytes: *part_bytes }
    }

    /// Appends as much of `piece` as fits into a part, and leaves the rest.
    async fn fill(&mut self, piece: &mut Bytes) -> Result<(), AssetError> {
        let taken = piece.split_to(piece.len().min(self.part_bytes - self.bytes.content_length()));
        self.held.grow(taken.len()).await?;
        self.bytes.extend_from_slice(&taken);
        Ok(())
    }
}

impl Parts {
    /// Sends the body in parts, and returns the last bytes.
    async fn forward(
        &mut self,
        mut pieces: Pieces,
        mut piece: Bytes,
        mut body: Arriving<'_>,
        memory: &UploadMemory,
    ) -> Result<Pieces, AssetError> {
        loop {
            while !piece.is_empty() {
                // A part is sent when there are more bytes than fit into it.
                if pieces.bytes.content_length() == pieces.part_bytes {
                    self.wait_for(PARTS_IN_FLIGHT - 1).await?;
                    self.send(std::mem::replace(&mut pieces, Pieces::new(memory)));
                }
                pieces.fill(&mut piece).await?;
            }
            let Some(next) = body.next().await? else { return Ok(pieces) };
            piece = next;
        }
    }

    fn send(&mut self, Pieces { bytes, held, .. }: Pieces) {
        let part = self.upload.put_part(bytes.freeze());
        self.sending.spawn(async move {
            let sent = part.await;
            drop(held);
            sent
        });
    }

    /// Waits until at most `left` parts are being sent.
    async fn wait_for(&mut self, left: usize) -> object_store::Result<()> {
        while self.sending.len() > left
            && let Some(sent) = self.sending.join_next().await
        {
            sent??;
        }
        Ok(())
    }

    async fn finish(mut self, last: Pieces) -> object_store::Result<PutResult> {
        self.send(last);
        let finished = match self.wait_for(0).await {
            Ok(()) => self.upload.complete().await,
            Err(error) => Err(error),
        };
        if finished.is_err() {
            // The first error is returned.
            let _ = self.abort().await;
        }
        finished
    }

    async fn abort(mut self) -> object_store::Result<()> {
        self.sending.shutdown().await;
        self.upload.abort().await
    }
}

/// A request body being received.
struct Arriving<'a> {
    body: Body,
    size: u64,
    reservation: &'a mut Reservation,
}

impl Arriving<'_> {
    /// Returns the next bytes, for which space is reserved.
    async fn next(&mut self) -> Result<Option<Bytes>, AssetError> {
        loop {
            let frame = timeout(PIECE_TIMEOUT, self.body.frame()).await.map_err(|_| AssetError::BodyNotArrived)?;
            let Some(frame) = frame else { return Ok(None) };
            let Ok(piece) = frame.map_err(|_| AssetError::BodyNotArrived)?.into_data() else { continue };
            self.size = self.size.saturating_add(piece.len() as u64);
            if self.size > MAX_ASSET_BYTES {
                return Err(AssetError::TooLarge);
            }
            self.reservation.received(piece.len() as u64).await?;
            return Ok(Some(piece));
        }
    }
}

const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
const PARTS_IN_FLIGHT: usize = 2;
