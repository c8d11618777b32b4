//! Refusals of the API server whose cause is inside the namespace of the object.

/// The cause in Gaia's own words, if the response shows one inside the object's namespace: a quota, a namespace that is
/// being deleted, or an object that cannot take the change. A webhook or a policy can respond with any code and text,
/// so none of its responses counts.
pub(super) fn of(verb: &str, code: u16, message: &str) -> Option<String> {
    if BY_ADMISSION.iter().any(|text| message.contains(text)) {
        return None;
    }
    match (code, verb) {
        (403, _) => {
            let (_, why) = message.split_once(" is forbidden: ")?;
            if let Some(quota) = why.strip_prefix("exceeded quota: ") {
                let quota = short(quota.split(',').next().unwrap_or_default());
                return Some(format!("ResourceQuota {quota} of the namespace is exceeded"));
            }
            let is_terminating = why.starts_with("unable to create new content in namespace");
            is_terminating.then(|| "the namespace is being deleted".to_owned())
        }
        (404, "create") => message.starts_with("namespaces ").then(|| "the namespace does not exist".to_owned()),
        // The same change is accepted elsewhere: the rest of the object is the cause.
        (422, "patch") => {
            let (_, why) = message.split_once("\" is invalid: ")?;
            let field = short(why.split(": ").next().unwrap_or_default());
            Some(format!("the object cannot take the change: {field} is invalid together with what it holds"))
        }
        (413, "patch") => Some(TOO_LARGE.to_owned()),
        (500, "patch") => message.contains("etcdserver: request is too large").then(|| TOO_LARGE.to_owned()),
        _ => None,
    }
}

fn short(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

const BY_ADMISSION: [&str; 3] = ["admission webhook", "ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"];
const TOO_LARGE: &str = "the object is too large together with what it holds";
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::quota(
        "create",
        403,
        "configmaps \"gaia-trust\" is forbidden: exceeded quota: small, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2",
        "ResourceQuota small of the namespace is exceeded"
    )]
    #[case::terminating(
        "create",
        403,
        "configmaps \"gaia-trust\" is forbidden: unable to create new content in namespace shop because it is being terminated",
        "the namespace is being deleted"
    )]
    #[case::no_namespace("create", 404, "namespaces \"shop\" not found", "the namespace does not exist")]
    #[case::annotations(
        "patch",
        422,
        "ConfigMap \"gaia-trust\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes",
        "the object cannot take the change: metadata.annotations is invalid together with what it holds"
    )]
    #[case::etcd("patch", 500, "etcdserver: request is too large", TOO_LARGE)]
    fn causes_inside_a_namespace_are_recognised(
        #[case] verb: &str,
        #[case] code: u16,
        #[case] message: &str,
        #[case] cause: &str,
    ) {
        assert_eq!(of(verb, code, message).as_deref(), Some(cause));
    }

    #[rstest]
    #[case::rbac("create", 403, "configmaps is forbidden: User \"gaia\" cannot create resource \"configmaps\"")]
    #[case::webhook("create", 403, "admission webhook \"a.b\" denied the request: x is forbidden: exceeded quota: y")]
    #[case::webhook_down("create", 500, "Internal error occurred: failed calling webhook \"a.b\": deadline exceeded")]
    #[case::webhook_invalid("patch", 422, "admission webhook \"a.b\" denied the request: X \"x\" is invalid: y")]
    #[case::policy(
        "patch",
        422,
        "configmaps \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: exceeded quota: x"
    )]
    #[case::content_of_the_operator("create", 422, "ConfigMap \"gaia-trust\" is invalid: data: Too long")]
    #[case::overload("create", 429, "too many requests")]
    #[case::down("patch", 503, "etcdserver: leader changed")]
    fn other_causes_are_not(#[case] verb: &str, #[case] code: u16, #[case] message: &str) {
        assert_eq!(of(verb, code, message), None);
    }
}
