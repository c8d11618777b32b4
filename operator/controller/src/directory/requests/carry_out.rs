//! Carries out one request.

use gaia_api::crd::{GaiaService, ServiceCertificate};
use gaia_api::names::{self, MANAGED_BY, MANAGED_BY_LABEL};
use gaia_plan::object::ObjectKey;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::{Request, RequestAction, RequestAnswer, RequestOutcome, VALID, epochs_in};
use crate::api_server::Resource;
use crate::api_server::object::read_metadata;
use crate::cache::{Place, lock};
use crate::directory::changes::Changes;
use crate::directory::disk::error::DirectoryError;
use crate::directory::disk::objects::{WriteError, patched};
use crate::directory::engine::{Engine, RINGS_NAMESPACE};
use crate::watch::Watched;

type Refusal = (RequestOutcome, String);

impl Engine {
    /// Carries out a request at once, or says why not.
    pub fn carry_out(&mut self, request: &Request) -> RequestAnswer {
        let (outcome, message) = match self.try_carry_out(request) {
            Ok(()) => (RequestOutcome::Done, String::new()),
            Err(refusal) => refusal,
        };
        RequestAnswer { id: request.id.clone(), outcome, message }
    }

    fn try_carry_out(&mut self, request: &Request) -> Result<(), Refusal> {
        let failed = |error: DirectoryError| (RequestOutcome::Failed, error.to_string());
        let changes = Changes::read(self.root()).map_err(failed)?;
        if changes.handled.contains(&request.id) {
            return Ok(());
        }
        let age = self.settings.clock.now().duration_since(request.made);
        if age.abs() > VALID {
            let message =
                format!("made {} s ago, valid for {} s; run the command again", age.as_secs(), VALID.as_secs());
            return Err((RequestOutcome::Expired, message));
        }
        if request.epochs != self.epochs().map_err(failed)? {
            let message = "a CA or signing key has changed since the request was made; run the command again";
            return Err((RequestOutcome::Stale, message.to_owned()));
        }
        let refused = |error| match error {
            DirectoryError::Manifest { .. } => (RequestOutcome::Refused, error.to_string()),
            error => failed(error),
        };
        // A fault that is there already is the cause to name.
        self.check_manifests(&changes).map_err(refused)?;
        // All actions are checked before the first one is carried out.
        let mut next = changes;
        for action in &request.actions {
            self.check(action, &mut next)?;
        }
        next.note_handled(&request.id);
        self.check_manifests(&next).map_err(refused)?;
        for action in &request.actions {
            match action {
                RequestAction::Patch { kind, namespace, name, patch } if !self.is_manifest(kind, name) => {
                    self.patch_stored(kind, &(namespace.clone(), name.clone()), patch).map_err(failed)?;
                }
                RequestAction::Patch { .. } => {}
                RequestAction::Prune { service } => self.prune(service).map_err(failed)?,
            }
        }
        next.write(self.root()).map_err(failed)?;
        self.read_manifests(true);
        Ok(())
    }

    fn check(&self, action: &RequestAction, next: &mut Changes) -> Result<(), Refusal> {
        let refused = |message: String| Err((RequestOutcome::Refused, message));
        match action {
            RequestAction::Prune { service } => {
                if self.is_manifest(Resource::SERVICE.kind, service)
                    || self.is_manifest(Resource::CERTIFICATE.kind, service)
                {
                    return refused(format!("{service} is in gaia.yaml; remove it there first"));
                }
                if self.place_of(service).is_none() {
                    return refused(format!("there is no service {service}; `gaia status` lists them"));
                }
                next.forget(service);
                Ok(())
            }
            RequestAction::Patch { kind, namespace, name, patch } => {
                let place: Place = (namespace.clone(), name.clone());
                let known = [Resource::TRUST_DOMAIN, Resource::SERVICE, Resource::CERTIFICATE, Resource::SECRET];
                let Some(resource) = known.into_iter().find(|resource| resource.kind == kind) else {
                    return refused(format!("{kind} objects cannot be changed by a request"));
                };
                if self.is_manifest(kind, name) {
                    next.add(resource, &place, patch);
                    return Ok(());
                }
                let present = self.store.with(|objects, _| objects.read(resource, &place));
                let present = present.map_err(|error| (RequestOutcome::Failed, error.to_string()))?;
                let label = format!("{kind} {namespace}/{name}");
                match (resource, present) {
                    (Resource::SECRET, _) if namespace == RINGS_NAMESPACE => {
                        refused(format!("{label} is a ring; only the engine changes it"))
                    }
                    (Resource::SECRET, Some(text)) if is_managed(&text) => {
                        refused(format!("{label} is written by the engine; change the object that it belongs to"))
                    }
                    (Resource::SECRET, _) => Ok(()),
                    (Resource::CERTIFICATE, Some(_)) if only_annotates(patch) => Ok(()),
                    (Resource::CERTIFICATE, Some(_)) => {
                        refused(format!("{label} belongs to a GaiaService; change that one in gaia.yaml"))
                    }
                    _ => refused(format!("there is no {label}; `gaia status` lists the objects")),
                }
            }
        }
    }

