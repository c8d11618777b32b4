//! Checks the frames of one HTTP/2 connection (RFC 9113, section 4) for unfinished header blocks, and for floods of
//! frames that cost the server more than the client. Counts streams and DATA frames for the memory budget.
//!
//! h2 answers each SETTINGS and PING, and limits few of the frames without content. Here each of them costs credit. A
//! connection earns credit by time, by requests and by the responses that it reads, so a client that sends a
//! WINDOW_UPDATE or two for each DATA frame does not run out.

use std::collections::HashSet;
use std::mem;

use tokio::time::Instant;

use crate::limits::MAX_STREAMS;
use crate::server::hardening::heads::Arrived;

/// Tracks the frames in both directions.
#[derive(Debug)]
pub(crate) struct Frames {
    inbound: Splitter,
    outbound: Splitter,
    /// The stream of the unfinished header block.
    block: Option<u32>,
    /// The newest stream, and the streams that neither the server has ended nor either side has reset.
    last_stream: u32,
    open: HashSet<u32>,
    /// Non-empty DATA frames and new streams since they were taken last.
    data_frames: usize,
    requests: usize,
    credit: u32,
    earned_at: Instant,
}

/// The connection exceeded its credit for control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flood {
    /// The number of bytes that may be read, up to the end of a frame.
    pub(crate) good: usize,
}

impl Frames {
    pub(crate) fn new(now: Instant) -> Self {
        let inbound = Splitter { preface: PREFACE_BYTES, ..Splitter::default() };
        Self {
            inbound,
            outbound: Splitter::default(),
            block: None,
            last_stream: 0,
            open: HashSet::new(),
            data_frames: 0,
            requests: 0,
            credit: MAX_CREDIT,
            earned_at: now,
        }
    }

    /// Processes bytes of the client.
    ///
    /// # Errors
    /// [`Flood`] if the connection must be closed.
    pub(crate) fn see(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let mut at = 0;
        while at < bytes.len() {
            let (used, ended) = self.inbound.take(&bytes[at..]);
            at += used;
            if ended.is_some_and(|frame| self.received(frame, now).is_err()) {
                return Err(Flood { good: at });
            }
        }
        Ok(())
    }

