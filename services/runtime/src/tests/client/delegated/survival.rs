//! Changes that drop delegated tokens, and refusals that are cached.

use gaia_api::mount::DeniedSubject;
use gaia_pki::KeySpec;

use super::*;

impl Gateway {
    /// Mounts these files and waits until they are loaded.
    async fn mounts(&mut self, files: &MountedFiles) {
        drop(self.generations.borrow_and_update().clone());
        self.mount.swap(files);
        self.generations.changed().await.unwrap();
    }
}

/// The key set of two platforms.
fn both_keys(first: &Platform, second: &Platform) -> Vec<u8> {
    let keys = |platform: &Platform| -> serde_json::Value { serde_json::from_str(&platform.jwks()).unwrap() };
    let mut both = keys(first);
    both["keys"].as_array_mut().unwrap().extend(keys(second)["keys"].as_array().unwrap().clone());
    serde_json::to_vec(&both).unwrap()
}

fn denylist(list: &Denylist) -> Vec<u8> {
    serde_json::to_vec(list).unwrap()
}

#[tokio::test]
async fn delegated_tokens_survive_every_change_that_does_not_revoke_them() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let mut files = platform.mount("gateway");
    let mut gateway = gateway(&files, &auth.config).await;
    assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), ok(&user("ann")));

    let other = DeniedSubject { sub: "user:supabase:eve".into(), not_before: SystemClock.now() };
    let unrelated = Denylist { subjects: vec![other], leaves: vec!["ab".repeat(32)], ..Denylist::empty() };
    let declares_another = Policy {
        callers: vec![Declared { spiffe_id: spiffe_id("web-service"), scopes: vec![], on_behalf_of: true }],
        ..policy("gateway")
    };
    let next_key = Platform::with_signing_key(KeySpec::Ecdsa256);
    for (what, change) in [
        ("a denylist entry", vec![(key::DENYLIST, denylist(&unrelated))]),
        ("a policy edit", vec![(key::POLICY, serde_json::to_vec(&declares_another).unwrap())]),
        ("a renewed leaf", platform.leaf("gateway").into_iter().collect()),
        ("another signing key", vec![(key::JWKS, both_keys(&platform, &next_key))]),
        ("another CA", vec![(key::CA_CERT, format!("{}{}", platform.bundle(), next_key.bundle()).into_bytes())]),
    ] {
        files.extend(change);
        gateway.mounts(&files).await;
        assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), ok(&user("ann")), "{what}");
        assert_eq!(auth.issued.load(Ordering::Relaxed), 1, "after {what}");
    }
}

#[tokio::test]
async fn a_change_drops_the_tokens_that_it_revokes_and_no_other() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let next_key = Platform::with_signing_key(KeySpec::Ecdsa256);
    let mut files = platform.mount("gateway");
    files.insert(key::JWKS, both_keys(&platform, &next_key));
    let mut gateway = gateway(&files, &auth.config).await;
    let issued = || auth.issued.load(Ordering::Relaxed);
    for name in ["ann", "bob"] {
        assert_eq!(gateway.ask(Subject::Token(name), &service).await.unwrap(), ok(&user(name)));
    }
    assert_eq!(issued(), 2);

    // The stand-in numbers its tokens from 0: this one is Ann's.
    files.insert(key::DENYLIST, denylist(&Denylist { jtis: vec!["0".into()], ..Denylist::empty() }));
    gateway.mounts(&files).await;
    for name in ["ann", "bob"] {
        assert_eq!(gateway.ask(Subject::Token(name), &service).await.unwrap(), ok(&user(name)));
    }
    assert_eq!(issued(), 3, "the revoked token is replaced");

    let end = SystemClock.now() + jiff::SignedDuration::from_secs(1);
    let bob = DeniedSubject { sub: user("bob").to_string(), not_before: end };
    files.insert(key::DENYLIST, denylist(&Denylist { subjects: vec![bob], ..Denylist::empty() }));
    gateway.mounts(&files).await;
    gateway.ask(Subject::Token("ann"), &service).await.unwrap();
    assert_eq!(issued(), 3, "another subject is revoked");
    gateway.ask(Subject::Token("bob"), &service).await.unwrap();
    assert_eq!(issued(), 4, "the subject of this one is revoked");

    let kids = vec![platform.signer().kid().to_owned()];
    for (file, text) in
        [(key::DENYLIST, denylist(&Denylist { kids, ..Denylist::empty() })), (key::JWKS, next_key.jwks().into_bytes())]
    {
        let mut files = files.clone();
        files.insert(key::DENYLIST, denylist(&Denylist::empty()));
        gateway.mounts(&files).await;
        gateway.ask(Subject::Token("ann"), &service).await.unwrap();
        let before = issued();
        files.insert(file, text);
        gateway.mounts(&files).await;
        gateway.ask(Subject::Token("ann"), &service).await.unwrap();
        assert_eq!(issued(), before + 1, "the key of these tokens is revoked by {file}");
    }
}

#[tokio::test]
async fn a_change_that_tls_does_not_depend_on_keeps_the_connections() {
    let platform = Platform::new();
    let auth = exchange(&platform, 300).await;
    let mut files = platform.mount("gateway");
    let mut gateway = gateway(&files, &auth.config).await;
    let server = |gateway: &Gateway| Arc::as_ptr(&gateway.generations.borrow().as_ref().unwrap().server);
    let first = server(&gateway);
    let edited = Policy { callers: vec![], ..policy("gateway") };
    files.insert(key::POLICY, serde_json::to_vec(&edited).unwrap());
    gateway.mounts(&files).await;
    assert_eq!(server(&gateway), first);
    let strict = Policy { tls_mode: gaia_api::mount::TlsMode::Strict, ..edited };
    files.insert(key::POLICY, serde_json::to_vec(&strict).unwrap());
    gateway.mounts(&files).await;
    assert_ne!(server(&gateway), first, "the TLS mode is part of it");
    let second = server(&gateway);
    let unrelated = Denylist { jtis: vec!["x".into()], ..Denylist::empty() };
    files.insert(key::DENYLIST, denylist(&unrelated));
    gateway.mounts(&files).await;
    assert_ne!(server(&gateway), second, "the denylist is part of it");
}

