//! Splits JSON without parsing values: a list into its items, an object into its members.

use std::ops::Range;

/// The text is not JSON, or is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Finds the end of one value.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    started: bool,
}

enum Step {
    More,
    /// The value ends with this byte.
    Last,
    /// The value ended before this byte: it is a number or a literal.
    Past,
}

impl Scan {
    fn step(&mut self, byte: u8) -> Result<Step, Malformed> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return Ok(self.closed());
                }
                _ => {}
            }
            return Ok(Step::More);
        }
        let is_scalar = self.started && self.depth == 0;
        match byte {
            b'"' if is_scalar => return Err(Malformed),
            b'"' => self.in_string = true,
            b'{' | b'[' if is_scalar => return Err(Malformed),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' | b',' if is_scalar => return Ok(Step::Past),
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(Malformed)?;
                return Ok(self.closed());
            }
            _ if byte.is_ascii_whitespace() && is_scalar => return Ok(Step::Past),
            _ if byte.is_ascii_whitespace() && !self.started => return Ok(Step::More),
            b',' | b':' if self.depth == 0 => return Err(Malformed),
            _ => {}
        }
        self.started = true;
        Ok(Step::More)
    }

    fn closed(&self) -> Step {
        if self.depth == 0 { Step::Last } else { Step::More }
    }
}

/// A piece of a list of the API server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// An element of `items`.
    Item(Vec<u8>),
    /// An element of `items` that is larger than any object may be.
    Oversized,
    /// `metadata`.
    Metadata(Vec<u8>),
}

/// Takes the answer to a list apart as it arrives. Not more than one item is held at a time.
pub(crate) struct ListSplitter {
    at: At,
    key: Vec<u8>,
    scan: Scan,
    value: Vec<u8>,
    oversized: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    BeforeKey,
    InKey { escaped: bool },
    Colon,
    Value,
    AfterValue,
    Element,
    AfterElement,
    End,
}

impl ListSplitter {
    pub(crate) fn new() -> Self {
        Self { at: At::Start, key: vec![], scan: Scan::default(), value: vec![], oversized: false }
    }

    /// Takes the next bytes; hands out every piece that is complete.
    ///
    /// # Errors
    /// The answer is no JSON object.
    pub(crate) fn push(&mut self, bytes: &[u8], mut piece: impl FnMut(Piece)) -> Result<(), Malformed> {
        for byte in bytes {
            self.step(*byte, &mut piece)?;
        }
        Ok(())
    }

