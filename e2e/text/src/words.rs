//! Words of a private style, with the usual ones.

/// A word or phrase to replace.
#[derive(Debug, PartialEq, Eq)]
pub struct Hit {
    /// The phrase.
    pub phrase: &'static str,
    /// What to write instead.
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
    PHRASES.iter().filter(|(phrase, _)| is_in(phrase)).map(|(phrase, instead)| Hit { phrase, instead }).collect()
}

/// True if a doc comment opens with a question word: it should open with a noun phrase or a verb.
#[must_use]
pub fn is_riddle_opener(text: &str) -> bool {
    let first = text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    OPENERS.contains(&first) || ["Since when", "Until when", "Of what"].iter().any(|opener| text.starts_with(opener))
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

/// Phrases in lower case, and what to write instead.
const PHRASES: [(&str, &str); 60] = [
    ("a moment ago", "the duration"),
    ("all the same", "nevertheless, or leave it out"),
    ("anew", "again; re-issued"),
    ("any more", "no longer"),
    ("anybody", "any client, any user"),
    ("are told", "get, are reported"),
    ("as good as", "almost, equal to"),
    ("as it is", "unchanged, at present"),
    ("as it was", "unchanged, the previous one"),
    ("at the earliest", "not before"),
    ("at the latest", "by, within"),
    ("believed", "accepted, trusted"),
    ("beside", "in addition to, with"),
    ("brought", "bring-your-own"),
    ("by itself", "automatically, separately"),
    ("by themselves", "automatically, separately"),
    ("comes back", "returns, is restored"),
    ("comes in", "arrives"),
    ("everybody", "all instances, all clients"),
    ("for ever", "permanently"),
    ("for good", "permanently"),
    ("go on", "continue"),
    ("goes on", "continues"),
    ("going on", "in progress"),
    ("gone on", "continued"),
    ("heard", "received, collected"),
    ("is told", "gets, is reported"),
    ("judge", "validate, evaluate"),
    ("judged", "validated, evaluated"),
    ("judges", "validates, evaluates"),
    ("looked at", "read, checked"),
    ("made of", "consists of, derived from"),
    ("meanwhile", "in the meantime, or leave it out"),
    ("no more", "no longer"),
    ("nobody", "no client, no user"),
    ("people", "users, administrators"),
    ("put right", "repaired, restored"),
    ("says so", "reports it"),
    ("so to speak", "leave it out"),
    ("somebody", "another writer, a user"),
    ("taken in", "loaded, accepted"),
    ("takes in", "loads, accepts"),
    ("tell of", "report"),
    ("tells of", "reports"),
    ("to be had", "available"),
    ("told apart", "distinguished"),
    ("under way", "in progress, open"),
    ("waited for", "awaited; name what waits"),
    ("was told", "got, was reported"),
    ("went on", "continued"),
    ("what is", "a noun"),
    ("what there", "a noun"),
    ("what was", "a noun"),
    ("who asks", "the caller"),
    ("who does", "the user, the client"),
    ("who has", "the holder, the user"),
    ("who is", "the user, the client"),
    ("who uses", "users of"),
    ("who was", "the user, the client"),
    ("whoever", "callers that, users who"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_within_a_sentence_and_outside_of_code() {
        let phrases = |text| hits(text).into_iter().map(|hit| hit.phrase).collect::<Vec<_>>();
        assert_eq!(phrases("The rotation goes on, and nobody is told."), ["goes on", "is told", "nobody"]);
        assert_eq!(phrases("It goes. On the next day, `what is` a name."), Vec::<&str>::new());
    }

    #[test]
    fn question_words_are_riddle_openers() {
        assert!(is_riddle_opener("What a service mounts.") && is_riddle_opener("Since when it runs."));
        assert!(!is_riddle_opener("Whatever") && !is_riddle_opener("The time from which it runs."));
    }
}
