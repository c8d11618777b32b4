//! The identities that a service expects of the servers it calls.

use serde_json::{Value, json};

use super::*;

fn policy(world: &World, namespace: &str, service: &str) -> Value {
    let object = format!("{service}-auth");
    serde_json::from_str(&world.config_map(namespace, &object).unwrap().content["policy.json"]).unwrap()
}

fn caller(service: &str, namespace: Option<&str>) -> CallerSpec {
    CallerSpec {
        service: service.to_owned(),
        namespace: namespace.map(str::to_owned),
        scopes: vec![],
        on_behalf_of: false,
    }
}

fn target(namespace: &str, name: &str, account: &str) -> Value {
    json!({ "namespace": namespace, "name": name, "spiffeId": format!("spiffe://gaia.local/ns/{namespace}/sa/{account}") })
}

#[test]
fn targets_lists_services_of_another_service_account_that_declare_the_caller() {
    let mut world = issuer_in("auth", "auth-service");
    world.create_service("shop", "gateway", GaiaServiceSpec::default());
    let spec = |account: Option<&str>, callers| GaiaServiceSpec {
        service_account_name: account.map(str::to_owned),
        callers,
        ..GaiaServiceSpec::default()
    };
    world.create_service("shop", "files", spec(Some("files-sa"), vec![caller("gateway", None)]));
    world.create_service("auth", "tokens", spec(Some("tokens-sa"), vec![caller("gateway", Some("shop"))]));
    world.create_service("shop", "chat", spec(None, vec![caller("gateway", None)]));
    world.create_service("shop", "same", spec(Some("same"), vec![caller("gateway", None)]));
    world.create_service("shop", "secret", spec(Some("secret-sa"), vec![caller("chat", None)]));
    world.settle();
    let found = policy(&world, "shop", "gateway");
    assert_eq!(found["targets"], json!([target("auth", "tokens", "tokens-sa"), target("shop", "files", "files-sa")]));
    assert_eq!(found["tokenIssuer"], target("auth", "auth-service", "auth-service"));
    assert_eq!(policy(&world, "shop", "files")["targets"], json!([]));

    world.edit_service(&name("shop", "files"), |found| found.spec.callers = vec![]);
    world.edit_service(&name("auth", "tokens"), |found| found.spec.service_account_name = Some("other".to_owned()));
    world.edit_service(&name("auth", "auth-service"), |found| {
        found.spec.service_account_name = Some("issuer".to_owned());
    });
    world.settle();
    let found = policy(&world, "shop", "gateway");
    assert_eq!(found["targets"], json!([target("auth", "tokens", "other")]));
    assert_eq!(found["tokenIssuer"], target("auth", "auth-service", "issuer"));
}

/// Kind: what one tenant writes displaces what others need.
#[test]
fn targets_of_one_namespace_never_displace_those_of_another() {
    let mut world = issuer_in("auth", "auth-service");
    world.create_service("shop", "gateway", GaiaServiceSpec::default());
    let spec = |account: String| GaiaServiceSpec {
        service_account_name: Some(account),
        callers: vec![caller("gateway", Some("shop"))],
        ..GaiaServiceSpec::default()
    };
    for number in 0..1000 {
        world.create_service(
            "other",
            &format!("huge-{number}-{}", "x".repeat(40)),
            spec(format!("a.{}", "y".repeat(240))),
        );
    }
    world.namespaces.get_mut("other").unwrap().insert("env".to_owned(), "prod".to_owned());
    world.create_service("shop", "files", spec("files-sa".to_owned()));
    world.settle();
    let found = policy(&world, "shop", "gateway");
    let targets = found["targets"].as_array().unwrap();
    assert!(targets.contains(&target("shop", "files", "files-sa")), "a namespace below the equal share loses nothing");
    let bytes = found["targets"].to_string().len();
    assert!((200 * 1024..=256 * 1024).contains(&bytes), "{bytes}");
    let message = says(&world, &service("shop", "gateway"), "GrantsTooLarge", "True", "GrantsTooLarge");
    assert!(message.contains("other/huge-") && message.contains("targets of policy.json"), "{message}");
}
