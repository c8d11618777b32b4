//! OpenSSL: an independent validation of certificates, and bring-your-own CAs.

use std::path::Path;
use std::process::Command;

use gaia_e2e::process;
use tempfile::TempDir;

/// A directory with files in it, in which openssl runs.
pub struct OpenSsl(TempDir);

impl OpenSsl {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir().join(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(name)).unwrap()
    }

    /// Runs openssl, which must succeed; what it printed on both streams.
    pub async fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(self.dir());
        let output = process::output(command).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "openssl {}: {said}", args.join(" "));
        said
    }

    /// Verifies a chain against a bundle, for a server and for a client, with all of RFC 5280.
    pub async fn verify(&self, bundle: &str, chain: &str) {
        self.write("bundle.pem", bundle);
        self.write("chain.pem", chain);
        for purpose in ["sslserver", "sslclient"] {
            let options = ["-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore"];
            let files = ["-CAfile", "bundle.pem", "-untrusted", "chain.pem", "chain.pem"];
            self.run(&[&["verify"][..], &options, &files].concat()).await;
        }
    }

    /// The DNS names, addresses and URIs of a certificate, sorted, as openssl writes them.
    pub async fn names(&self, certificate: &str) -> Vec<String> {
        self.write("leaf.pem", certificate);
        let said = self.run(&["x509", "-in", "leaf.pem", "-noout", "-ext", "subjectAltName"]).await;
        let list = said.lines().nth(1).unwrap();
        let mut names: Vec<String> = list.split(", ").map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    }

    /// The SHA-256 of a certificate, lower-case hex.
    pub async fn fingerprint(&self, certificate: &str) -> String {
        self.write("leaf.pem", certificate);
        let said = self.run(&["x509", "-in", "leaf.pem", "-noout", "-fingerprint", "-sha256"]).await;
        said.rsplit_once('=').unwrap().1.trim().replace(':', "").to_lowercase()
    }

    /// A private key, as `<name>.key`.
    pub async fn key(&self, name: &str) {
        let file = format!("{name}.key");
        self.run(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &file]).await;
    }

    /// A self-signed certificate with its key, as `<name>.crt` and `<name>.key`. `extra` are flags of `openssl req`.
    pub async fn self_signed(&self, name: &str, subject: &str, extra: &[&str]) {
        self.key(name).await;
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let base = ["req", "-x509", "-new", "-key", &key, "-subj", subject, "-out", &certificate];
        self.run(&[&base[..], extra].concat()).await;
    }

    /// An intermediate CA under `<root>`, as `<name>.crt` and `<name>.key`.
    pub async fn intermediate(&self, name: &str, subject: &str, root: &str) {
        self.key(name).await;
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let (root_key, root_certificate) = (format!("{root}.key"), format!("{root}.crt"));
        let base = ["req", "-x509", "-new", "-key", &key, "-subj", subject, "-out", &certificate];
        let signer = ["-CA", &root_certificate, "-CAkey", &root_key, "-days", "3000"];
        self.run(&[&base[..], &signer, &CA_EXTENSIONS].concat()).await;
    }
}

/// The extensions that a CA needs.
pub const CA_EXTENSIONS: [&str; 4] =
    ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
