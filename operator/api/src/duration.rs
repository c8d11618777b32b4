//! Durations as the API writes them: Gateway API strings.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration in Gateway API form: one to four numbers of at most five digits with units `h`, `m`, `s` or `ms`
/// (`2160h`, `30m`, `1h30m`). There is no `d`: a day is not always 24 hours.
///
/// Source: GEP-2257. The original text is kept unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    text: String,
    value: Duration,
}

/// The reason why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} must be a duration such as 2160h, 30m or 1h30m (units h, m, s and ms, no d; at most 5 digits each)")]
pub struct InvalidSpan {
    text: String,
}

impl Span {
    /// Reads a duration.
    ///
    /// # Errors
    /// [`InvalidSpan`] if the text is not a Gateway API duration.
    pub fn parse(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan { text: text.chars().take(64).collect() };
        let mut rest = text;
        let mut value = Duration::ZERO;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = match digits {
                1..=5 => rest[..digits].parse().map_err(|_| invalid())?,
                _ => return Err(invalid()),
            };
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            value += match &rest[..letters] {
                "h" => Duration::from_secs(number * 3600),
                "m" => Duration::from_secs(number * 60),
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                _ => return Err(invalid()),
            };
            rest = &rest[letters..];
            parts += 1;
        }
        if !(1..=4).contains(&parts) {
            return Err(invalid());
        }
        Ok(Self { text: text.to_owned(), value })
    }

    /// A duration of whole hours, for defaults.
    #[must_use]
    pub fn hours(hours: u64) -> Self {
        Self { text: format!("{hours}h"), value: Duration::from_secs(hours * 3600) }
    }

    /// A duration of whole minutes, for defaults.
    #[must_use]
    pub fn minutes(minutes: u64) -> Self {
        Self { text: format!("{minutes}m"), value: Duration::from_secs(minutes * 60) }
    }

    /// A duration of whole seconds, for defaults.
    #[must_use]
    pub fn seconds(seconds: u64) -> Self {
        Self { text: format!("{seconds}s"), value: Duration::from_secs(seconds) }
    }

    /// The length of time.
    #[must_use]
    pub fn value(&self) -> Duration {
        self.value
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;
    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        Self::parse(&text)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.text
    }
}

/// The pattern of GEP-2257, for CEL rules and error messages.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_api_durations_are_read() {
        for (text, seconds) in
            [("2160h", 7_776_000.0), ("30m", 1800.0), ("1h30m", 5400.0), ("1500ms", 1.5), ("0s", 0.0)]
        {
            assert!((Span::parse(text).unwrap().value().as_secs_f64() - seconds).abs() < 1e-9, "{text}");
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "90d", "1", "h", "1.5h", "-1h", "999999h", "1h1h1h1h1h", " 1h", "1H", "1µs", "１h"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
