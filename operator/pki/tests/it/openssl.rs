//! The `openssl` program, and CAs created with it as users do.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use gaia_pki::{Ca, Leaf, Usage};
use jiff::SignedDuration;
use tempfile::TempDir;

/// `openssl` in a temporary directory.
pub(crate) struct OpenSsl(TempDir);

/// A certificate and its key, both in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Parameters of `openssl req -x509`.
pub(crate) struct Wanted<'a> {
    pub(crate) subject: &'a str,
    /// The algorithm and its `-pkeyopt`, if it takes one.
    pub(crate) key: (&'a str, Option<&'a str>),
    pub(crate) extensions: &'a str,
    pub(crate) string_mask: &'a str,
    pub(crate) issuer: Option<&'a Issued>,
    pub(crate) flags: &'a [&'a str],
}

pub(crate) const P256: (&str, Option<&str>) = ("EC", Some("ec_paramgen_curve:P-256"));
pub(crate) const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
     subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { subject: "/CN=Root", key: P256, extensions: CA, string_mask: "utf8only", issuer: None, flags: &[] }
    }
}

impl OpenSsl {
    /// The program, or `None` and a message if this machine has none.
    pub(crate) fn find() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("SKIPPED: there is no `openssl` on this machine, so nothing was compared with it");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        Command::new("openssl").args(args).current_dir(self.0.path()).output().unwrap()
    }

    /// Runs it and returns what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "openssl {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn new_key(&self, (algorithm, option): (&str, Option<&str>)) -> String {
        let mut args = vec!["genpkey", "-algorithm", algorithm];
        args.extend(option.iter().flat_map(|option| ["-pkeyopt", option]));
        self.run(&args)
    }

    pub(crate) fn issue(&self, wanted: &Wanted<'_>) -> Issued {
        let key = self.new_key(wanted.key);
        self.write("req.key", &key);
        self.write(
            "req.cnf",
            &format!(
                "[req]\ndistinguished_name=dn\nx509_extensions=ext\nstring_mask={}\n[dn]\n[ext]\n{}",
                wanted.string_mask, wanted.extensions
            ),
        );
        let mut args = vec!["req", "-x509", "-utf8", "-config", "req.cnf", "-key", "req.key", "-days", "3650"];
        args.extend(["-subj", wanted.subject]);
        if let Some(issuer) = wanted.issuer {
            self.write("issuer.pem", &issuer.certificate);
            self.write("issuer.key", &issuer.key);
            args.extend(["-CA", "issuer.pem", "-CAkey", "issuer.key"]);
        }
        args.extend(wanted.flags);
        Issued { certificate: self.run(&args), key }
    }

    /// `openssl verify` of a leaf against the root alone, as a peer of its usage would see it.
    pub(crate) fn verify(&self, ca: &Ca, leaf: &Leaf, strict: bool) -> Result<(), String> {
        self.write("root.pem", &ca.root().to_pem());
        self.write("chain.pem", &leaf.chain_pem);
        let moment = (leaf.certificate.not_before().max(ca.not_before()) + SignedDuration::from_mins(1)).as_second();
        for usage in leaf.certificate.usages() {
            let purpose = match usage {
                Usage::ServerAuth => "sslserver",
                Usage::ClientAuth => "sslclient",
            };
            let moment = moment.to_string();
            let mut args = vec!["verify", "-attime", &moment, "-purpose", purpose, "-no-CApath", "-no-CAstore"];
            args.extend(strict.then_some("-x509_strict"));
            args.extend(["-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"]);
            let output = self.output(&args);
            if !output.status.success() {
                return Err(format!("{purpose}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    }
}