    /// Processes bytes of the server. Returns how many of them were in DATA frames that have ended.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) -> usize {
        let mut data = 0;
        while !bytes.is_empty() {
            let (used, ended) = self.outbound.take(bytes);
            bytes = &bytes[used..];
            let Some(frame) = ended else { continue };
            match frame.kind {
                DATA => {
                    data += frame.length as usize;
                    self.earn(4 + frame.length / 512);
                }
                HEADERS => self.earn(2),
                _ => {}
            }
            let ends_stream = matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM);
            if ends_stream || frame.kind == RST_STREAM {
                self.open.remove(&frame.stream);
            }
        }
        data
    }

    /// The state of the streams, and the frames since the last call.
    pub(crate) fn arrived(&mut self) -> Arrived {
        let (data_frames, requests) = (mem::take(&mut self.data_frames), mem::take(&mut self.requests));
        Arrived { unfinished: self.unfinished(), streams: self.streams(), data_frames, requests }
    }

    /// The streams that have not ended.
    pub(crate) fn streams(&self) -> usize {
        self.open.len()
    }

    /// Returns the memory used by an unfinished header block and an unfinished frame.
    fn unfinished(&self) -> usize {
        let block = if self.block.is_some() { UNFINISHED_BLOCK_BYTES } else { 0 };
        block + self.inbound.unfinished().min(MAX_FRAME_BYTES)
    }

    /// Returns true between two frames.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.inbound.have == 0 && self.inbound.left == 0 && self.inbound.preface == 0
    }

    /// Returns frames that make h2 close the connection with GOAWAY, ENHANCE_YOUR_CALM: a header block in more pieces
    /// than h2 accepts. May only be used at a boundary.
    pub(crate) fn goaway(&self) -> Vec<u8> {
        let empty = |kind: u8, stream: u32| {
            let [a, b, c, d] = stream.to_be_bytes();
            [0, 0, 0, kind, 0, a, b, c, d]
        };
        let mut frames = Vec::new();
        if self.block.is_none() {
            frames.extend(empty(HEADERS, 1));
        }
        let stream = self.block.unwrap_or(1);
        frames.extend(empty(CONTINUATION, stream).repeat(MORE_PIECES_THAN_READ));
        frames
    }

    fn received(&mut self, frame: Frame, now: Instant) -> Result<(), OutOfCredit> {
        match frame.kind {
            HEADERS | PUSH_PROMISE => {
                self.block = (!frame.has(END_HEADERS)).then_some(frame.stream);
                self.earn(1);
                return self.begin_stream(frame);
            }
            CONTINUATION if frame.has(END_HEADERS) => self.block = None,
            DATA if frame.length > 0 || frame.has(END_STREAM) => {
                self.data_frames += usize::from(frame.length > 0);
                return Ok(());
            }
            RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            _ => {}
        }
        self.spend(if frame.kind == RST_STREAM { 2 } else { 1 }, now)
    }

    /// Notes a new stream; the trailers of an old one begin none.
    fn begin_stream(&mut self, frame: Frame) -> Result<(), OutOfCredit> {
        if frame.stream <= self.last_stream {
            return Ok(());
        }
        self.last_stream = frame.stream;
        self.requests += 1;
        self.open.insert(frame.stream);
        // h2 resets streams beyond its limit and ignores new streams after its GOAWAY.
        if self.open.len() > 2 * MAX_STREAMS as usize { Err(OutOfCredit) } else { Ok(()) }
    }

    fn earn(&mut self, credit: u32) {
        self.credit = MAX_CREDIT.min(self.credit.saturating_add(credit));
    }

    fn spend(&mut self, credit: u32, now: Instant) -> Result<(), OutOfCredit> {
        let seconds = now.saturating_duration_since(self.earned_at).as_secs();
        if seconds > 0 {
            self.earned_at = now;
            self.earn(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(CREDIT_PER_SECOND));
        }
        self.credit = self.credit.checked_sub(credit).ok_or(OutOfCredit)?;
        Ok(())
    }
}

struct OutOfCredit;

/// A frame header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Splits a stream of bytes into frames.
#[derive(Debug, Default)]
struct Splitter {
    /// Remaining bytes of the connection preface.
    preface: usize,
    header: [u8; HEADER_BYTES],
    /// Received bytes of the header.
    have: usize,
    /// Remaining bytes of the payload.
    left: usize,
}

impl Splitter {
    /// Processes bytes up to the end of a frame. Returns their number, and the frame if it is complete.
    fn take(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut at = self.preface.min(bytes.len());
        self.preface -= at;
        if self.have < HEADER_BYTES {
            let more = (HEADER_BYTES - self.have).min(bytes.len() - at);
            self.header[self.have..self.have + more].copy_from_slice(&bytes[at..at + more]);
            self.have += more;
            at += more;
            if self.have < HEADER_BYTES {
                return (at, None);
            }
            self.left = self.frame().length as usize;
        }
        let payload = self.left.min(bytes.len() - at);
        self.left -= payload;
        at += payload;
        if self.left > 0 {
            return (at, None);
        }
        self.have = 0;
        (at, Some(self.frame()))
    }

