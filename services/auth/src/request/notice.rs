//! Deprecation headers for users of API keys: deprecation, sunset date, and a link to the guide.

use gaia_api::mount::Deprecation;
use http::header::{HeaderMap, HeaderName, HeaderValue, LINK};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// Returns the headers of a deprecation.
pub(crate) fn notice(deprecation: &Deprecation) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // RFC 9745, section 2.1: a date as in RFC 9651.
    let since = format!("@{}", deprecation.since.as_second());
    let sunset = deprecation.sunset.and_then(http_date);
    let link = deprecation.guide.as_ref().map(|guide| format!("<{guide}>; rel=\"deprecation\""));
    for (name, value) in [(DEPRECATION, Some(since)), (SUNSET, sunset), (LINK, link)] {
        // A guide that is not a valid header value is omitted.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// RFC 9110, section 5.6.7.
pub(crate) fn http_date(time: Timestamp) -> Option<String> {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::now;

    #[test]
    fn the_headers_are_those_of_the_standards() {
        let guide = Some("https://docs.example/tokens".to_owned());
        let headers = notice(&Deprecation { since: now(), sunset: Some(now()), guide });
        assert_eq!(headers["deprecation"], "@1800000000");
        assert_eq!(headers["sunset"], "Fri, 15 Jan 2027 08:00:00 GMT");
        assert_eq!(headers["link"], r#"<https://docs.example/tokens>; rel="deprecation""#);
    }

    #[test]
    fn a_guide_cannot_smuggle_a_header_in() {
        let headers = notice(&Deprecation { since: now(), sunset: None, guide: Some("x\r\nset-cookie: a=b".into()) });
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["deprecation"]);
    }
}
