//! The paths that the gateway accepts.

use crate::gateway_path::check_path;

/// The bytes are a path, and the rest of one below `/assets/`.
pub(crate) fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check(text);
    check(&format!("/assets/{text}"));
}

/// An accepted path has the same segments for every parser, however often it decodes the path and whatever it treats as a separator;
/// and plain paths are accepted.
fn check(path: &str) {
    let verdict = check_path(path);
    let is_word =
        |segment: &str| !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_word)) {
        assert_eq!(verdict, Ok(()), "{path:?}");
    }
    if verdict.is_err() {
        return;
    }
    let as_it_came = path.matches('/').count();
    let mut seen = path.as_bytes().to_vec();
    for _ in 0..8 {
        let text = String::from_utf8_lossy(&seen).replace('\\', "/");
        assert_eq!(text.matches('/').count(), as_it_came, "{path:?} has other segments as {text:?}");
        assert!(!text.chars().any(|c| c.is_ascii_control()), "{path:?} hides a control character");
        for segment in text.split('/') {
            let name = segment.split(';').next().unwrap_or_default();
            assert!(name != "." && name != "..", "{path:?} can be resolved: {text:?}");
        }
        assert!(!path.starts_with("/assets/") || text.starts_with("/assets/"), "{path:?} is elsewhere as {text:?}");
        seen = decoded(&seen);
    }
}

/// Decoding of lenient programs: an invalid escape stays unchanged.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut place = 0;
    while place < text.len() {
        let digits = text.get(place + 1..place + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        // Not `from_str_radix` alone: it accepts a sign.
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| text[place] == b'%') {
            Some(byte) => {
                bytes.push(byte);
                place += 3;
            }
            None => {
                bytes.push(text[place]);
                place += 1;
            }
        }
    }
    bytes
}
