//! Quoting of values in units (systemd.syntax(7), systemd.unit(5) on specifiers).

/// A path as the whole value of a condition: `%` starts a specifier, and there are no quotes.
pub(super) fn whole(text: &str) -> String {
    text.replace('%', "%%")
}

/// A path as one of the values of a setting, which blanks separate.
pub(super) fn path(text: &str) -> String {
    quoted(&whole(text))
}

/// A path as a word of a command line, in which `$` starts a variable too.
pub(super) fn word(text: &str) -> String {
    quoted(&whole(text).replace('$', "$$"))
}

fn quoted(text: &str) -> String {
    let needs_quotes = text.contains(|c: char| c.is_whitespace() || matches!(c, '\'' | ';' | '#'));
    if needs_quotes { format!("\"{text}\"") } else { text.to_owned() }
}
