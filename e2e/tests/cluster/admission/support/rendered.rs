//! The chart's objects as helm renders them.

use gaia_e2e::{ControlPlane, chart};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::OPERATOR_NAMESPACE;

/// Every object, rendered with these values.
pub async fn rendered(plane: &ControlPlane, values: &[&str]) -> Vec<Value> {
    let chart = chart::directory();
    let mut args = vec!["template", "gaia", chart.to_str().unwrap(), "--namespace", OPERATOR_NAMESPACE];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    let text = plane.helm(&args).await.unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).unwrap()).collect()
}

/// The names of the policies; each must be bound, or it has no effect.
pub fn policies(objects: &[Value]) -> Vec<&str> {
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    let bound = of_kind("ValidatingAdmissionPolicyBinding").map(|binding| &binding["spec"]);
    let names: Vec<&str> =
        of_kind("ValidatingAdmissionPolicy").filter_map(|policy| policy["metadata"]["name"].as_str()).collect();
    let denied: Vec<&str> = bound
        .filter(|spec| **spec == json!({ "policyName": spec["policyName"], "validationActions": ["Deny"] }))
        .filter_map(|spec| spec["policyName"].as_str())
        .collect();
    assert_eq!(names, denied);
    names
}

/// The verbs that the operator's roles allow for a resource.
pub fn granted<'a>(objects: &'a [Value], resource: &str) -> Vec<&'a str> {
    let rules = objects.iter().filter_map(|object| object["rules"].as_array()).flatten();
    let about = rules.filter(|rule| rule["resources"].as_array().unwrap().contains(&json!(resource)));
    about.flat_map(|rule| rule["verbs"].as_array().unwrap()).filter_map(Value::as_str).collect()
}

/// The value of a variable of the operator's container.
pub fn environment<'a>(objects: &'a [Value], name: &str) -> &'a str {
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    environment.iter().find(|variable| variable["name"] == name).unwrap()["value"].as_str().unwrap()
}
