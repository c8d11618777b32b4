//! asset-service as a process, on a folder and on a bucket, called by curl.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gaia_api::names::key;
use gaia_e2e::curl::Answer;
use gaia_e2e::{Curl, Standalone, Within, tier, wait};
use gaia_runtime::testing::{Platform, api_keys};
use gaia_stand_ins::s3::{BUCKET, S3};

struct Assets {
    service: Standalone,
    dir: tempfile::TempDir,
}

impl Assets {
    async fn start(env: &[(&str, &str)]) -> Self {
        Self::start_on(env, None).await
    }

    /// On a disk of so many KiB.
    async fn start_on(env: &[(&str, &str)], kib: Option<u32>) -> Self {
        let platform = Platform::new();
        let dir = tempfile::tempdir().unwrap();
        let mut files = platform.mount("asset-service");
        files.insert(key::API_KEYS, api_keys(&[("app", API_KEY, &[])]));
        fs::write(dir.path().join(key::CA_CERT), platform.bundle()).unwrap();
        let folder = dir.path().join("assets");
        let within = kib.map_or(Within::Nothing, |kib| Within::Disk { folder: &folder, kib });
        let service = Standalone::start_within("asset-service", dir.path(), &files, env, within).await.unwrap();
        Self { service, dir }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.service.mesh)
    }

    fn call(&self, path: &str) -> Curl {
        Curl::to(&self.url(path), self.dir.path()).api_key(API_KEY)
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(path).send().await.unwrap()
    }

    async fn put(&self, path: &str, body: &str) -> Answer {
        self.call(path).method("PUT").body(body).send().await.unwrap()
    }

    /// The files in the folder, whatever their names.
    fn kept(&self) -> usize {
        files_below(&self.dir.path().join("assets"))
    }
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

/// Kind: a full disk that is a failure of the service, loses an asset, or is full for good.
#[tokio::test]
async fn full_disk_is_a_507_and_loses_nothing() {
    if tier::mount_namespace().await.is_none() {
        return;
    }
    let assets = Assets::start_on(&[], Some(4096)).await;
    // One is a small asset, and one is written in parts.
    for size in [200_000, 700_000] {
        let content = "x".repeat(size);
        let file = |name: &str, content: &str| {
            let path = assets.dir.path().join(name);
            fs::write(&path, content).unwrap();
            format!("@{}", path.display())
        };
        let (body, larger) = (file("content", &content), file("larger", &"y".repeat(2_000_000)));
        let mut kept = Vec::new();
        let full = loop {
            let path = format!("/assets/{size}-{}", kept.len());
            match assets.put(&path, &body).await.status {
                201 => kept.push(path),
                other => break other,
            }
        };
        assert_eq!(full, 507);
        assert!(!kept.is_empty());
        assert_eq!(assets.put(&kept[0], &larger).await.status, 507, "a larger version does not fit either");
        for path in &kept {
            let read = assets.get(path).await;
            assert!(read.status == 200 && read.body == content, "{path}: {}", read.status);
        }
        assert_eq!(assets.call(&kept[0]).method("DELETE").send().await.unwrap().status, 204);
        assert_eq!(assets.put("/assets/again", &body).await.status, 201, "there is space again");
        for path in kept[1..].iter().map(String::as_str).chain(["/assets/again"]) {
            assert_eq!(assets.call(path).method("DELETE").send().await.unwrap().status, 204);
        }
    }
    assert_eq!(assets.service.exit_status(), None);
}

