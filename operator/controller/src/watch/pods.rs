//! The watch of pods. It may be forbidden, and only the state of instances depends on it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::Instant;

use super::{Listing, Watched, Watches};
use crate::api_server::{ApiServer, Change, Resource, Selection, Unreadable, Watch, WatchError};
use crate::cache::instances::pods;
use crate::cache::instances::pods::Pod;
use crate::cache::{ClusterCache, Place, SharedCache, lock, place};
use crate::store::ObjectRef;

impl Watches {
    pub(super) fn pods(&self, api: &ApiServer, namespaces: &[String]) {
        let all = namespaces.is_empty().then_some(None);
        let some = namespaces.iter().map(|name| Some(name.clone()));
        for namespace in all.into_iter().chain(some) {
            let selection =
                Selection { resource: Pod::RESOURCE, namespace, labels: Pod::LABELS, fields: Some(NOT_ENDED) };
            self.unsettled.fetch_add(1, Ordering::AcqRel);
            self.run(self.clone().follow_pods(api.clone(), selection));
        }
    }

    /// Never ends. A broken watch is restarted with a list, so that the end of the gap is known. The previous state
    /// stays valid for a grace period, also after a 403: an API server that starts refuses all requests until it has
    /// read the roles, and a release of the chart replaces roles.
    async fn follow_pods(self, api: ApiServer, selection: Selection) {
        let scope = selection.namespace.clone();
        let mut state = Health { settled: false, broken: Some(Instant::now()), wait: FIRST_WAIT };
        loop {
            let stream = Watch::<Pod>::new(api.clone(), selection.clone()).stream();
            let why = self.follow_until_error(stream, scope.as_deref(), &mut state).await;
            self.metrics.watch_failures.inc();
            tracing::warn!(why, "the watch of pods broke; restarting it");
            let broken = *state.broken.get_or_insert_with(Instant::now);
            if !state.settled || broken.elapsed() >= GRACE {
                self.pods_are(scope.as_deref(), Err(why.to_owned()), &mut state);
            }
            tokio::time::sleep(state.wait).await;
            state.wait = (state.wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn follow_until_error(
        &self,
        stream: impl Stream<Item = Result<Change<Pod>, WatchError>>,
        scope: Option<&str>,
        state: &mut Health,
    ) -> &'static str {
        let mut stream = std::pin::pin!(stream);
        let mut listing = Listing::default();
        loop {
            let next = match state.broken {
                None => stream.next().await,
                Some(since) => match tokio::time::timeout_at(since + GRACE, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // The list continues, but for an unknown time.
                        self.pods_are(scope, Err(UNANSWERED.to_owned()), state);
                        stream.next().await
                    }
                },
            };
            match next {
                Some(Ok(change)) => {
                    let done = matches!(change, Change::Done { .. });
                    let keys = self.take(change, &mut listing, scope);
                    self.scheduler.push(&self.world, keys);
                    if done {
                        (state.broken, state.wait) = (None, FIRST_WAIT);
                        self.pods_are(scope, Ok(()), state);
                    }
                }
                Some(Err(error)) => return reason(&error),
                None => return UNANSWERED,
            }
        }
    }

    fn pods_are(&self, scope: Option<&str>, known: Result<(), String>, state: &mut Health) {
        let keys = lock(&self.world).pods_watched(scope, known);
        self.scheduler.push(&self.world, keys);
        if !state.settled {
            state.settled = true;
            self.unsettled.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

struct Health {
    /// True if the watch has reported its state once.
    settled: bool,
    broken: Option<Instant>,
    wait: Duration,
}

fn reason(error: &WatchError) -> &'static str {
    if matches!(error.code(), Some(401 | 403)) { FORBIDDEN } else { UNANSWERED }
}

impl Watched for Pod {
    const RESOURCE: Resource = Resource::POD;
    const LABELS: Option<&'static str> = None;

    fn apply(self, world: &SharedCache) -> BTreeSet<ObjectRef> {
        let facts = pods::read(&self);
        lock(world).apply_pod(&place(&self.metadata), facts)
    }

    fn apply_unreadable(unreadable: &Unreadable, world: &mut ClusterCache) -> BTreeSet<ObjectRef> {
        world.apply_unreadable_pod(unreadable)
    }

    fn remove(world: &mut ClusterCache, place: &Place, _: Option<&str>) -> BTreeSet<ObjectRef> {
        world.apply_pod(place, None)
    }

    fn places(world: &ClusterCache) -> Vec<Place> {
        world.pod_places()
    }
}

const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
const FORBIDDEN: &str = "the operator may not list and watch pods";
const UNANSWERED: &str = "the watch of pods is broken";
/// The time for which the known pods stay valid after their watch broke. It is shorter than the time in which a pod can
/// start and miss an earlier publication.
const GRACE: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
