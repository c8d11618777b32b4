//! Words of a private style, with the usual ones.

/// A word or phrase to replace.
#[derive(Debug, PartialEq, Eq)]
pub struct Hit {
    /// The phrase.
    pub phrase: &'static str,
    /// The usual word or phrase.
    pub instead: &'static str,
}

/// The listed phrases in a text. Code in backticks is not text.
#[must_use]
pub fn hits(text: &str) -> Vec<Hit> {
    let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" | ").to_lowercase();
    let words: Vec<_> = prose.split_whitespace().flat_map(parts).collect();
    let words = format!(" {} ", words.join(" "));
    let is_word = |at: usize, phrase: &str| words[..at].ends_with(' ') && words[at + phrase.len()..].starts_with(' ');
    let is_in = |phrase: &str| words.match_indices(phrase).any(|(at, _)| is_word(at, phrase));
    phrases().filter(|hit| is_in(hit.phrase)).collect()
}

/// True if a doc comment opens with a question word: it should open with a noun phrase or a verb.
#[must_use]
pub fn is_riddle_opener(text: &str) -> bool {
    let first = text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    OPENERS.contains(&first) || ["Since when", "Until when", "Of what"].iter().any(|opener| text.starts_with(opener))
}

/// The list in `words.txt`.
fn phrases() -> impl Iterator<Item = Hit> {
    let rows = include_str!("../words.txt").lines().filter(|row| !row.starts_with('#'));
    rows.filter_map(|row| row.split_once(": ")).map(|(phrase, instead)| Hit { phrase, instead })
}

/// A word without punctuation; a separator for the punctuation, so that no phrase spans it.
fn parts(word: &str) -> Vec<&str> {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    let mut parts = vec![];
    if !word.starts_with(bare) || bare.is_empty() {
        parts.push("|");
    }
    if !bare.is_empty() {
        parts.push(bare);
        if !word.ends_with(bare) {
            parts.push("|");
        }
    }
    parts
}

const OPENERS: [&str; 10] = ["How", "What", "When", "Where", "Whether", "Who", "Whoever", "Whom", "Whose", "Why"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_within_a_sentence_and_outside_of_code() {
        let phrases = |text| hits(text).into_iter().map(|hit| hit.phrase).collect::<Vec<_>>();
        assert_eq!(phrases("It goes on."), ["goes on"]);
        assert_eq!(phrases("It goes. On"), [""; 0]);
        assert_eq!(phrases("Not `goes on`"), [""; 0]);
    }

    #[test]
    fn question_words_are_riddle_openers() {
        assert!(is_riddle_opener("What it mounts.") && is_riddle_opener("Since when."));
        assert!(!is_riddle_opener("Whatever") && !is_riddle_opener("The time."));
    }
}
