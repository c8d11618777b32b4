//! Shared by the scenario tests of the operator: scenes with the operator, custom resources, waiting for
//! conditions, and the operator's writes.
#![allow(unreachable_pub, reason = "a module of a test program")]
#![allow(clippy::needless_pass_by_value, reason = "manifests are written where they are handed over")]

pub mod chronicle;
pub mod conduct;
pub mod faults;
pub mod files;
pub mod objects;
pub mod openssl;
pub mod rotation;
pub mod snapshot;
pub mod story;
pub mod writes;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use gaia_e2e::tier::{self, SharedControlPlane, Turn};
use gaia_e2e::{ControlPlane, ControlPlaneOptions, OperatorOptions, OperatorProcess, chart};
use kube::Client;
use tokio::sync::OnceCell;

/// The namespace of the operator and its rings.
pub const OPERATOR_NAMESPACE: &str = "gaia-system";
/// The operator's user name at the API server.
pub const OPERATOR: &str = "system:serviceaccount:gaia-system:gaia-operator";
/// Longer than any successful step takes.
pub const SOON: Duration = Duration::from_secs(60);
/// Time limit of a repair.
pub const REPAIR: Duration = Duration::from_secs(5);

/// A namespace and a TrustDomain of one name, for one test; with helpers of the files in this directory.
pub struct Scene {
    pub plane: Plane,
    pub client: Client,
    /// The namespace of this test.
    pub namespace: String,
    /// The name of its TrustDomain.
    pub domain: String,
    /// Its turn, on a shared control plane.
    _turn: Option<Turn>,
}

/// A control plane, of this test or of all.
#[derive(Clone)]
pub enum Plane {
    Shared(&'static ControlPlane),
    Own(Arc<ControlPlane>),
}

impl Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        match self {
            Self::Shared(plane) => plane,
            Self::Own(plane) => plane,
        }
    }
}

impl Plane {
    /// A separate control plane, with the chart installed and no operator.
    pub async fn own(values: &[&str]) -> Option<Self> {
        let plane = tier::own_control_plane(ControlPlaneOptions::default()).await?;
        // A Role can only be created in an existing namespace.
        for namespace in values.iter().filter_map(|value| value.strip_prefix("watchNamespaces={")) {
            let namespace = namespace.trim_end_matches('}');
            plane.kubectl(&["create", "namespace", namespace]).await.unwrap();
        }
        chart::install_without_deployment(&plane, OPERATOR_NAMESPACE, values).await.unwrap();
        Some(Self::Own(Arc::new(plane)))
    }

    /// Options of the operator: under the chart's ServiceAccount.
    pub async fn operator(&self) -> OperatorOptions {
        let account = self.kubeconfig_for_service_account(OPERATOR_NAMESPACE, chart::SERVICE_ACCOUNT);
        OperatorOptions::new(self, &account.await.unwrap(), OPERATOR_NAMESPACE)
    }

    /// The operator, running and ready.
    pub async fn start_operator(&self) -> OperatorProcess {
        let operator = OperatorProcess::start(self.operator().await).unwrap();
        operator.wait_ready(SOON).await.unwrap();
        operator
    }

    /// A scene on this control plane.
    pub async fn scene(&self) -> Scene {
        let namespace = self.namespace().await.unwrap();
        let client = self.admin().await.unwrap();
        Scene { plane: self.clone(), client, domain: namespace.clone(), namespace, _turn: None }
    }
}

impl Scene {
    /// A scene on the control plane and with the operator that all tests of this program share.
    pub async fn begin() -> Option<Self> {
        static PLANE: SharedControlPlane = SharedControlPlane::new();
        static OPERATOR: OnceCell<OperatorProcess> = OnceCell::const_new();
        let turn = Turn::take().await;
        let plane = Plane::Shared(PLANE.get().await?);
        let start = async || {
            chart::install_without_deployment(&plane, OPERATOR_NAMESPACE, &[]).await.unwrap();
            plane.start_operator().await
        };
        OPERATOR.get_or_init(start).await;
        Some(Self { _turn: Some(turn), ..plane.scene().await })
    }

    /// The end of every test: the operator was never refused for a missing right. (For a namespace or an object that is being
    /// deleted, the API server answers 403 too.)
    pub async fn end(self) {
        self.plane.audit().settle(&self.client).await.unwrap();
        let records = self.plane.audit().by(OPERATOR, gaia_e2e::audit::AuditMark::default()).unwrap();
        let refused: Vec<String> =
            records.iter().filter(|record| [401, 403].contains(&record.code)).map(ToString::to_string).collect();
        assert!(refused.is_empty(), "the chart's rights do not suffice: {refused:#?}");
    }
}
