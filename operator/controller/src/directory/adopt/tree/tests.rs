use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use gaia_api::{Clock as _, SystemClock};
use rstest::rstest;

use super::*;
use crate::directory::adopt::listing::Content;
use crate::directory::tests::Scratch;

/// The trees of both forms, made once by the commands of the old scripts.
static TREES: LazyLock<[Listing; 2]> = LazyLock::new(|| ["scripts", "guide"].map(made));

fn made(form: &str) -> Listing {
    let dir = Scratch::new("old-tree");
    let dir = dir.certs();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/old-scripts/setup-dev-ca.sh");
    let output = Command::new("sh").arg(script).arg(&dir).arg(form).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut listing = Listing::new();
    list(&dir, "", &mut listing);
    listing
}

fn list(dir: &Path, prefix: &str, listing: &mut Listing) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            list(&entry.path(), &format!("{path}/"), listing);
            listing.insert(path, Entry::Folder);
        } else {
            let content = Some(Content(Zeroizing::new(std::fs::read(entry.path()).unwrap())));
            listing.insert(path, Entry::File { mode: meta.permissions().mode() & 0o7777, content });
        }
    }
}

fn tree(form: TreeForm) -> Listing {
    TREES[usize::from(form == TreeForm::Guide)].clone()
}

fn now() -> Timestamp {
    SystemClock.now()
}

