//! Object names of assets: below the folder of the subject, in an encoding that no store interprets.
//!
//! A segment is percent-encoded if the result fits into a file name. A longer one (85 CJK letters take 765 bytes) is
//! base64url, split into several segments of the store. Each of those starts with an escape that percent-encoding never
//! writes, so that no two paths share an object.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_auth::{Identity, sha256_hex};
use object_store::path::{Path, PathPart};
use percent_encoding::percent_decode_str;

/// The path of an asset in a request: segments separated by `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetPath {
    segments: Vec<String>,
}

/// Reason why a text is not the path of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssetPathError {
    /// Longer than 1,024 bytes, deeper than 32 segments, or with a segment of more than 255 letters.
    #[error("the path is too long")]
    TooLong,
    /// An empty segment, `.`, `..`, a backslash or a control character.
    #[error("the path has a segment that is empty, `.` or `..`, or a character that is not allowed")]
    NotAllowed,
}

impl AssetPath {
    /// Parses a path that is already percent-decoded once.
    ///
    /// # Errors
    /// [`AssetPathError`]; the path is never normalized or truncated.
    pub fn parse(text: &str) -> Result<Self, AssetPathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(AssetPathError::TooLong);
        }
        let segments: Vec<String> = text.split('/').map(str::to_owned).collect();
        if segments.len() > MAX_DEPTH {
            return Err(AssetPathError::TooLong);
        }
        for segment in &segments {
            let is_reserved = matches!(segment.as_str(), "" | "." | "..");
            if is_reserved || segment.contains(|c: char| c.is_control() || c == '\\') {
                return Err(AssetPathError::NotAllowed);
            }
            if segment.chars().count() > MAX_SEGMENT_LETTERS {
                return Err(AssetPathError::TooLong);
            }
        }
        Ok(Self { segments })
    }

    /// Returns the last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.segments.last().map_or("", String::as_str)
    }

    /// Returns the object in the store.
    #[must_use]
    pub fn object(&self, subject: &Identity) -> Path {
        self.below(folder(subject))
    }

    fn below(&self, mut folder: Path) -> Path {
        for segment in &self.segments {
            let spelled = PathPart::from(segment.as_str());
            if spelled.as_ref().len() <= MAX_SEGMENT_BYTES {
                folder.extend([spelled]);
            } else {
                folder.extend(long(segment).iter().filter_map(|piece| PathPart::parse(piece).ok()));
            }
        }
        folder
    }
}

/// Encodes a segment that is too long for a file name when percent-encoded.
fn long(segment: &str) -> Vec<String> {
    let text = URL_SAFE_NO_PAD.encode(segment);
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while rest.len() > LONG_PIECE_BYTES {
        let (piece, more) = rest.split_at(LONG_PIECE_BYTES);
        pieces.push(format!("{GOES_ON}{piece}"));
        rest = more;
    }
    pieces.push(format!("{ENDS}{rest}"));
    pieces
}

/// Returns the folder of a subject's assets in the store: one segment, so that no subject is inside another.
#[must_use]
pub fn folder(subject: &Identity) -> Path {
    let name = subject.to_string();
    let spelled = PathPart::from(name.as_str());
    if spelled.as_ref().len() <= MAX_SEGMENT_BYTES {
        return Path::from_iter([spelled]);
    }
    // Too long for a file name. No subject starts with this prefix, so the folders of subjects stay distinct.
    Path::from_iter([PathPart::from(format!("sha256-{}", sha256_hex(name.as_bytes())))])
}

/// Returns the path of an object in the form used in requests; `None` if it was not created by [`AssetPath::object`].
#[must_use]
pub fn asset_path(object: &Path, folder: &Path) -> Option<String> {
    let mut segments = Vec::new();
    let mut long_text = String::new();
    for part in object.prefix_match(folder)? {
        let part = part.as_ref();
        if let Some(piece) = part.strip_prefix(GOES_ON) {
            long_text.push_str(piece);
        } else if let Some(piece) = part.strip_prefix(ENDS) {
            long_text.push_str(piece);
            segments.push(String::from_utf8(URL_SAFE_NO_PAD.decode(&long_text).ok()?).ok()?);
            long_text.clear();
        } else {
            segments.push(percent_decode_str(part).decode_utf8().ok()?.into_owned());
        }
    }
    let path = segments.join("/");
    // Objects in another encoding belong to another program.
    (AssetPath { segments }.below(folder.clone()) == *object).then_some(path)
}

const MAX_PATH_BYTES: usize = 1024;
const MAX_DEPTH: usize = 32;
/// Maximum number of letters in a segment, in any script.
const MAX_SEGMENT_LETTERS: usize = 255;
/// File systems permit 255, and a store appends a few while it writes.
const MAX_SEGMENT_BYTES: usize = 240;
const LONG_PIECE_BYTES: usize = 200;
/// Escaped `-` and `_`, which percent-encoding never writes.
const GOES_ON: &str = "%2D";
const ENDS: &str = "%5F";

#[cfg(test)]
mod tests {
    use gaia_api::SpiffeId;
    use proptest::prelude::*;

