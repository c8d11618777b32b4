//! Checks that a request path has one interpretation for every program that reads it.
//!
//! A proxy can be bypassed with a path that it and the upstream interpret differently: it forwards
//! `/assets/%2e%2e/internal` as an asset, and a later program resolves the dots. A path is therefore refused before
//! routing if a program could resolve it, decode it twice or read a separator in it. Accepted paths are forwarded
//! unchanged.

/// Reason why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not an absolute path.
    #[error("the path must begin with one /")]
    NotAbsolute,
    /// An empty segment that is not the last.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment is `.` or `..`, optionally with parameters.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A `\`, a control character, or a byte that must be percent-encoded.
    #[error("the path has a character that is not permitted")]
    Character,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a malformed escape")]
    Escape,
    /// An escape, possibly nested, that decodes to `.`, `/`, `\` or a control character.
    #[error("the path has an escaped separator, dot or control character")]
    Hidden,
    /// Not UTF-8 after decoding: decoders interpret such bytes differently.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// Percent-encoded more than three times.
    #[error("the path is percent-encoded more than 3 times")]
    TooDeep,
}

/// Checks the path of a request before any decoding.
///
/// # Errors
/// The first [`PathError`] found.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if path.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        return Err(PathError::Character);
    }
    check_segments(path.as_bytes())?;
    check_escapes(path)
}