    fn frame(&self) -> Frame {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        Frame { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    /// Returns the length of the frame whose payload is incomplete.
    fn unfinished(&self) -> usize {
        if self.left > 0 { self.frame().length as usize } else { 0 }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADER_BYTES: usize = 9;
const PREFACE_BYTES: usize = 24;
/// h2 refuses longer frames.
const MAX_FRAME_BYTES: usize = 16 * 1024;
/// h2 stores the decoded fields of a block, which can be about a hundred times as large as the block.
const UNFINISHED_BLOCK_BYTES: usize = 128 * 1024;
/// h2 accepts as many CONTINUATION frames as the largest head needs, and a quarter more; at least five.
const MORE_PIECES_THAN_READ: usize = 8;
const MAX_CREDIT: u32 = 512;
const CREDIT_PER_SECOND: u32 = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn follow(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        frames.see(&[b'x'; PREFACE_BYTES], now).unwrap();
        frames
    }

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_control_frame_runs_out_of_credit() {
        let floods = [
            frame(PING, 0, 0, &[0; 8]),
            frame(PING, 1, 0, &[0; 8]),
            frame(SETTINGS, 0, 0, &[]),
            frame(SETTINGS, 1, 0, &[]),
            frame(PRIORITY, 0, 1, &[0; 5]),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            frame(RST_STREAM, 0, 1, &[0; 4]),
            frame(DATA, 0, 1, &[]),
            frame(CONTINUATION, 0, 1, &[]),
            frame(0xbe, 0, 1, &[1]),
            [frame(HEADERS, END_HEADERS, 1, &[0x82]), frame(RST_STREAM, 0, 1, &[0; 4])].concat(),
        ];
        for flood in floods {
            for step in [1, 7, 4096] {
                let now = Instant::now();
                let mut frames = follow(now);
                let bytes = flood.repeat(2 * MAX_CREDIT as usize);
                let (mut at, mut found) = (0, None);
                for piece in bytes.chunks(step) {
                    if let Err(Flood { good }) = frames.see(piece, now) {
                        found = Some(at + good);
                        break;
                    }
                    at += piece.len();
                }
                let good = found.unwrap_or_else(|| panic!("{flood:?}"));
                assert!(frames.is_at_boundary(), "{flood:?} after {good}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_answers_or_waits_does_not_run_out() {
        let mut now = Instant::now();
        let mut frames = follow(now);
        let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(2);
        for _ in 0..10_000 {
            frames.wrote(&frame(DATA, 0, 1, b"token"));
            frames.see(&update, now).unwrap();
        }
        for _ in 0..10_000 {
            now += Duration::from_secs(1);
            frames.see(&frame(PING, 0, 0, &[0; 8]).repeat(10), now).unwrap();
        }
        for stream in 0..10_000 {
            frames.see(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &[0x82]), now).unwrap();
            frames.wrote(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &[0x88]));
        }
        assert_eq!(frames.streams(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_without_an_end_are_bounded() {
        let now = Instant::now();
        let mut frames = follow(now);
        let begun = (0..10_000)
            .take_while(|stream| frames.see(&frame(HEADERS, END_HEADERS, stream * 2 + 1, &[0x82]), now).is_ok());
        assert!(begun.count() <= 2 * MAX_STREAMS as usize);
        assert!(frames.streams() <= 2 * MAX_STREAMS as usize + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_pings_earn_nothing() {
        let now = Instant::now();
        let mut frames = follow(now);
        let ping = frame(PING, 0, 0, &[0; 8]);
        let ended = (0..=MAX_CREDIT).any(|_| {
            frames.wrote(&frame(PING, 1, 0, &[0; 8]));
            frames.see(&ping, now).is_err()
        });
        assert!(ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_counts_until_it_ends_and_a_frame_until_it_is_there() {
        let now = Instant::now();
        let mut frames = follow(now);
        frames.see(&frame(HEADERS, 0, 1, &[0x82]), now).unwrap();
        assert_eq!(frames.unfinished(), UNFINISHED_BLOCK_BYTES);
        frames.see(&frame(CONTINUATION, 0, 1, &[0x84]), now).unwrap();
        assert_eq!(frames.unfinished(), UNFINISHED_BLOCK_BYTES);
        frames.see(&frame(CONTINUATION, END_HEADERS, 1, &[0x84]), now).unwrap();
        assert_eq!(frames.unfinished(), 0);
        let data = frame(DATA, 0, 1, &[0; 10_000]);
        frames.see(&data[..100], now).unwrap();
        assert_eq!(frames.unfinished(), 10_000);
        frames.see(&data[100..], now).unwrap();
        assert_eq!(frames.unfinished(), 0);
    }
}
