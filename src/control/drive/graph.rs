//! The order of components: whatever can run at once does, `needs` and the failure policy decide the rest.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    control::{
        event::Status,
        inventory::{Component, FailurePolicy},
    },
    plan::ComponentName,
};

/// Runs components as their `needs` allow. A need outside `components` counts as met: the operator chose to leave it
/// out. Gives each component's status; those that never began are [`Status::NotAttempted`].
pub(super) async fn run_graph<F, Fut>(
    components: &[Arc<Component>],
    cancel: &CancellationToken,
    run_one: F,
) -> HashMap<ComponentName, Status>
where
    F: Fn(Arc<Component>) -> Fut,
    Fut: Future<Output = Status> + Send + 'static,
{
    let mut waiting: Vec<Arc<Component>> = components.to_vec();
    let taking_part: HashSet<ComponentName> = components.iter().map(|component| component.name.clone()).collect();
    let mut ended: HashMap<ComponentName, Status> = HashMap::new();
    let mut running = JoinSet::new();
    let mut stop = false;
    loop {
        if stop || cancel.is_cancelled() {
            waiting.clear();
        }
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|component: &Arc<Component>| {
            component.needs.iter().all(|need| !taking_part.contains(need) || ended.contains_key(need))
        });
        waiting = rest;
        let mut skipped = false;
        for component in ready {
            if component.needs.iter().any(|need| stands_in_the_way(components, &ended, need)) {
                ended.insert(component.name.clone(), Status::NotAttempted);
                skipped = true;
                continue;
            }
            let future = run_one(Arc::clone(&component));
            running.spawn(async move { (component, future.await) });
        }
        if skipped {
            continue;
        }
        match running.join_next().await {
            None => break,
            Some(Ok((component, status))) => {
                stop |= is_bad(status) && component.on_failure == FailurePolicy::StopAll;
                ended.insert(component.name.clone(), status);
            }
            // A task only fails to join by panicking; its component then has no status and counts as failed.
            Some(Err(_)) => stop = true,
        }
    }
    for component in components {
        let fallback = if stop || cancel.is_cancelled() { Status::NotAttempted } else { Status::Failed };
        ended.entry(component.name.clone()).or_insert(fallback);
    }
    ended
}

fn is_bad(status: Status) -> bool {
    matches!(status, Status::Failed | Status::Unreachable | Status::Interrupted | Status::NotAttempted)
}

fn stands_in_the_way(
    components: &[Arc<Component>],
    ended: &HashMap<ComponentName, Status>,
    need: &ComponentName,
) -> bool {
    let policy = components.iter().find(|component| component.name == *need).map(|component| component.on_failure);
    ended.get(need).is_some_and(|status| is_bad(*status)) && policy != Some(FailurePolicy::Continue)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use indexmap::IndexMap;

    use super::*;
    use crate::{control::inventory::RecipeRef, plan::Source};

    fn component(name: &str, needs: &[&str], on_failure: FailurePolicy) -> Arc<Component> {
        Arc::new(Component {
            name: name.parse().unwrap(),
            recipe: RecipeRef::Named(name.into()),
            hosts: vec!["h".parse().unwrap()],
            needs: needs.iter().map(|need| need.parse().unwrap()).collect(),
            serial: None,
            on_failure,
            params: IndexMap::new(),
            source: Source { file: "lab.toml".into(), line: 1 },
        })
    }

    async fn order(components: &[Arc<Component>], failing: &'static str) -> (Vec<String>, HashMap<String, Status>) {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let ended = run_graph(components, &CancellationToken::new(), |component| {
            let begun = Arc::clone(&begun);
            async move {
                begun.lock().unwrap().push(component.name.to_string());
                if component.name.as_str() == failing { Status::Failed } else { Status::Changed }
            }
        })
        .await;
        let begun = begun.lock().unwrap().clone();
        (begun, ended.into_iter().map(|(name, status)| (name.to_string(), status)).collect())
    }

    #[tokio::test]
    async fn needs_come_first() {
        let policy = FailurePolicy::StopHost;
        let graph = [component("c", &["b"], policy), component("b", &["a"], policy), component("a", &[], policy)];
        assert_eq!(order(&graph, "").await.0, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn a_failure_stops_what_needs_it() {
        let policy = FailurePolicy::StopHost;
        let graph = [
            component("a", &[], policy),
            component("b", &["a"], policy),
            component("c", &["b"], policy),
            component("d", &[], policy),
        ];
        let (begun, ended) = order(&graph, "a").await;
        assert_eq!(begun.len(), 2, "only a and d begin: {begun:?}");
        assert_eq!(ended["b"], Status::NotAttempted);
        assert_eq!(ended["c"], Status::NotAttempted);
        assert_eq!(ended["d"], Status::Changed);
    }

    #[tokio::test]
    async fn continue_goes_on_and_stop_all_does_not() {
        let going = [component("a", &[], FailurePolicy::Continue), component("b", &["a"], FailurePolicy::StopHost)];
        assert_eq!(order(&going, "a").await.1["b"], Status::Changed);
        let stopping = [component("a", &[], FailurePolicy::StopAll), component("b", &["a"], FailurePolicy::StopHost)];
        assert_eq!(order(&stopping, "a").await.1["b"], Status::NotAttempted);
    }

    #[tokio::test]
    async fn a_need_left_out_counts_as_met() {
        let graph = [component("b", &["a"], FailurePolicy::StopHost)];
        assert_eq!(order(&graph, "").await.0, ["b"]);
    }
}