fn check_segments(path: &[u8]) -> Result<(), PathError> {
    // The text before the first slash is not a segment.
    let mut segments = path.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        // Some servers strip parameters before they interpret a segment.
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        let is_end = segment.is_empty() && segments.peek().is_none();
        if name.is_empty() && !is_end {
            return Err(PathError::EmptySegment);
        }
        if name == b"." || name == b".." {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// Decodes repeatedly, as consecutive programs might, and checks each result.
fn check_escapes(path: &str) -> Result<(), PathError> {
    let mut seen = path.as_bytes().to_vec();
    for depth in 0..MAX_DEPTH {
        let Decoded { bytes, has_escape, hides, is_broken } = decode(&seen);
        // Only the received path must be well-formed: a decoded `%` can be a literal character.
        if is_broken && depth == 0 {
            return Err(PathError::Escape);
        }
        if !has_escape {
            return Ok(());
        }
        if hides {
            return Err(PathError::Hidden);
        }
        if depth == 0 && std::str::from_utf8(&bytes).is_err() {
            return Err(PathError::NotUtf8);
        }
        // Dots and separators are refused as escapes above; a decoded `;` can still start parameters.
        check_segments(&bytes)?;
        seen = bytes;
    }
    if decode(&seen).has_escape { Err(PathError::TooDeep) } else { Ok(()) }
}

#[derive(Default)]
struct Decoded {
    bytes: Vec<u8>,
    has_escape: bool,
    /// An escape decoded to a separator, a dot or a control character.
    hides: bool,
    /// Some `%` does not start an escape.
    is_broken: bool,
}

/// Decodes once.
fn decode(text: &[u8]) -> Decoded {
    let mut decoded = Decoded { bytes: Vec::with_capacity(text.len()), ..Decoded::default() };
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let byte = match escaped(byte, after) {
            Some(escaped) => {
                rest = &after[2..];
                decoded.has_escape = true;
                decoded.hides |= is_meaningful(escaped);
                escaped
            }
            None => {
                decoded.is_broken |= byte == b'%';
                byte
            }
        };
        decoded.bytes.push(byte);
    }
    decoded
}

/// Returns the byte that an escape starting with `byte` decodes to.
fn escaped(byte: u8, after: &[u8]) -> Option<u8> {
    match (byte, after) {
        (b'%', [high, low, ..]) => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

/// Returns true for `.`, `/`, `\`, control characters, and bytes that only start overlong UTF-8.
fn is_meaningful(byte: u8) -> bool {
    matches!(byte, b'.' | b'/' | b'\\' | 0xC0 | 0xC1) || byte.is_ascii_control()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Maximum number of decoding passes.
const MAX_DEPTH: usize = 3;

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_mean_one_thing_pass() {
        for path in [
            "/",
            "/assets",
            "/assets/",
            "/assets/photos/cat.jpg",
            "/assets/.hidden",
            "/assets/...",
            "/assets/a..b",
            "/assets/gr%C3%BC%C3%9Fe%20%23.txt",
            "/assets/100%25",
            "/assets/50%25adult",
            "/assets/a;v=1",
            "/assets/%E2%80%A6",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn whatever_could_be_read_as_another_path_is_refused() {
        use PathError::*;
        for (path, error) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("assets", NotAbsolute),
            ("//assets", EmptySegment),
            ("/assets//a", EmptySegment),
            ("/./assets", DotSegment),
            ("/assets/..", DotSegment),
            ("/assets/../internal/service-token", DotSegment),
            ("/assets/..;/internal", DotSegment),
            ("/assets/.;x=1/a", DotSegment),
            ("/assets/..%3b/internal", DotSegment),
            ("/assets/..%253bx/internal", DotSegment),
            ("/assets/;/a", EmptySegment),
            ("/assets/a\\..\\b", Character),
            ("/assets/a b", Character),
            ("/assets/a\0", Character),
            ("/assets/a\r\n", Character),
            ("/assets/grüße", Character),
            ("/assets/%", Escape),
            ("/assets/%2", Escape),
            ("/assets/%zz", Escape),
            ("/assets/%%32%65", Escape),
            ("/assets/%2e%2e/internal/service-token", Hidden),
            ("/assets/%2E%2E/internal/service-token", Hidden),
            ("/assets/.%2e/internal", Hidden),
            ("/assets/..%2finternal", Hidden),
            ("/assets/a%2Fb", Hidden),
            ("/assets/a%5cb", Hidden),
            ("/assets/a%5Cb", Hidden),
            ("/assets/a%00", Hidden),
            ("/assets/a%0d%0ax", Hidden),
            ("/assets/a%7f", Hidden),
            ("/assets/%252e%252e/internal", Hidden),
            ("/assets/%25%32%65", Hidden),
            ("/assets/%25252e%25252e/internal", Hidden),
            ("/assets/%25%32%35%32%65", Hidden),
            ("/assets/%252f..%252finternal", Hidden),
            ("/assets/%25255cb", Hidden),
            ("/assets/%2525252e", TooDeep),
            ("/assets/%c0%ae%c0%ae/internal", Hidden),
            ("/assets/%e0%80%ae", NotUtf8),
            ("/assets/%ff", NotUtf8),
            ("/assets/%25ff/%252e%252e", Hidden),
        ] {
            assert_eq!(check_path(path), Err(error), "{path}");
        }
    }

    /// Decodes until nothing changes, treats `\` as `/`, and resolves dots, like the most lenient server.
    fn as_the_sloppiest_reader_has_it(path: &str) -> String {
        let mut bytes = path.as_bytes().to_vec();
        loop {
            let decoded: Vec<u8> = percent_decode(&bytes).collect();
            if decoded == bytes {
                break;
            }
            bytes = decoded;
        }
        let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
        let mut segments: Vec<&str> = Vec::new();
        for segment in text.split('/') {
            match segment.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        segments.join("/")
    }

    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn what_passes_stays_where_it_is_however_it_is_read(tail in "([.%25eEfFcC0/\\\\;a]|%2e|%2f|%5c|%25|\\.\\.|internal){0,12}") {
            let path = format!("/assets/{tail}");
            if check_path(&path).is_ok() {
                let read = as_the_sloppiest_reader_has_it(&path);
                prop_assert!(read == "assets" || read.starts_with("assets/"), "{} is read as {}", path, read);
                prop_assert_eq!(read.matches('/').count(), path.trim_end_matches('/').matches('/').count() - 1);
            }
        }

        #[test]
        fn every_name_without_a_separator_can_be_spelled(name in "[^/\\\\\\p{C}%]{1,16}") {
            prop_assume!(!["", ".", ".."].contains(&name.split(';').next().unwrap()));
            let path = format!("/assets/{}", utf8_percent_encode(&name, SEGMENT));
            prop_assert_eq!(check_path(&path), Ok(()), "{}", path);
        }

        #[test]
        fn any_text_is_answered_without_a_panic(path in ".{0,64}") {
            let _ = check_path(&path);
        }
    }
}
