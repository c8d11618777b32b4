//! Comments and string literals of a source in Rust.

/// A string literal.
#[derive(Debug, PartialEq, Eq)]
pub struct Literal {
    /// Line of its first character, from 1.
    pub line: usize,
    /// Its text as in the source, with escapes and continued lines resolved.
    pub text: String,
    /// The attribute that it is in, such as `error` or `expect`; empty outside of attributes.
    pub attribute: String,
}

/// Line, text and kind of each comment line: true for the first line of a doc comment.
#[must_use]
pub fn comments(source: &str) -> Vec<(usize, &str, bool)> {
    let (mut found, mut was_doc) = (vec![], false);
    for (number, line) in source.lines().enumerate() {
        let trimmed = line.trim_start();
        let is_doc = trimmed.starts_with("///") || trimmed.starts_with("//!");
        let text = match trimmed.strip_prefix("//") {
            Some(text) => Some(text.trim_start_matches(['/', '!'])),
            None => line.split_once(" // ").map(|(_, text)| text).filter(|text| !text.contains('"')),
        };
        if let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) {
            found.push((number + 1, text, is_doc && !was_doc));
        }
        was_doc = is_doc;
    }
    found
}

/// The string literals of a source, without comments.
#[must_use]
pub fn literals(source: &str) -> Vec<Literal> {
    let mut reader = Reader { rest: source, line: 1, attributes: vec![], found: vec![] };
    while !reader.rest.is_empty() {
        reader.step();
    }
    reader.found
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    /// The open attribute's name, and its open brackets.
    attributes: Vec<String>,
    found: Vec<Literal>,
}

impl Reader<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(rest.find("*/").map_or(rest.len(), |end| end + 2));
        } else if rest.starts_with("#[") || rest.starts_with("#![") {
            let start = rest.find('[').unwrap_or(0) + 1;
            let name = rest[start..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            self.attributes.push(name.to_owned());
            self.skip(start);
        } else if !self.attributes.is_empty() && rest.starts_with('[') {
            let name = self.attribute();
            self.attributes.push(name);
            self.skip(1);
        } else if rest.starts_with(']') {
            self.attributes.pop();
            self.skip(1);
        } else if let Some(hashes) = raw_string(rest) {
            let start = rest.find('"').unwrap_or(0) + 1;
            let end = rest[start..].find(&format!("\"{hashes}")).unwrap_or(rest.len() - start);
            self.push(rest[start..start + end].to_owned());
            self.skip((start + end + 1 + hashes.len()).min(rest.len()));
        } else if let Some(text) = rest.strip_prefix('"') {
            let end = end_of_string(text);
            self.push(unescaped(&text[..end]));
            self.skip((end + 2).min(rest.len()));
        } else if let Some(end) = character(rest) {
            self.skip(end);
        } else {
            self.skip(rest.chars().next().map_or(1, char::len_utf8));
        }
    }

    fn attribute(&self) -> String {
        self.attributes.first().cloned().unwrap_or_default()
    }

    fn push(&mut self, text: String) {
        self.found.push(Literal { line: self.line, text, attribute: self.attribute() });
    }

    fn skip(&mut self, bytes: usize) {
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }
}

/// The hashes of a raw string that begins here.
fn raw_string(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes: String = rest.chars().take_while(|c| *c == '#').collect();
    rest[hashes.len()..].starts_with('"').then_some(hashes)
}

fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal that begins here; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let text = rest.strip_prefix('\'')?;
    let end = match text.strip_prefix('\\') {
        Some(escaped) => escaped.find('\'').filter(|end| *end < 12)? + 2,
        None => text.chars().next()?.len_utf8(),
    };
    let end = if text.starts_with("\\'") { 2 } else { end };
    text[end.min(text.len())..].starts_with('\'').then_some(end + 2)
}

/// Resolves continued lines, newlines and quotes.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        rest = match after.chars().next() {
            Some('\n') => after.trim_start(),
            Some('n') => {
                out.push(' ');
                &after[1..]
            }
            Some(c) if c == '"' || c == '\\' => {
                out.push(c);
                &after[1..]
            }
            _ => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_and_comments_are_not() {
        let source =
            "// \"no\"\n#[error(\"an {x}\")]\nlet a = (\"b\\\"c\", r#\"d\"e\"#, '\"', \"f \\\n   g\"); fn h<'a>() {}";
        let found: Vec<_> = literals(source).into_iter().map(|l| (l.line, l.text, l.attribute)).collect();
        let expected = [(2, "an {x}", "error"), (3, "b\"c", ""), (3, "d\"e", ""), (3, "f g", "")];
        assert_eq!(found, expected.map(|(line, text, attribute)| (line, text.to_owned(), attribute.to_owned())));
    }

    #[test]
    fn comments_have_their_kind() {
        let source = "/// A.\n/// B.\nfn c() {} // d\n//! e\nlet url = \"http://f\";\n";
        assert_eq!(comments(source), [(1, "A.", true), (2, "B.", false), (3, "d", false), (4, "e", true)]);
    }
}
