//! The tasks that run for as long as a node does.

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The long-lived tasks of a node. Each ends once `stop` is cancelled. One that ends before ends the node: what a node shows
/// without it would be old, or wrong.
pub struct Tasks {
    pub stop: CancellationToken,
    set: JoinSet<&'static str>,
}

impl Tasks {
    pub fn new(stop: CancellationToken) -> Self {
        Tasks {
            stop,
            set: JoinSet::new(),
        }
    }

    /// Starts a task. `name` is what its early end is reported with.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(name, task, &Handle::current());
    }

    /// Starts a task on the threads of `runtime`.
    pub fn spawn_on(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) {
        let named = async move {
            task.await;
            name
        };
        self.set.spawn_on(named, runtime);
    }

    /// Ends when one of them does, which none should: why.
    pub async fn ended_early(&mut self) -> String {
        match self.set.join_next().await {
            Some(Ok(name)) => format!("{name} has ended"),
            Some(Err(error)) => format!("a task has failed: {error}"),
            // There is none, so none can end.
            None => std::future::pending().await,
        }
    }

    /// Waits for all of them, after `stop`.
    pub async fn all_ended(mut self) {
        while let Some(ended) = self.set.join_next().await {
            if let Err(error) = ended {
                tracing::warn!(%error, "a task did not end well");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_early_end_is_told_with_its_name() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop.clone();
        tasks.spawn("the patient task", async move { stop.cancelled().await });
        tasks.spawn("the hasty task", async {});
        assert_eq!(tasks.ended_early().await, "the hasty task has ended");
        tasks.spawn("the broken task", async { panic!("as it is meant to") });
        assert!(tasks.ended_early().await.contains("panicked"));
        tasks.stop.cancel();
        tasks.all_ended().await;
    }
}
