//! Style sheet, script and icon: embedded in the binary, with a hash of the content in their names, so that browsers
//! can cache them permanently.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use gaia_auth::sha256_hex;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

/// Paths of the static files.
#[derive(Debug)]
pub(crate) struct Statics {
    pub(crate) style: String,
    pub(crate) script: String,
    pub(crate) icon: String,
}

pub(crate) static STATICS: LazyLock<Statics> = LazyLock::new(|| {
    let [style, script, icon] = NAMES.each_ref().map(|name| format!("/static/{name}"));
    Statics { style, script, icon }
});

/// Serves a static file; 404 for any other name, including those of earlier versions.
pub(crate) async fn serve(Path(name): Path<String>) -> Response {
    match FILES.iter().zip(NAMES.iter()).find(|(_, known)| **known == name) {
        Some((file, _)) => {
            let headers = [(CONTENT_TYPE, file.content_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, file.text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

struct File {
    stem: &'static str,
    extension: &'static str,
    content_type: &'static str,
    text: &'static str,
}

impl File {
    fn name(&self) -> String {
        let hash = sha256_hex(self.text.as_bytes());
        format!("{}.{}.{}", self.stem, &hash[..16], self.extension)
    }
}

/// The names of [`FILES`], hashed once.
static NAMES: LazyLock<[String; 3]> = LazyLock::new(|| FILES.map(|file| file.name()));

const FILES: [File; 3] = [
    File {
        stem: "style",
        extension: "css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("../../static/style.css"),
    },
    File {
        stem: "script",
        extension: "js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("../../static/script.js"),
    },
    File { stem: "icon", extension: "svg", content_type: "image/svg+xml", text: include_str!("../../static/icon.svg") },
];
