//! An asset on its way in: held here while it is small, in parts in the store once it is not, and nowhere to be seen
//! before all of it has arrived.
//!
//! What is held here is held in the [`Room`] that all uploads share: each byte from when it comes until it is written.

use std::time::Duration;

use axum::body::{Body, Bytes};
use gaia_runtime::{Held, Room};
use http_body_util::BodyExt as _;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayloadMut, PutResult};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::assets::MAX_ASSET_BYTES;
use crate::error::AssetError;
use crate::quota::Reservation;

/// An asset that has arrived, and is not there yet.
pub(crate) enum Arrived {
    /// All of it.
    Small(Pieces),
    /// The parts in the store, and the last pieces.
    Large(Parts, Pieces),
}

/// Bytes in a row, which take no more memory than they have room for: whatever they came in is not kept.
pub(crate) struct Pieces {
    bytes: PutPayloadMut,
    held: Held,
}

/// The parts of a large asset. Each takes room until it is sent.
pub(crate) struct Parts {
    upload: Box<dyn MultipartUpload>,
    sending: JoinSet<object_store::Result<()>>,
}

/// Receives an asset.
///
/// # Errors
/// [`AssetError::TooLarge`], [`AssetError::BodyNotArrived`], [`AssetError::Busy`], [`AssetError::QuotaExceeded`],
/// [`AssetError::StoreFull`] or [`AssetError::Store`]; what was written is taken back.
pub(crate) async fn receive(
    store: &dyn ObjectStore,
    object: &Path,
    body: Body,
    room: &Room,
    reservation: &mut Reservation,
) -> Result<Arrived, AssetError> {
    let mut pieces = Pieces::new(room);
    let mut body = Arriving { body, size: 0, reservation };
    while let Some(mut piece) = body.next().await? {
        pieces.fill(&mut piece).await?;
        if !piece.is_empty() {
            let upload = store.put_multipart(object).await?;
            let mut parts = Parts { upload, sending: JoinSet::new() };
            return match parts.forward(pieces, piece, body, room).await {
                Ok(last) => Ok(Arrived::Large(parts, last)),
                Err(error) => {
                    // The first error is the one to tell of.
                    let _ = parts.abort().await;
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
            Self::Small(Pieces { bytes, held: _held }) => {
                let options = PutOptions { mode, ..PutOptions::default() };
                let put = store.put_opts(object, bytes.freeze(), options).await;
                match put {
                    Ok(put) => Ok(put.e_tag),
                    // Somebody else was faster.
                    Err(object_store::Error::AlreadyExists { .. }) => Err(AssetError::Condition),
                    Err(error) => Err(error.into()),
                }
            }
            // Parts cannot be joined on a condition.
            Self::Large(parts, last) => Ok(parts.finish(last).await?.e_tag),
        }
    }

    /// Lets nothing of it remain.
    pub(crate) async fn take_back(self) {
        if let Self::Large(parts, _) = self
            && let Err(error) = parts.abort().await
        {
            tracing::warn!(%error, "the parts of an upload that came to nothing could not be deleted");
        }
    }
}

impl Pieces {
    fn new(room: &Room) -> Self {
        Self { bytes: PutPayloadMut::new(), held: room.hold() }
    }

    /// Takes as much of `piece` as there may be in a part, and leaves the rest.
    async fn fill(&mut self, piece: &mut Bytes) -> Result<(), AssetError> {
        let taken = piece.split_to(piece.len().min(PART_BYTES - self.bytes.content_length()));
        self.held.grow(taken.len()).await?;
        self.bytes.extend_from_slice(&taken);
        Ok(())
    }
}

impl Parts {
    /// Sends what comes in parts, and gives back the last pieces.
    async fn forward(
        &mut self,
        mut pieces: Pieces,
        mut piece: Bytes,
        mut body: Arriving<'_>,
        room: &Room,
    ) -> Result<Pieces, AssetError> {
        loop {
            while !piece.is_empty() {
                // A part begins once there is more than fits into the one before.
                if pieces.bytes.content_length() == PART_BYTES {
                    self.wait_for(PARTS_IN_FLIGHT - 1).await?;
                    self.send(std::mem::replace(&mut pieces, Pieces::new(room)));
                }
                pieces.fill(&mut piece).await?;
            }
            let Some(next) = body.next().await? else { return Ok(pieces) };
            piece = next;
        }
    }

    fn send(&mut self, Pieces { bytes, held }: Pieces) {
        let part = self.upload.put_part(bytes.freeze());
        self.sending.spawn(async move {
            let sent = part.await;
            drop(held);
            sent
        });
    }

    /// Waits until at most `left` parts are on their way.
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
            // The first error is the one to tell of.
            let _ = self.abort().await;
        }
        finished
    }

    async fn abort(mut self) -> object_store::Result<()> {
        self.sending.shutdown().await;
        self.upload.abort().await
    }
}

/// A body on its way in.
struct Arriving<'a> {
    body: Body,
    size: u64,
    reservation: &'a mut Reservation,
}

impl Arriving<'_> {
    /// The next piece, for which there is space.
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
/// The least that a bucket takes as a part.
const PART_BYTES: usize = 5 * 1024 * 1024;
