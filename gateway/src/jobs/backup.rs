//! Maps that lag are started on a second host as well.

use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use nearfield_protocol::NodeId;
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, Work};

use super::run::Job;
use super::sites::Taken;

/// A map lags that takes so many times as long as the others did on average, and so long at least.
const LAGGING: u32 = 3;
const LAGGING_MIN: Duration = Duration::from_secs(1);

impl Job<'_> {
    /// Runs one step on a host. A map that takes far longer than others do is started on a second one as well: who ends
    /// first counts, and the other stops.
    pub(super) async fn run_or_back_up(
        &self,
        spec: &PureSpec,
        first: Taken<'_>,
        size_bytes: u64,
    ) -> (NodeId, Result<PureReport, PureFailure>) {
        let begun = Instant::now();
        let dispatch = &self.gateway.dispatch;
        let mut running = dispatch.run_pure(first.host, spec.clone());
        let Work::Map { subject, .. } = &spec.work else {
            return (first.host, running.await);
        };
        if spec.setting.gpu.is_some() {
            // Two GPUs need not come to the same bits.
            return (first.host, running.await);
        }
        let ended = tokio::select! {
            ended = &mut running => Some(ended),
            () = self.lagging(begun) => None,
        };
        let (host, ended) = match ended {
            Some(ended) => (first.host, ended),
            None => match self.sites.for_shard(subject.shard, size_bytes, &[first.host]) {
                Some(second) if self.sites.is_busier(&first.host, &second.host) => {
                    tracing::info!(run = %spec.key().0.short(), host = first.host.short(), "a map that lags is started twice");
                    let backup = Box::pin(async {
                        self.gateway.catalog.see_forgotten(second.host).await?;
                        dispatch.run_pure(second.host, spec.clone()).await
                    });
                    match select(running, backup).await {
                        Either::Left((Ok(report), _)) => (first.host, Ok(report)),
                        Either::Right((Ok(report), _)) => (second.host, Ok(report)),
                        // The other one may do better.
                        Either::Left((Err(_), backup)) => (second.host, backup.await),
                        Either::Right((Err(_), running)) => (first.host, running.await),
                    }
                }
                _ => (first.host, running.await),
            },
        };
        if ended.is_ok() {
            let mut maps = self.tally.maps.lock().expect("no panic under this lock");
            *maps = (maps.0 + 1, maps.1 + begun.elapsed());
        }
        (host, ended)
    }

    /// Waits until a map that has begun then takes far longer than others did.
    async fn lagging(&self, begun: Instant) {
        loop {
            let (count, took) = *self.tally.maps.lock().expect("no panic under this lock");
            let patience = match count {
                0 => LAGGING_MIN,
                count => (took / count * LAGGING).max(LAGGING_MIN),
            };
            match patience.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ if count == 0 => tokio::time::sleep(LAGGING_MIN).await,
                _ => return,
            }
        }
    }
}