/// The only fault of a tree.
fn only_fault(listing: &Listing, at: Timestamp) -> TreeFault {
    let faults = recognise(listing, at).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

fn copy(listing: &mut Listing, from: &str, to: &str) {
    let entry = listing[from].clone();
    listing.insert(to.to_owned(), entry);
}

#[rstest]
#[case::scripts(TreeForm::Scripts, "rsa-4096", "Gaia Development CA")]
#[case::guide(TreeForm::Guide, "rsa-2048", "Gaia Platform CA")]
fn both_forms_are_recognised(#[case] form: TreeForm, #[case] key: &str, #[case] name: &str) {
    let found = recognise(&tree(form), now()).unwrap();
    assert_eq!(found.form, form);
    assert_eq!(found.ca.key().spec().as_str(), key);
    assert!(found.ca.certificate().subject().contains(name));
    assert_eq!(found.signing_key.unwrap().key.spec().as_str(), "rsa-2048");
    assert_eq!(found.services, ["asset-service", "auth-service", "chat-service", "gateway", "web-service"]);
    assert_eq!(found.warnings, [""; 0]);
}

#[rstest]
#[case::scripts(TreeForm::Scripts, "ca.key")]
#[case::guide(TreeForm::Guide, "ca-key.pem")]
fn every_foreign_file_is_named(#[case] form: TreeForm, #[case] ca_key: &str) {
    let listing = tree(form);
    let mut expected: Vec<String> =
        ["ca.pem", "ca.srl", "jwt-signing.key", "jwt-signing.pub", ca_key].map(str::to_owned).into();
    for service in SERVICES {
        expected.extend(["cert.pem", "key.pem"].map(|file| format!("{service}/{file}")));
    }
    expected.sort();
    let named: Vec<String> = foreign(&listing).into_iter().map(|file| file.path).collect();
    assert_eq!(named, expected);
}

#[test]
fn a_directory_of_gaia_or_of_other_files_has_no_foreign_file() {
    let mut listing = Listing::from([("gaia.yaml".to_owned(), Entry::Folder), ("notes.txt".to_owned(), Entry::Other)]);
    assert_eq!(foreign(&listing), []);
    listing.extend(tree(TreeForm::Scripts));
    listing.insert(OBJECTS.to_owned(), Entry::Folder);
    assert_eq!(foreign(&listing), []);
}

#[rstest]
#[case::ca("ca.pem")]
#[case::ca_key("ca.key")]
#[case::signing_key("jwt-signing.key")]
fn a_missing_part_is_named(#[case] missing: &str) {
    let mut listing = tree(TreeForm::Scripts);
    listing.remove(missing);
    assert_eq!(only_fault(&listing, now()).path, missing);
}

#[test]
fn a_platform_without_tokens_is_adopted_without_a_signing_key() {
    let mut listing = tree(TreeForm::Guide);
    listing.remove("jwt-signing.key");
    listing.remove("jwt-signing.pub");
    let found = recognise(&listing, now()).unwrap();
    assert!(found.signing_key.is_none());
    assert_eq!(found.warnings, ["jwt-signing.key does not exist: a new signing key is generated"]);
}

#[test]
fn an_expired_ca_is_refused_with_the_next_step() {
    let listing = tree(TreeForm::Scripts);
    let later = now() + jiff::SignedDuration::from_hours(366 * 24);
    let fault = only_fault(&listing, later);
    assert_eq!(fault.path, "ca.pem");
    assert!(fault.why.contains("expired at"), "{fault:?}");
    assert!(fault.next.contains("empty directory"), "{fault:?}");
    let fault = only_fault(&listing, Timestamp::UNIX_EPOCH);
    assert!(fault.why.contains("is not valid before"), "{fault:?}");
    assert_eq!(fault.next, "correct the clock of this machine");
}

#[test]
fn a_key_of_another_ca_is_refused_and_names_the_file() {
    let mut listing = tree(TreeForm::Scripts);
    listing.insert("ca.pem".to_owned(), tree(TreeForm::Guide)["ca.pem"].clone());
    let fault = only_fault(&listing, now());
    assert_eq!(fault.path, "ca.key");
    assert!(fault.why.contains("does not belong to the certificate"), "{fault:?}");
}

#[test]
fn of_two_ca_keys_the_one_of_the_certificate_is_used() {
    let mut listing = tree(TreeForm::Scripts);
    listing.insert("ca-key.pem".to_owned(), tree(TreeForm::Guide)["ca-key.pem"].clone());
    let found = recognise(&listing, now()).unwrap();
    assert_eq!(found.form, TreeForm::Scripts);
    assert!(found.warnings[0].starts_with("ca-key.pem is not used"), "{:?}", found.warnings);
    copy(&mut listing, "ca.key", "ca-key.pem");
    let found = recognise(&listing, now()).unwrap();
    assert_eq!(found.warnings, ["ca-key.pem is not used: it is a second copy of the key"]);
}

#[test]
fn a_public_key_of_another_pair_is_refused() {
    let mut listing = tree(TreeForm::Scripts);
    listing.insert("jwt-signing.pub".to_owned(), tree(TreeForm::Guide)["jwt-signing.pub"].clone());
    let fault = only_fault(&listing, now());
    assert_eq!(fault.path, "jwt-signing.pub");
    assert_eq!(fault.why, "it is not the public key of jwt-signing.key");
}

#[rstest]
#[case::ca("ca.pem")]
#[case::ca_key("ca.key")]
#[case::signing_key("jwt-signing.key")]
#[case::public_key("jwt-signing.pub")]
fn a_damaged_file_is_refused_by_name_without_its_content(#[case] damaged: &str) {
    let mut listing = tree(TreeForm::Scripts);
    let content = Some(Content(Zeroizing::new(b"SECRET but not PEM".to_vec())));
    listing.insert(damaged.to_owned(), Entry::File { mode: 0o600, content });
    let fault = only_fault(&listing, now());
    assert_eq!(fault.path, damaged);
    assert!(!format!("{fault:?}").contains("SECRET"), "{fault:?}");
    assert!(!fault.next.is_empty());
}

#[rstest]
#[case::key("ca.key")]
#[case::certificate("ca.pem")]
#[case::leaf("gateway/key.pem")]
#[case::folder("gateway")]
fn a_link_is_refused(#[case] path: &str) {
    let mut listing = tree(TreeForm::Scripts);
    listing.insert(path.to_owned(), Entry::Link);
    let faults = recognise(&listing, now()).unwrap_err();
    assert!(faults.iter().any(|fault| fault.path == path && fault.why.contains("it is a link")), "{faults:?}");
}

#[test]
fn a_file_that_others_may_change_is_refused_and_a_readable_key_is_a_warning() {
    let with_mode = |path: &str, mode: u32| {
        let mut listing = tree(TreeForm::Scripts);
        if let Some(Entry::File { mode: found, .. }) = listing.get_mut(path) {
            *found = mode;
        }
        listing
    };
    let fault = only_fault(&with_mode("ca.pem", 0o664), now());
    assert_eq!((fault.path.as_str(), fault.why.as_str()), ("ca.pem", "its mode 0664 lets other users change it"));
    for (path, what) in [("ca.key", "private key of the CA"), ("gateway/key.pem", "private key")] {
        let found = recognise(&with_mode(path, 0o640), now()).unwrap();
        assert_eq!(found.warnings, [format!("{path}: its mode 0640 lets other users read the {what}")]);
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let mut listing = tree(TreeForm::Scripts);
    listing.remove("ca.key");
    listing.insert("jwt-signing.key".to_owned(), Entry::Link);
    let paths: Vec<String> = recognise(&listing, now()).unwrap_err().into_iter().map(|fault| fault.path).collect();
    assert_eq!(paths, ["jwt-signing.key", "ca.key", "jwt-signing.key"]);
}

#[test]
fn keys_are_not_in_debug_output() {
    let text = format!("{:?} {:?}", tree(TreeForm::Guide), recognise(&tree(TreeForm::Guide), now()).unwrap());
    assert!(!text.contains("PRIVATE"), "{text}");
}
