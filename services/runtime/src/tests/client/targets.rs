//! Servers that are not the target of a call.

use gaia_api::SpiffeId;
use gaia_api::mount::{AuthMode, ServiceIdentity};

use crate::CallsConfig;
use crate::testing::TRUST_DOMAIN;
use crate::tests::*;

const EVIL: &str = "spiffe://gaia.local/ns/evil/sa/asset-service";

fn identity(namespace: &str, account: &str) -> ServiceIdentity {
    ServiceIdentity {
        namespace: namespace.to_owned(),
        name: "asset-service".to_owned(),
        spiffe_id: SpiffeId::workload(TRUST_DOMAIN, namespace, account),
    }
}

/// The files of asset-service with another identity.
fn server(platform: &Platform, identity: &ServiceIdentity) -> MountedFiles {
    let mut files = platform.mount("asset-service");
    let now = SystemClock.now();
    let hour = SignedDuration::from_hours(1);
    files.extend(platform.leaf_for(identity.spiffe_id.as_str(), now - hour, now + hour));
    let policy = Policy { service: identity.clone(), ..policy("asset-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files
}

/// A caller with this policy and an API key.
async fn caller(platform: &Platform, policy: &Policy) -> (Runtime, crate::Caller, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut files = platform.mount("gateway");
    files.insert(key::POLICY, serde_json::to_vec(policy).unwrap());
    let _mount = Mount::new(&dir.path().join("gaia"), &files);
    let api_key = dir.path().join("api-key");
    fs::write(&api_key, "gk_test_shared").unwrap();
    let config = config("gateway", &dir.path().join("gaia"));
    let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await.unwrap();
    let caller = runtime.caller(&CallsConfig { auth_url: None, api_key_file: Some(api_key) });
    (runtime, caller, dir)
}

async fn call(caller: &crate::Caller, service: &Service, target: &str) -> Result<StatusCode, CallError> {
    let request = Request::get(format!("{}/health", service.mesh)).body(Bytes::new()).unwrap();
    Ok(caller.call(target, request).await?.status())
}

/// Kind: a server in another namespace whose leaf has the bare name too receives the shared API key.
#[tokio::test]
async fn a_namesake_in_another_namespace_is_refused_before_anything_is_sent() {
    let platform = Platform::new();
    let evil = start(&server(&platform, &identity("evil", "asset-service"))).await;
    let (_runtime, caller, _dir) = caller(&platform, &policy("gateway")).await;
    let error = call(&caller, &evil, "asset-service").await.unwrap_err();
    assert!(matches!(error, CallError::WrongServer { .. }) && error.was_never_sent(), "{error:?}");
    let text = error.to_string();
    for part in [EVIL, "spiffe://gaia.local/ns/shop/sa/asset-service", "target asset-service"] {
        assert!(text.contains(part), "{text}");
    }
    // The same server under its own name; its connection is not used for the other target.
    assert_eq!(call(&caller, &evil, "evil/asset-service").await.unwrap(), StatusCode::OK);
    assert!(call(&caller, &evil, "asset-service").await.is_err());
}

#[tokio::test]
async fn a_service_account_that_targets_lists_is_the_one_that_is_expected() {
    let platform = Platform::new();
    let target = identity("shop", "files");
    let files = start(&server(&platform, &target)).await;
    let default = start(&platform.mount("asset-service")).await;
    let strict = Policy { mode: AuthMode::JWTOnly, targets: Some(vec![]), ..policy("gateway") };
    let listed = Policy { targets: Some(vec![target]), ..strict.clone() };
    let (_runtime, by_default, _dir) = caller(&platform, &strict).await;
    assert!(call(&by_default, &files, "asset-service").await.is_err());
    assert_eq!(call(&by_default, &default, "asset-service").await.unwrap(), StatusCode::OK);
    let (_runtime, by_list, _dir) = caller(&platform, &listed).await;
    assert_eq!(call(&by_list, &files, "asset-service").await.unwrap(), StatusCode::OK);
    assert!(call(&by_list, &default, "asset-service").await.is_err());
}

#[tokio::test]
async fn the_default_url_of_auth_service_names_the_own_namespace() {
    let platform = Platform::new();
    let (runtime, _, _dir) = caller(&platform, &policy("gateway")).await;
    let config = CallsConfig { auth_url: None, api_key_file: None };
    assert_eq!(runtime.auth_url(&config).to_string(), "https://auth-service.shop.svc:8443/");
}