    /// Patches a stored object, or creates a Secret.
    fn patch_stored(&self, kind: &str, place: &Place, patch: &Value) -> Result<(), DirectoryError> {
        let resource = if kind == Resource::SECRET.kind { Resource::SECRET } else { Resource::CERTIFICATE };
        let clock = self.settings.clock.as_ref();
        let (text, failures) = self.store.with(|objects, projection| {
            let changed = objects.change(resource, place, None, |object| patched(object, patch.clone()));
            let written = match changed {
                Err(WriteError::Missing) if resource == Resource::SECRET => {
                    let mut secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {}, "type": "Opaque" });
                    patched(&mut secret, patch.clone());
                    objects.create(resource, place, secret, clock)
                }
                other => other,
            };
            let marked = projection.mark(&ObjectKey::secret(&place.0, place.1.clone()), objects);
            (written, marked.map(|holders| (holders, projection.write_due(objects))))
        });
        let text = text.map_err(|error| match error {
            WriteError::Directory(error) => error,
            WriteError::Exists | WriteError::Missing | WriteError::Conflict => {
                super::super::disk::lock::busy(self.root(), "another process changes the objects")
            }
        })?;
        if resource == Resource::CERTIFICATE {
            self.take(resource, text);
        } else {
            // A Secret of the user is in no watch: its service looks it up again.
            self.requeue_all();
        }
        let (holders, failures) = failures?;
        failures.into_iter().find(|(name, _)| holders.contains(name)).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Removes a service with everything that was written for it. The objects go first, so that none is issued again.
    fn prune(&self, service: &str) -> Result<(), DirectoryError> {
        let Some(place) = self.place_of(service) else { return Ok(()) };
        let certificate = self.store.with(|objects, _| objects.value(Resource::CERTIFICATE, &place))?;
        let named = certificate.and_then(|found| found["spec"]["secretName"].as_str().map(str::to_owned));
        let leaf = named.unwrap_or_else(|| names::leaf_secret(service));
        self.remove::<GaiaService>(&place)?;
        self.remove::<ServiceCertificate>(&place)?;
        for map in [names::policy(service), names::ledger(service)] {
            self.remove::<ConfigMap>(&(place.0.clone(), map))?;
        }
        self.remove::<Secret>(&(place.0.clone(), leaf))?;
        self.store.with(|_, projection| projection.forget_sources());
        if self.root().own_sub(service)?.is_some() {
            self.root().remove_tree(service)?;
        }
        Ok(())
    }

    fn remove<K: Watched>(&self, place: &Place) -> Result<(), DirectoryError> {
        match self.store.with(|objects, _| objects.delete(K::RESOURCE, place, None)) {
            Ok(()) => {}
            Err(WriteError::Directory(error)) => return Err(error),
            Err(WriteError::Exists | WriteError::Missing | WriteError::Conflict) => {}
        }
        let keys = K::remove(&mut lock(&self.world), place, None);
        self.scheduler.push(&self.world, keys);
        Ok(())
    }

    /// The namespace and name of a service or certificate.
    fn place_of(&self, service: &str) -> Option<Place> {
        let places = self.store.with(|objects, _| -> Result<Vec<Place>, DirectoryError> {
            let mut places = objects.places(Resource::SERVICE)?;
            places.extend(objects.places(Resource::CERTIFICATE)?);
            Ok(places)
        });
        places.ok()?.into_iter().find(|place| place.1 == service)
    }

    fn epochs(&self) -> Result<super::Epochs, DirectoryError> {
        self.store.with(|objects, _| {
            for (_, domain) in objects.places(Resource::TRUST_DOMAIN)? {
                let trust = names::trust(&domain);
                let places = objects.places(Resource::CONFIG_MAP)?;
                let Some(place) = places.into_iter().find(|(_, name)| *name == trust) else { continue };
                let text = objects.read(Resource::CONFIG_MAP, &place)?.unwrap_or_default();
                return Ok(read_metadata(&text).map(|meta| epochs_in(&meta)).unwrap_or_default());
            }
            Ok(super::Epochs::default())
        })
    }
}

fn is_managed(text: &[u8]) -> bool {
    let labels = read_metadata(text).ok().and_then(|meta| meta.labels);
    labels.is_some_and(|labels| labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY))
}

/// Returns true for a patch of annotations alone.
fn only_annotates(patch: &Value) -> bool {
    let only = |value: &Value, field: &str| {
        value.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key(field))
    };
    only(patch, "metadata") && only(&patch["metadata"], "annotations")
}
