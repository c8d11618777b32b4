//! PEM texts with blocks of several kinds.

/// The blocks of a PEM text, each as text with its label; none: it has no block.
pub(super) fn blocks(text: &str) -> Vec<(&str, &str)> {
    let mut blocks = vec![];
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let block = &rest[start..];
        let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
        let end = format!("-----END {label}-----");
        let length = block.find(&end).map_or(block.len(), |at| at + end.len());
        blocks.push((label, &block[..length]));
        rest = &block[length..];
    }
    blocks
}

const BEGIN: &str = "-----BEGIN ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_at_their_own_end() {
        let text = "x\n-----BEGIN A-----\n1\n-----END A-----\ny\n-----BEGIN B C-----\n2\n-----END B C-----\n";
        let labels: Vec<&str> = blocks(text).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["A", "B C"]);
        assert_eq!(blocks("-----BEGIN A-----\n1\n"), [("A", "-----BEGIN A-----\n1\n")]);
        assert_eq!(blocks("-----BEGIN "), [("", "-----BEGIN ")]);
        assert!(blocks("plain").is_empty());
    }
}
