//! Restricts log filters to Gaia's own crates.
//!
//! Client libraries can log whole requests and responses, which hold private keys. So a user's filter takes effect for
//! targets `gaia_*` only.

/// A filter as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// Directives in the syntax of `tracing-subscriber`, all of them about targets `gaia_*`.
    pub directives: String,
    /// Directives of the given filter for other targets, which have no effect.
    pub ignored: Vec<String>,
}

impl LogFilter {
    /// Takes the filter that a user gave. A level without a target is that of all targets `gaia_*`.
    #[must_use]
    pub fn of(given: &str) -> Self {
        let mut directives = vec![];
        let mut ignored = vec![];
        for directive in split(given) {
            let directive = directive.trim();
            if directive.is_empty() {
                continue;
            }
            if is_level(directive) {
                directives.push(format!("{TARGETS}={directive}"));
            } else if is_ours(directive) || !is_directive(directive) {
                // The parser rejects an invalid directive.
                directives.push(directive.to_owned());
            } else {
                ignored.push(directive.to_owned());
            }
        }
        if directives.is_empty() {
            directives.push("off".to_owned());
        }
        Self { directives: directives.join(","), ignored }
    }

    /// Returns true if lines of a target may be logged at all, whatever the filter is.
    #[must_use]
    pub fn is_loggable(target: &str) -> bool {
        target.starts_with(TARGETS)
    }
}

/// Commas inside of braces belong to the fields of a span.
fn split(given: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for c in given.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| text.eq_ignore_ascii_case(level))
        || matches!(text, "0" | "1" | "2" | "3" | "4" | "5")
}

fn is_ours(directive: &str) -> bool {
    directive.starts_with(TARGETS)
}

fn is_directive(text: &str) -> bool {
    let (target, level) = text.rsplit_once('=').unwrap_or((text, "trace"));
    let target = target.split('[').next().unwrap_or_default();
    is_level(level) && target.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.'))
}

const TARGETS: &str = "gaia_";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &str) -> (String, Vec<String>) {
        let LogFilter { directives, ignored } = LogFilter::of(given);
        (directives, ignored)
    }

    #[test]
    fn a_level_is_that_of_our_own_targets() {
        for level in ["info", "TRACE", "off", "5"] {
            assert_eq!(of(level), (format!("gaia_={level}"), vec![]));
        }
        assert_eq!(of("warn,gaia_operator::watch=debug").0, "gaia_=warn,gaia_operator::watch=debug");
        assert_eq!(of(" info , gaia_plan=trace,").0, "gaia_=info,gaia_plan=trace");
    }

    #[test]
    fn no_filter_switches_on_the_lines_of_other_crates() {
        for other in
            ["kube=trace", "kube_client", "hyper=5", "[HTTP{http.url=x,y=z}]=trace", "kube[a]=debug", "log=trace"]
        {
            assert_eq!(of(&format!("info,{other}")), ("gaia_=info".to_owned(), vec![other.to_owned()]), "{other}");
            assert_eq!(of(other), ("off".to_owned(), vec![other.to_owned()]), "{other}");
        }
        for target in ["kube_client::client", "hyper", "log", "gaia", ""] {
            assert!(!LogFilter::is_loggable(target), "{target}");
        }
        assert!(LogFilter::is_loggable("gaia_operator::watch"));
    }

    #[test]
    fn what_is_no_filter_is_left_to_the_parser() {
        for broken in ["a=b=c", "gaia_operator=loud", "kube=loud"] {
            assert_eq!(of(broken), (broken.to_owned(), vec![]));
        }
    }
}