    /// # Errors
    /// The response is truncated.
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.at == At::End { Ok(()) } else { Err(Malformed) }
    }

    fn step(&mut self, byte: u8, piece: &mut impl FnMut(Piece)) -> Result<(), Malformed> {
        let is_space = byte.is_ascii_whitespace();
        self.at = match (self.at, byte) {
            (At::Value | At::Element, _) => return self.step_value(byte, piece),
            (At::InKey { escaped: true }, _) => self.key_byte(byte, false)?,
            (At::InKey { .. }, b'"') => At::Colon,
            (At::InKey { .. }, _) => self.key_byte(byte, byte == b'\\')?,
            (at, _) if is_space => at,
            (At::Start, b'{') => At::BeforeKey,
            (At::BeforeKey, b'"') => {
                self.key.clear();
                At::InKey { escaped: false }
            }
            (At::BeforeKey, b'}') => At::End,
            (At::Colon, b':') => {
                self.begin_value();
                At::Value
            }
            (At::AfterValue, b',') => At::BeforeKey,
            (At::AfterValue, b'}') => At::End,
            (At::AfterElement, b',') => {
                self.begin_value();
                At::Element
            }
            (At::AfterElement, b']') => At::AfterValue,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn key_byte(&mut self, byte: u8, escaped: bool) -> Result<At, Malformed> {
        if self.key.len() >= LONGEST_KEY {
            return Err(Malformed);
        }
        self.key.push(byte);
        Ok(At::InKey { escaped })
    }

    fn begin_value(&mut self) {
        self.scan = Scan::default();
        self.value = vec![];
        self.oversized = false;
    }

    fn step_value(&mut self, byte: u8, piece: &mut impl FnMut(Piece)) -> Result<(), Malformed> {
        let is_element = self.at == At::Element;
        let is_first = !self.scan.started;
        if is_first && !is_element && byte == b'[' && self.key == b"items" {
            self.begin_value();
            self.at = At::Element;
            return Ok(());
        }
        if is_first && is_element && byte == b']' {
            self.at = At::AfterValue;
            return Ok(());
        }
        let step = self.scan.step(byte)?;
        let is_wanted = is_element || self.key == b"metadata";
        if is_wanted && self.scan.started && !matches!(step, Step::Past) {
            self.keep(byte);
        }
        if matches!(step, Step::More) {
            return Ok(());
        }
        let value = std::mem::take(&mut self.value);
        if is_element {
            piece(if self.oversized { Piece::Oversized } else { Piece::Item(value) });
        } else if self.key == b"metadata" {
            piece(Piece::Metadata(value));
        }
        self.at = if is_element { At::AfterElement } else { At::AfterValue };
        if matches!(step, Step::Past) { self.step(byte, piece) } else { Ok(()) }
    }

    fn keep(&mut self, byte: u8) {
        if self.value.len() < LARGEST_OBJECT {
            self.value.push(byte);
        } else {
            self.oversized = true;
            self.value = vec![];
        }
    }
}

/// Returns the range of the value of a JSON object's member; of several with that name, the last. None: there is no
/// such member.
///
/// # Errors
/// The text is not a JSON object.
pub(crate) fn member(object: &[u8], name: &str) -> Result<Option<Range<usize>>, Malformed> {
    let mut at = skip_space(object, 0);
    if object.get(at) != Some(&b'{') {
        return Err(Malformed);
    }
    at = skip_space(object, at + 1);
    let mut found = None;
    if object.get(at) == Some(&b'}') {
        return Ok(None);
    }
    loop {
        if object.get(at) != Some(&b'"') {
            return Err(Malformed);
        }
        let key = at..value_end(object, at)?;
        at = skip_space(object, key.end);
        if object.get(at) != Some(&b':') {
            return Err(Malformed);
        }
        let start = skip_space(object, at + 1);
        let end = value_end(object, start)?;
        let text = object.get(key.start + 1..key.end - 1);
        if text == Some(name.as_bytes()) {
            found = Some(start..end);
        }
        at = skip_space(object, end);
        match object.get(at) {
            Some(b',') => at = skip_space(object, at + 1),
            Some(b'}') => return Ok(found),
            _ => return Err(Malformed),
        }
    }
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

fn value_end(bytes: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut scan = Scan::default();
    for (index, byte) in bytes.get(start..).unwrap_or_default().iter().enumerate() {
        match scan.step(*byte)? {
            Step::More => {}
            Step::Last => return Ok(start + index + 1),
            Step::Past => return Ok(start + index),
        }
    }
    Err(Malformed)
}

/// The API server takes requests of up to 3 MiB.
pub(crate) const LARGEST_OBJECT: usize = 8 * 1024 * 1024;
const LONGEST_KEY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, chunk: usize) -> Result<Vec<Piece>, Malformed> {
        let mut splitter = ListSplitter::new();
        let mut pieces = vec![];
        for chunk in text.as_bytes().chunks(chunk) {
            splitter.push(chunk, |piece| pieces.push(piece))?;
        }
        splitter.finish()?;
        Ok(pieces)
    }

    #[test]
    fn a_list_is_taken_apart_wherever_its_chunks_end() {
        let items = [r#"{"a":"}]\"","b":[1,{"c":null}]}"#, "null", "-1.5e3", r#""x,]""#, "{}", "[[]]"];
        let metadata = r#"{"resourceVersion":"7"}"#;
        let text = format!(
            r#" {{"kind" : "SecretList", "items":[ {} ] ,"n":12,"metadata": {metadata}, "e":[],"t":true}} "#,
            items.join(" , ")
        );
        let mut expected: Vec<Piece> = items.iter().map(|item| Piece::Item(item.as_bytes().to_vec())).collect();
        expected.push(Piece::Metadata(metadata.as_bytes().to_vec()));
        for chunk in 1..text.len() {
            assert_eq!(split(&text, chunk).as_ref(), Ok(&expected), "{chunk}");
        }
    }

    #[test]
    fn an_empty_list_has_no_items() {
        for text in [r#"{"items":[]}"#, r#"{"items": null}"#, r#"{"items":[ ]}"#, "{}"] {
            assert_eq!(split(text, 3), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_no_json_or_ends_early_is_refused() {
        for text in
            ["", "[]", "nothing", r#"{"items":[{}"#, r#"{"items":[{}}"#, r#"{"a" 1}"#, r#"{"a":1 2}"#, r#"{"a":,}"#]
        {
            assert_eq!(split(text, 4), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn an_item_beyond_every_bound_is_not_held() {
        let text = format!(r#"{{"items":["{}",1]}}"#, "x".repeat(LARGEST_OBJECT));
        assert_eq!(split(&text, 1 << 16), Ok(vec![Piece::Oversized, Piece::Item(b"1".to_vec())]));
    }

    #[test]
    fn the_member_of_an_object_is_found_at_its_level_only() {
        let text = r#" { "a": {"metadata": 1}, "metadata" : {"x":"}"} , "z": 3} "#;
        let found = member(text.as_bytes(), "metadata").unwrap().unwrap();
        assert_eq!(&text[found], r#"{"x":"}"}"#);
        assert_eq!(&text[member(text.as_bytes(), "z").unwrap().unwrap()], "3");
        assert_eq!(member(text.as_bytes(), "x"), Ok(None));
        for text in ["[]", "{", r#"{"a"}"#, r#"{"a":1"#, ""] {
            assert_eq!(member(text.as_bytes(), "a"), Err(Malformed), "{text}");
        }
    }
}