    use super::*;

    fn gateway() -> Identity {
        Identity::Service(SpiffeId::workload("gaia.local", "shop", "gateway"))
    }

    fn object(path: &str) -> Result<String, AssetPathError> {
        AssetPath::parse(path).map(|path| path.object(&gateway()).to_string())
    }

    #[test]
    fn an_asset_lies_under_its_subject() {
        assert_eq!(
            object("photos/cat.jpg").unwrap(),
            "spiffe:%2F%2Fgaia.local%2Fns%2Fshop%2Fsa%2Fgateway/photos/cat.jpg"
        );
        assert_eq!(folder(&Identity::Key("mobile".into())).to_string(), "key:mobile");
        assert_eq!(folder(&Identity::Key("../x/y".into())).to_string(), "key:..%2Fx%2Fy");
    }

    #[test]
    fn nothing_leads_out_of_a_subjects_folder() {
        for path in [
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "/etc/passwd",
            "a//b",
            "a/",
            "",
            ".",
            "a\\b",
            "..\\x",
            "a\0b",
            "a\nb",
            "a\u{85}b",
        ] {
            assert_eq!(object(path), Err(AssetPathError::NotAllowed), "{path:?}");
        }
        // The path is decoded only once; remaining escapes are part of the name.
        assert!(object("%2e%2e/x").unwrap().ends_with("/%252e%252e/x"));
        assert!(object("...").unwrap().ends_with("/..."));
    }

    #[test]
    fn a_path_is_bounded() {
        for letter in ["a", "#", "ж", "漢"] {
            assert!(object(&letter.repeat(255)).is_ok());
            assert_eq!(object(&letter.repeat(256)), Err(AssetPathError::TooLong), "{letter}");
        }
        assert!(object(&"𠀋".repeat(255)).is_ok());
        assert_eq!(object(&"a/".repeat(600)), Err(AssetPathError::TooLong));
        assert_eq!(object(&["a"; 33].join("/")), Err(AssetPathError::TooLong));
    }

    #[test]
    fn a_name_in_any_script_fits_into_file_names_and_reads_back() {
        let below = |path: &str| object(path).unwrap().split_once('/').unwrap().1.to_owned();
        // The encoding of names accepted by earlier versions does not change.
        assert_eq!(below(&"a".repeat(240)), "a".repeat(240));
        assert_eq!(below(&"漢".repeat(26)), "%E6%BC%A2".repeat(26));
        for name in ["漢".repeat(85), "ж".repeat(255), "𠀋".repeat(85), "a".repeat(241), "#".repeat(255)] {
            for path in [name.clone(), format!("{name}/a"), format!("a/{name}")] {
                let object = AssetPath::parse(&path).unwrap().object(&gateway());
                assert!(object.parts().all(|part| part.as_ref().len() <= MAX_SEGMENT_BYTES), "{object}");
                assert_eq!(asset_path(&object, &folder(&gateway())), Some(path));
            }
        }
        // A name that looks like an encoded one stays distinct, and foreign objects are not assets.
        assert_eq!(below("%5FYQ"), "%255FYQ");
        let foreign = |path: &str| {
            asset_path(&Path::parse(format!("{}/{path}", folder(&gateway()))).unwrap(), &folder(&gateway()))
        };
        for path in ["%5FYQ", "%2DYQ", "%2DYQ/%5FYQ", "%61", "%5F", "%5F!!"] {
            assert_eq!(foreign(path), None, "{path}");
        }
    }

    #[test]
    fn a_subject_too_long_for_a_file_name_has_a_folder_of_its_own_all_the_same() {
        let long = |last: &str| folder(&Identity::Key(format!("{}{last}", "k".repeat(300))));
        assert!(long("a").as_ref().starts_with("sha256-") && long("a").as_ref().len() == 71);
        assert_ne!(long("a"), long("b"));
    }

    proptest! {
        #[test]
        fn every_path_is_refused_or_stays_below_its_subject_and_reads_back(path in "\\PC{0,60}|[./a%\\\\~#-]{0,20}|[漢ж#/]{80,300}") {
            if let Ok(asset) = AssetPath::parse(&path) {
                let (object, folder) = (asset.object(&gateway()), folder(&gateway()));
                prop_assert!(object.prefix_match(&folder).is_some_and(|mut rest| rest.next().is_some()));
                prop_assert!(object.parts().count() > path.split('/').count());
                prop_assert!(object.parts().all(|part| part.as_ref().len() <= MAX_SEGMENT_BYTES));
                prop_assert!(object.parts().all(|part| !matches!(part.as_ref(), "" | "." | "..")));
                prop_assert_eq!(asset_path(&object, &folder), Some(path));
            }
        }

        #[test]
        fn two_paths_never_share_an_object(a in "[ab/%2f.]{1,6}", b in "[ab/%2f.]{1,6}") {
            if let (Ok(first), Ok(second)) = (AssetPath::parse(&a), AssetPath::parse(&b)) {
                prop_assert_eq!(a == b, first.object(&gateway()) == second.object(&gateway()));
            }
        }
    }
}
