//! The certificate authority of a test cluster: it signs the certificates of the cluster's parts and the client certificates of
//! users. It does not use gaia-pki on purpose: a cluster must not depend on the code under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// A certificate authority whose files are in a directory.
pub struct Authority {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Generates an authority and writes it to `dir`, as `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params();
        let certificate = params.self_signed(&key)?.pem();
        write_private(&dir.join("ca.key"), &key.serialize_pem())?;
        std::fs::write(dir.join("ca.crt"), &certificate)?;
        Ok(Self { dir: dir.to_owned(), certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client certificate that the API server accepts for `user` in `groups`.
    ///
    /// # Errors
    /// If a name does not fit into a certificate.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Credential> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        // rcgen keeps one value per type, so a second group would need another encoding of the subject.
        anyhow::ensure!(groups.len() <= 1, "a client certificate holds one group here, asked for {groups:?}");
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A server certificate for `names` (DNS names and IP addresses).
    ///
    /// # Errors
    /// If a name does not fit into a certificate.
    pub fn server(&self, common_name: &str, names: &[&str]) -> Result<Credential> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// Writes a credential next to the authority, as `<name>.crt` and `<name>.key`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, name: &str, credential: &Credential) -> Result<()> {
        std::fs::write(self.dir.join(format!("{name}.crt")), &credential.certificate)?;
        write_private(&self.dir.join(format!("{name}.key")), &credential.key)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Credential> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A new key pair for signing service account tokens: the private key in `<name>.key`, the public one in `<name>.pub`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_signing_key(dir: &Path, name: &str) -> Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write_private(&dir.join(format!("{name}.key")), &key.serialize_pem())?;
    Ok(std::fs::write(dir.join(format!("{name}.pub")), key.public_key_pem())?)
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// If the file cannot be written.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "gaia-e2e-cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}
