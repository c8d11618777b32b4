//! Incremental parser for server-sent events: takes bytes in pieces of any size, returns the data of whole events. The
//! size of an event is limited.

use bytes::{Buf as _, Bytes, BytesMut};

use serde::de::IgnoredAny;

use super::ProviderError;

/// An event of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its data.
    Data(Vec<u8>),
    /// The data of an event with the name `error`, or of llama.cpp's line `error: {…}`.
    Error(Vec<u8>),
}

/// Parser for events; comments and other fields are skipped.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    buffer: BytesMut,
    /// Length of the buffer's prefix without a line end.
    searched: usize,
    /// Set if the last line ended with CR, so that a following LF is skipped.
    skips_line_feed: bool,
    /// The data lines of the event so far; none if it has none.
    data: Option<Vec<u8>>,
    /// Set if the event is an error.
    is_error: bool,
    /// Set after the first bytes, where a byte order mark is permitted.
    has_begun: bool,
}

impl EventReader {
    /// Appends received bytes.
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next event if it is complete.
    ///
    /// # Errors
    /// [`ProviderError::LineTooLong`] if an event is longer than [`MAX_EVENT_BYTES`].
    pub(crate) fn next(&mut self) -> Result<Option<Event>, ProviderError> {
        while let Some(line) = self.line()? {
            let line = if std::mem::replace(&mut self.has_begun, true) {
                &line[..]
            } else {
                line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line)
            };
            if line.is_empty() {
                let is_error = std::mem::take(&mut self.is_error);
                if let Some(data) = self.data.take() {
                    return Ok(Some(if is_error { Event::Error(data) } else { Event::Data(data) }));
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let whole = self.whole();
                self.add(value.strip_prefix(b" ").unwrap_or(value))?;
                if let Some(whole) = whole {
                    return Ok(Some(Event::Data(whole)));
                }
            } else if let Some(value) = line.strip_prefix(b"error:") {
                self.is_error = true;
                self.add(value)?;
            } else if let Some(name) = line.strip_prefix(b"event:") {
                self.is_error |= name.trim_ascii() == b"error";
            }
        }
        Ok(None)
    }

    /// Returns the data so far if it is one line with a complete JSON value: some proxies omit the empty line between
    /// events.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let data = self.data.as_deref().filter(|data| !self.is_error && !data.contains(&b'\n'))?;
        let is_whole = serde_json::from_slice::<IgnoredAny>(data).is_ok();
        if is_whole { self.data.take() } else { None }
    }

    /// Returns the last event of a stream that ended without an empty line. The specification discards such an event,
    /// but providers send their last one like that.
    pub(crate) fn rest(&mut self) -> Result<Option<Event>, ProviderError> {
        self.push(&Bytes::from_static(b"\n\n"));
        self.next()
    }

    fn add(&mut self, value: &[u8]) -> Result<(), ProviderError> {
        let data = match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data
            }
            None => self.data.insert(Vec::new()),
        };
        if data.len() + value.len() > MAX_EVENT_BYTES {
            return Err(ProviderError::LineTooLong);
        }
        data.extend_from_slice(value);
        Ok(())
    }

    /// Returns the next line, without its end: LF, CR or both.
    fn line(&mut self) -> Result<Option<BytesMut>, ProviderError> {
        if self.skips_line_feed && !self.buffer.is_empty() {
            self.skips_line_feed = false;
            if self.buffer.starts_with(b"\n") {
                self.buffer.advance(1);
            }
        }
        let found = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(length) = found.map(|at| self.searched + at) else {
            self.searched = self.buffer.len();
            let is_too_long = self.searched > MAX_EVENT_BYTES;
            return if is_too_long { Err(ProviderError::LineTooLong) } else { Ok(None) };
        };
        self.searched = 0;
        let line = self.buffer.split_to(length);
        self.skips_line_feed = self.buffer.starts_with(b"\r");
        self.buffer.advance(1);
        Ok(Some(line))
    }
}

/// Longer than any event of a provider, which contains a few words.
const MAX_EVENT_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, ProviderError> {
        let text = |event| match event {
            Event::Data(data) => String::from_utf8(data).unwrap(),
            Event::Error(data) => format!("error {}", String::from_utf8(data).unwrap().trim()),
        };
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(&Bytes::copy_from_slice(piece));
            while let Some(event) = reader.next()? {
                events.push(text(event));
            }
        }
        while let Some(event) = reader.rest()? {
            events.push(text(event));
        }
        Ok(events)
    }

    #[test]
    fn events_are_read_whatever_their_line_ends() {
        assert_eq!(read(&[b"data: a\n\ndata:b\r\n\r\ndata: c\r\rdata: d\n\n"]).unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(read(&[b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"]).unwrap(), ["a", "b"]);
    }

    #[test]
    fn comments_names_and_empty_events_are_passed_over() {
        assert_eq!(read(&[b": hello\n\nevent: x\nid: 7\n\n\n\nevent: x\ndata: a\ndata: b\n\n"]).unwrap(), ["a\nb"]);
        assert_eq!(read(&[b"data: [DONE]"]).unwrap(), ["[DONE]"], "a last event needs no empty line");
    }

    #[test]
    fn errors_are_told_from_data() {
        assert_eq!(read(&[b"event: error\ndata: {}\n\ndata: a\n\n"]).unwrap(), ["error {}", "a"]);
        assert_eq!(read(&[b"error: {\"code\":500}\n\ndata: [DONE]\n\n"]).unwrap(), ["error {\"code\":500}", "[DONE]"]);
        assert_eq!(read(&[b"event: error\n\ndata: a\n\n"]).unwrap(), ["a"], "an event without data is none");
    }

    #[test]
    fn a_byte_order_mark_and_a_missing_empty_line_are_accepted() {
        assert_eq!(read(&["\u{feff}data: a\n\n".as_bytes()]).unwrap(), ["a"]);
        assert_eq!(
            read(&[b"data: {}\ndata: {\ndata: }\n\ndata: null\ndata: [DONE]\n"]).unwrap(),
            ["{}", "{\n}", "null", "[DONE]"]
        );
    }

    #[test]
    fn an_event_is_bounded() {
        let long = [b"data: ".to_vec(), vec![b'x'; MAX_EVENT_BYTES]].concat();
        assert!(matches!(read(&[&long]), Err(ProviderError::LineTooLong)));
        let many = b"data: 0123456789\n".repeat(MAX_EVENT_BYTES / 10);
        assert!(matches!(read(&[&many]), Err(ProviderError::LineTooLong)));
    }

    proptest! {
        #[test]
        fn how_it_is_cut_into_pieces_makes_no_difference(
            stream in "(data: [a-c]{0,4}|: x|event: y|)(\n|\r\n|\r){1,3}{0,8}",
            cuts in prop::collection::vec(0usize..64, 0..6),
        ) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces).unwrap(), read(&[bytes]).unwrap());
        }
    }
}