#[tokio::test]
async fn before_half_of_its_life_a_delegated_token_is_renewed_beside_the_calls() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 20).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let began = tokio::time::Instant::now();
    let first = gateway.shown(&service).await.unwrap();
    let renewed = async || gateway.shown(&service).await.unwrap() != first;
    eventually("the token is renewed", renewed).await;
    let taken = began.elapsed();
    assert!((7900..10_000).contains(&taken.as_millis()), "between 0.4 and 0.5 of its life: {taken:?}");
    assert_eq!(auth.issued.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_definitive_refusal_is_remembered_until_the_files_change_and_others_are_not() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let mut files = platform.mount("gateway");
    let mut gateway = gateway(&files, &auth.config).await;
    let refused = async |gateway: &Gateway| {
        let answer = gateway.ask(Subject::Token("bad"), &service).await;
        assert!(matches!(answer, Err(CallError::SubjectRefused { .. })), "{answer:?}");
    };
    let asked = || auth.asked.load(Ordering::Relaxed);
    for _ in 0..50 {
        refused(&gateway).await;
    }
    assert_eq!(asked(), 1);
    assert_eq!(gateway.ask(Subject::Token("ann"), &service).await.unwrap(), ok(&user("ann")));
    files.insert(key::DENYLIST, denylist(&Denylist { jtis: vec!["x".into()], ..Denylist::empty() }));
    gateway.mounts(&files).await;
    refused(&gateway).await;
    assert_eq!(asked(), 3, "it was refused under another denylist");

    // An unknown key is refused with Retry-After, so the refusal is not cached.
    for _ in 0..3 {
        assert!(gateway.ask(Subject::Token("early"), &service).await.is_err());
    }
    assert_eq!(asked(), 6);
    auth.unavailable.store(3, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(gateway.ask(Subject::Token("bob"), &service).await.is_err());
    }
    assert_eq!(gateway.ask(Subject::Token("bob"), &service).await.unwrap(), ok(&user("bob")), "503 is not remembered");
}

#[tokio::test]
async fn an_exchange_has_the_id_of_the_request_that_needs_it() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let request = Request::get(format!("{}/anyone", service.mesh)).header("x-request-id", "r-7");
    let request = request.body(Bytes::new()).unwrap();
    gateway.caller.call_for(Subject::Token("ann"), "asset-service", request).await.unwrap();
    gateway.ask(Subject::Token("bob"), &service).await.unwrap();
    let ids = auth.request_ids.lock().unwrap().clone();
    assert_eq!(ids[0].as_deref(), Some("r-7"));
    assert!(ids[1].as_ref().is_some_and(|id| id.len() == 32), "auth-service gives the other an ID: {ids:?}");
}

/// Kind: a refusal that outlasts a change of a file it was decided by. Grants and the API keys that auth-service has are in
/// its files alone.
#[tokio::test]
async fn a_refusal_by_files_of_auth_service_is_not_remembered_here() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let mut files = platform.mount("gateway");
    let mut gateway = gateway(&files, &auth.config).await;
    let asked = || auth.asked.load(Ordering::Relaxed);
    for subject in [Subject::Token("ungranted"), Subject::ApiKey("bad-key"), Subject::ApiKey("ungranted")] {
        let before = asked();
        for _ in 0..3 {
            gateway.ask(subject, &service).await.unwrap_err();
        }
        assert_eq!(asked() - before, 3, "{subject:?}");
    }
    let before = asked();
    for _ in 0..3 {
        gateway.ask(Subject::Token("bad"), &service).await.unwrap_err();
    }
    assert_eq!(asked() - before, 1);
    files.insert(key::API_KEYS, api_keys(&[("mobile", "bad", &[])]));
    gateway.mounts(&files).await;
    gateway.ask(Subject::Token("bad"), &service).await.unwrap_err();
    assert_eq!(asked() - before, 2, "it was refused under other API keys");
}

#[tokio::test]
async fn a_source_with_many_refused_credentials_displaces_no_refusal_and_no_token_of_others() {
    let platform = Platform::new();
    let service = start(&target(&platform, &[])).await;
    let auth = exchange(&platform, 300).await;
    let gateway = gateway(&platform.mount("gateway"), &auth.config).await;
    let ask = async |credential: &str, account: &str| {
        let subject = crate::OnBehalf { account: Some(account), ..Subject::Token(credential).into() };
        let request = Request::get(format!("{}/anyone", service.mesh)).body(Bytes::new()).unwrap();
        gateway.caller.call_for(subject, "asset-service", request).await.map(drop)
    };
    ask("ann", "ann").await.unwrap();
    ask("bad-bob", "bob").await.unwrap_err();
    let before = auth.asked.load(Ordering::Relaxed);
    for number in 0..200 {
        ask(&format!("bad-{number}"), "eve").await.unwrap_err();
        ask(&format!("eve-{number}"), "eve").await.unwrap();
    }
    assert_eq!(auth.asked.load(Ordering::Relaxed), before + 400);
    ask("ann", "ann").await.unwrap();
    ask("bad-bob", "bob").await.unwrap_err();
    assert_eq!(auth.asked.load(Ordering::Relaxed), before + 400, "both are still remembered");
}