#[tokio::test]
async fn curl_resumes_a_download_and_revalidates_a_complete_one() {
    let assets = Assets::start(&[]).await;
    let put = assets.put("/assets/notes.txt", "0123456789").await;
    assert_eq!(put.status, 201);
    let etag = put.header("etag").unwrap().to_owned();
    let part = assets.call("/assets/notes.txt").header("Range: bytes=7-").header(&format!("If-Range: {etag}"));
    let part = part.send().await.unwrap();
    assert_eq!((part.status, part.header("content-range"), part.body.as_str()), (206, Some("bytes 7-9/10"), "789"));
    let beyond = assets.call("/assets/notes.txt").header("Range: bytes=10-").send().await.unwrap();
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let known = assets.call("/assets/notes.txt").header(&format!("If-None-Match: {etag}"));
    assert_eq!(known.send().await.unwrap().status, 304);

    let mine = || assets.call("/assets/notes.txt").method("PUT").header(&format!("If-Match: {etag}"));
    assert_eq!(mine().body("mine").send().await.unwrap().status, 204);
    assert_eq!(mine().body("late").send().await.unwrap().status, 412);
    let got = assets.get("/assets/notes.txt").await;
    assert_eq!((got.status, got.header("content-disposition")), (200, Some("attachment; filename*=UTF-8''notes.txt")));
    assert_eq!(got.body, "mine");
}

#[tokio::test]
async fn an_interrupted_upload_leaves_the_previous_file() {
    let assets = Assets::start(&[]).await;
    assets.put("/assets/a.bin", "as it was").await.expect(201).unwrap();
    for megabytes in [1, 8] {
        let mut curl = Command::new("curl");
        curl.args([
            "--disable",
            "--silent",
            "--noproxy",
            "*",
            "--upload-file",
            "-",
            "--url",
            &assets.url("/assets/a.bin"),
        ]);
        curl.arg("--header")
            .arg(format!("X-API-Key: {API_KEY}"))
            .arg("--cacert")
            .arg(assets.dir.path().join(key::CA_CERT));
        let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // When all of it is written, curl has passed on most of it.
        curl.stdin.as_mut().unwrap().write_all(&vec![7; megabytes * 1024 * 1024]).unwrap();
        curl.kill().unwrap();
        curl.wait().unwrap();
        let is_gone = async || assets.kept() == 1 && assets.get("/assets/a.bin").await.body == "as it was";
        wait::until("nothing is left of the upload", SOON, is_gone).await.unwrap();
    }
}

#[tokio::test]
async fn a_bucket_keeps_assets_like_a_folder_and_its_credentials_are_nowhere_to_be_seen() {
    let s3 = S3::start().await.unwrap();
    let keys = tempfile::tempdir().unwrap();
    let file: PathBuf = keys.path().join("credentials");
    fs::write(&file, s3.credentials_file()).unwrap();
    let (url, endpoint, path) = (format!("s3://{BUCKET}/shop"), s3.endpoint(), file.display().to_string());
    let env = [
        ("GAIA_OBJECT_STORE_URL", &*url),
        ("GAIA_OBJECT_STORE_ENDPOINT", &*endpoint),
        ("GAIA_OBJECT_STORE_CREDENTIALS_FILE", &*path),
    ];
    let assets = Assets::start(&env).await;
    assert_eq!(assets.put("/assets/notes/a.txt", "hello").await.status, 201);
    assert_eq!(s3.objects(), ["shop/key:app/notes/a.txt"]);
    assert_eq!(assets.get("/assets/notes/a.txt").await.body, "hello");
    assert!(assets.get("/assets").await.body.contains(r#""path":"notes/a.txt""#));

    s3.set_secret("another-secret");
    let refused = assets.get("/assets/notes/a.txt").await;
    assert_eq!(refused.status, 500);
    let log = assets.service.log_tail();
    assert!(log.contains("the object store failed"), "{log}");
    for secret in ["s3cret/of+the=store", API_KEY] {
        assert!(!log.contains(secret) && !refused.body.contains(secret), "{secret} is told");
    }
    fs::write(&file, s3.credentials_file()).unwrap();
    assets.call("/assets/notes/a.txt").method("DELETE").send().await.unwrap().expect(204).unwrap();
    assert_eq!(s3.objects(), Vec::<String>::new());
}

const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(60);
