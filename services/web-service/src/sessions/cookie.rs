//! Reading and writing of cookies. A value too long for one cookie is split into several.

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap};

/// A cookie of this service. Its name starts with `__Host-`: browsers keep such a cookie only if it is `Secure` and set
/// for this host and all of its paths, so that no other host can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// The name; further parts have a number appended.
    pub(crate) name: &'static str,
    /// Lifetime of the cookie in the browser, in seconds.
    pub(crate) max_age_seconds: u32,
}

impl Cookie {
    /// Returns the value sent by a browser, with all parts joined; `None` if a part is missing.
    #[must_use]
    pub(crate) fn read(&self, headers: &HeaderMap) -> Option<String> {
        let first = find(headers, self.name)?;
        let (count, first) = first.split_once('.')?;
        let count: usize = count.parse().ok().filter(|count| (1..=MAX_PARTS).contains(count))?;
        let mut value = first.to_owned();
        for part in 1..count {
            value.push_str(find(headers, &self.part(part))?);
        }
        Some(value)
    }

    /// Returns the headers that set a value and delete surplus parts sent by the browser; `None` if the value is too
    /// long.
    #[must_use]
    pub(crate) fn write(&self, value: &str, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let count = value.len().div_ceil(PART_BYTES).max(1);
        if count > MAX_PARTS || !value.is_ascii() {
            return None;
        }
        let mut headers = Vec::new();
        for part in 0..count {
            let text = value.get(part * PART_BYTES..value.len().min((part + 1) * PART_BYTES))?;
            let text = if part == 0 { format!("{count}.{text}") } else { text.to_owned() };
            headers.push(self.header(&self.part(part), &text, self.max_age_seconds)?);
        }
        headers.extend(self.forget_from(count, sent));
        Some(headers)
    }

    /// Returns the headers that delete all parts sent by the browser, and always the first one.
    #[must_use]
    pub(crate) fn forget(&self, sent: &HeaderMap) -> Vec<HeaderValue> {
        self.header(self.name, "", 0).into_iter().chain(self.forget_from(1, sent)).collect()
    }

    fn forget_from(&self, first: usize, sent: &HeaderMap) -> impl Iterator<Item = HeaderValue> {
        let stale = (first..MAX_PARTS).map(|part| self.part(part)).filter(|name| find(sent, name).is_some());
        stale.filter_map(|name| self.header(&name, "", 0)).collect::<Vec<_>>().into_iter()
    }

    fn header(&self, name: &str, value: &str, max_age: u32) -> Option<HeaderValue> {
        let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={max_age}");
        let mut header = HeaderValue::try_from(text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn part(&self, part: usize) -> String {
        if part == 0 { self.name.to_owned() } else { format!("{}-{part}", self.name) }
    }
}

/// Returns the value of a cookie. Browsers never send two cookies with one `__Host-` name; both are ignored.
fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// With name and attributes below the limit of browsers, 4,096 bytes.
const PART_BYTES: usize = 3800;
/// In total below half of the size limit of a request head.
const MAX_PARTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE_OF_TEST: Cookie = Cookie { name: "__Host-gaia", max_age_seconds: 60 };

    /// Applies these headers like a browser that has the cookies `kept`.
    fn browser(kept: &HeaderMap, set: &[HeaderValue]) -> HeaderMap {
        let mut jar: Vec<(String, String)> = Vec::new();
        for pair in kept.get(COOKIE).map_or("", |v| v.to_str().unwrap()).split("; ").filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap();
            jar.push((name.to_owned(), value.to_owned()));
        }
        for header in set {
            let text = header.to_str().unwrap();
            assert!(text.len() < 4096, "a browser refuses {} bytes", text.len());
            assert!(text.contains("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="), "{text}");
            assert!(!text.contains("Domain"), "then it would not be of this host alone");
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            jar.retain(|(kept, _)| kept != name);
            if !text.ends_with("Max-Age=0") {
                jar.push((name.to_owned(), value.to_owned()));
            }
        }
        let text = jar.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        if text.is_empty() {
            return HeaderMap::new();
        }
        HeaderMap::from_iter([(COOKIE, text.parse().unwrap())])
    }

    #[test]
    fn a_short_value_is_one_cookie() {
        let set = COOKIE_OF_TEST.write("abc", &HeaderMap::new()).unwrap();
        assert_eq!(set, ["__Host-gaia=1.abc; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"]);
        assert_eq!(COOKIE_OF_TEST.read(&browser(&HeaderMap::new(), &set)).unwrap(), "abc");
    }

    #[test]
    fn a_long_value_is_several_and_comes_back_whole() {
        let long: String = (0..9000).map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap())).collect();
        let set = COOKIE_OF_TEST.write(&long, &HeaderMap::new()).unwrap();
        assert_eq!(set.len(), 3);
        let sent = browser(&HeaderMap::new(), &set);
        assert_eq!(COOKIE_OF_TEST.read(&sent).unwrap(), long);
        let missing = sent[COOKIE].to_str().unwrap().split("; ").filter(|pair| !pair.starts_with("__Host-gaia-1="));
        let missing = HeaderMap::from_iter([(COOKIE, missing.collect::<Vec<_>>().join("; ").parse().unwrap())]);
        assert_eq!(COOKIE_OF_TEST.read(&missing), None, "a part of it is nothing");
    }

    #[test]
    fn a_shorter_value_leaves_no_part_of_the_longer_one_behind() {
        let sent = browser(&HeaderMap::new(), &COOKIE_OF_TEST.write(&"x".repeat(9000), &HeaderMap::new()).unwrap());
        let sent = browser(&sent, &COOKIE_OF_TEST.write("short", &sent).unwrap());
        assert_eq!(sent[COOKIE], "__Host-gaia=1.short");
        let sent = browser(&sent, &COOKIE_OF_TEST.write(&"y".repeat(9000), &sent).unwrap());
        assert!(browser(&sent, &COOKIE_OF_TEST.forget(&sent)).is_empty());
    }

    #[test]
    fn a_value_for_more_cookies_than_a_request_can_carry_is_not_written() {
        assert!(COOKIE_OF_TEST.write(&"x".repeat(PART_BYTES * MAX_PARTS), &HeaderMap::new()).is_some());
        assert!(COOKIE_OF_TEST.write(&"x".repeat(PART_BYTES * MAX_PARTS + 1), &HeaderMap::new()).is_none());
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        for text in ["", "a=b", "__Host-gaia=abc", "__Host-gaia=9.a", "__Host-gaia=0.a", "__Host-gaia=x.a", "gaia=1.a"]
        {
            let sent = HeaderMap::from_iter([(COOKIE, text.parse().unwrap())]);
            assert_eq!(COOKIE_OF_TEST.read(&sent), None, "{text:?}");
        }
        let twice = HeaderMap::from_iter([(COOKIE, "__Host-gaia=1.a; __Host-gaia=1.b".parse().unwrap())]);
        assert_eq!(COOKIE_OF_TEST.read(&twice), None);
        let two_headers = [(COOKIE, "a=b; c=d".parse().unwrap()), (COOKIE, "__Host-gaia=1.a".parse().unwrap())];
        let two_headers = HeaderMap::from_iter(two_headers);
        assert_eq!(COOKIE_OF_TEST.read(&two_headers), Some("a".to_owned()), "HTTP/2 splits them");
    }
}
