//! Where an asset is kept: under its subject, at its path, in a spelling that no store reads as anything else.

use gaia_auth::{Identity, sha256_hex};
use object_store::path::{Path, PathPart};
use percent_encoding::percent_decode_str;

/// The path of an asset as its owner writes it: segments with a `/` in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetPath {
    segments: Vec<String>,
}

/// Why a text is not the path of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssetPathError {
    /// Too long, too deep, or with a segment that is too long once spelled out.
    #[error("the path is too long")]
    TooLong,
    /// An empty segment, `.`, `..`, a backslash or a control character.
    #[error("the path has a segment that is empty, `.` or `..`, or a character that is not allowed")]
    NotAllowed,
}

impl AssetPath {
    /// Reads a path, already percent-decoded once.
    ///
    /// # Errors
    /// [`AssetPathError`] rather than a guess: nothing is cleaned up, cut off or resolved.
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
            if PathPart::from(segment.as_str()).as_ref().len() > MAX_SEGMENT_BYTES {
                return Err(AssetPathError::TooLong);
            }
        }
        Ok(Self { segments })
    }

    /// The last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.segments.last().map_or("", String::as_str)
    }

    /// Where it is in the store.
    #[must_use]
    pub fn object(&self, subject: &Identity) -> Path {
        let mut path = folder(subject);
        path.extend(self.segments.iter().map(|segment| PathPart::from(segment.as_str())));
        path
    }
}

/// Where the assets of a subject are in the store: one segment, so no subject is inside another.
#[must_use]
pub fn folder(subject: &Identity) -> Path {
    let name = subject.to_string();
    let spelled = PathPart::from(name.as_str());
    if spelled.as_ref().len() <= MAX_SEGMENT_BYTES {
        return Path::from_iter([spelled]);
    }
    // Too long for a file name. No subject begins like this, so none can be mistaken for another.
    Path::from_iter([PathPart::from(format!("sha256-{}", sha256_hex(name.as_bytes())))])
}

/// The path of an object as its owner wrote it; `None` for what was not put there by [`AssetPath::object`].
#[must_use]
pub fn asset_path(object: &Path, folder: &Path) -> Option<String> {
    let segments = object.prefix_match(folder)?.map(|part| {
        let text = percent_decode_str(part.as_ref()).decode_utf8().ok()?;
        (PathPart::from(text.as_ref()).as_ref() == part.as_ref()).then(|| text.into_owned())
    });
    segments.collect::<Option<Vec<String>>>().map(|segments| segments.join("/"))
}

const MAX_PATH_BYTES: usize = 1024;
const MAX_DEPTH: usize = 32;
/// File systems take 255, and a store adds a few while it writes.
const MAX_SEGMENT_BYTES: usize = 240;

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
        // Decoded once already: what is still encoded is a name like any other.
        assert!(object("%2e%2e/x").unwrap().ends_with("/%252e%252e/x"));
        assert!(object("...").unwrap().ends_with("/..."));
    }

    #[test]
    fn a_path_is_bounded() {
        assert!(object(&"a".repeat(240)).is_ok());
        assert_eq!(object(&"a".repeat(241)), Err(AssetPathError::TooLong));
        assert_eq!(object(&"ä".repeat(41)), Err(AssetPathError::TooLong), "counted as it is spelled in the store");
        assert_eq!(object(&"a/".repeat(600)), Err(AssetPathError::TooLong));
        assert_eq!(object(&["a"; 33].join("/")), Err(AssetPathError::TooLong));
    }

    #[test]
    fn a_subject_too_long_for_a_file_name_has_a_folder_of_its_own_all_the_same() {
        let long = |last: &str| folder(&Identity::Key(format!("{}{last}", "k".repeat(300))));
        assert!(long("a").as_ref().starts_with("sha256-") && long("a").as_ref().len() == 71);
        assert_ne!(long("a"), long("b"));
    }

    proptest! {
        #[test]
        fn every_path_is_refused_or_stays_below_its_subject_and_reads_back(path in "\\PC{0,60}|[./a%\\\\~#-]{0,20}") {
            if let Ok(asset) = AssetPath::parse(&path) {
                let (object, folder) = (asset.object(&gateway()), folder(&gateway()));
                prop_assert!(object.prefix_match(&folder).is_some_and(|mut rest| rest.next().is_some()));
                prop_assert_eq!(object.parts().count(), path.split('/').count() + 1);
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
