//! The lines of fields in a YAML file, for messages.
//!
//! The parser reports positions of syntax errors only. A field is found by its keys in the order of its path, which is
//! exact for block style and names the right line for flow style on one line.

/// The documents of a file: their lines with the number of each.
pub(super) struct Documents<'a>(Vec<Vec<(usize, &'a str)>>);

impl<'a> Documents<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let mut documents = vec![vec![]];
        for (index, line) in text.lines().enumerate() {
            let is_break = line == "---" || line.starts_with("--- ");
            if is_break {
                documents.push(vec![]);
            }
            let rest = line.strip_prefix("---").filter(|_| is_break).unwrap_or(line);
            if let Some(last) = documents.last_mut().filter(|_| !is_blank(rest)) {
                last.push((index + 1, rest));
            }
        }
        documents.retain(|lines| !lines.is_empty());
        Self(documents)
    }

    /// The first line of a document.
    pub(super) fn first_line(&self, document: usize) -> Option<usize> {
        self.0.get(document)?.first().map(|(number, _)| *number)
    }

    /// The line of a field, or of the last of its parents that has one.
    pub(super) fn line(&self, document: usize, path: &[String]) -> Option<usize> {
        let lines = self.0.get(document)?;
        let mut at = 0;
        let mut found = None;
        for part in path {
            let next = match part.parse::<usize>() {
                Ok(index) => item(lines, at, index),
                Err(_) => (at..lines.len()).find(|&index| has_key(lines[index].1, part)),
            };
            let Some(next) = next else { break };
            at = next;
            found = Some(lines[next].0);
        }
        found.or_else(|| self.first_line(document))
    }
}

/// The line of the item of a list that begins at or after a line. A list in flow style is on the line of its key.
fn item(lines: &[(usize, &str)], from: usize, index: usize) -> Option<usize> {
    let starts = |line: &str| line.trim_start().starts_with("- ") || line.trim() == "-";
    let first = (from..lines.len()).find(|&at| starts(lines[at].1)).filter(|at| *at <= from + 1);
    let Some(first) = first else { return Some(from) };
    let indent = indent(lines[first].1);
    let items = (first..lines.len()).filter(|&at| starts(lines[at].1) && self::indent(lines[at].1) == indent);
    items.take(index + 1).last()
}

fn has_key(line: &str, key: &str) -> bool {
    let text = line.trim_start().trim_start_matches("- ").trim_start();
    let is_key = |rest: &str| rest.trim_start_matches(['"', '\'']).starts_with(':');
    let starts = |text: &str| text.trim_start_matches(['"', '\'']).strip_prefix(key).is_some_and(is_key);
    starts(text) || text.split(['{', ',']).skip(1).any(|part| starts(part.trim_start()))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_blank(line: &str) -> bool {
    let text = line.trim();
    text.is_empty() || text.starts_with('#')
}
