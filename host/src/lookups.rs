//! Look-ups of names. The system's own holds a thread for as long as a name server takes, also when nobody waits for the answer
//! any more. Threads are shared with all that touches files, so look-ups are bounded: of each function's version, and of the host.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use nearfield_protocol::manifest::HostPort;
use tokio::sync::Semaphore;

/// Names that the guests of one function's version look up at once.
const OF_VERSION: usize = 16;
/// Names that all guests of a host look up at once, beside one of each version: however many versions wait for slow name servers, the
/// next one has its look-up at once.
const OF_HOST: usize = 128;

/// The look-ups of a host.
#[derive(Clone)]
pub(crate) struct HostLookups(Arc<Semaphore>);

impl Default for HostLookups {
    fn default() -> Self {
        HostLookups(Arc::new(Semaphore::new(OF_HOST)))
    }
}

/// The look-ups of one function's version.
pub(crate) struct Lookups {
    own: Arc<Semaphore>,
    /// The one that no other version's look-ups keep waiting.
    first: Arc<Semaphore>,
    all: HostLookups,
}

impl Lookups {
    pub fn new(all: HostLookups) -> Self {
        Lookups {
            own: Arc::new(Semaphore::new(OF_VERSION)),
            first: Arc::new(Semaphore::new(1)),
            all,
        }
    }

    /// The addresses of a name; none if it has none.
    pub async fn resolve(&self, host: &HostPort) -> Option<Vec<SocketAddr>> {
        let (name, port) = (host.host.clone(), host.port);
        let found = self.run(move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
        found.await?.ok()
    }

    /// Runs this on a thread of its own. Dropped, it no longer waits for it, and the places come free when the thread is.
    async fn run<T: Send + 'static>(&self, look_up: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        let all = match self.first.clone().try_acquire_owned() {
            Ok(first) => first,
            Err(_) => tokio::select! {
                biased;
                first = self.first.clone().acquire_owned() => first.ok()?,
                all = self.all.0.clone().acquire_owned() => all.ok()?,
            },
        };
        let running = tokio::task::spawn_blocking(move || {
            let found = look_up();
            drop((own, all));
            found
        });
        running.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn slow_name_servers_hold_no_more_threads_than_they_may() {
        let all = HostLookups::default();
        let slow = Arc::new(AtomicUsize::new(0));
        let versions: Vec<_> = (0..20).map(|_| Arc::new(Lookups::new(all.clone()))).collect();
        let mut ends = Vec::new();
        let mut waiting = Vec::new();
        for lookups in &versions {
            for _ in 0..40 {
                let (end, ended) = mpsc::channel::<()>();
                ends.push(end);
                let (lookups, slow) = (lookups.clone(), slow.clone());
                waiting.push(tokio::spawn(async move {
                    let look_up = move || {
                        slow.fetch_add(1, Ordering::SeqCst);
                        let _ = ended.recv();
                        slow.fetch_sub(1, Ordering::SeqCst);
                    };
                    lookups.run(look_up).await
                }));
            }
        }
        let reach = async |threads: usize| {
            while slow.load(Ordering::SeqCst) != threads {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let most = OF_HOST + versions.len();
        reach(most).await;
        // Guests that end let nobody in: the threads are still held.
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        let late = tokio::spawn({
            let lookups = versions[0].clone();
            async move { lookups.run(|| 7).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!late.is_finished());
        assert_eq!(slow.load(Ordering::SeqCst), most);
        // Another version's first is looked up all the same.
        assert_eq!(Lookups::new(all.clone()).run(|| 8).await, Some(8));
        drop(ends);
        assert_eq!(late.await.unwrap(), Some(7));
        reach(0).await;
    }

    #[tokio::test]
    async fn a_version_alone_holds_its_share() {
        let lookups = Arc::new(Lookups::new(HostLookups::default()));
        let started = Arc::new(AtomicUsize::new(0));
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(parking_lot::Mutex::new(ended));
        for _ in 0..OF_VERSION * 2 {
            let (lookups, started, ended) = (lookups.clone(), started.clone(), ended.clone());
            tokio::spawn(async move {
                let look_up = move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    let _ = ended.lock().recv();
                };
                lookups.run(look_up).await
            });
        }
        while started.load(Ordering::SeqCst) < OF_VERSION {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(started.load(Ordering::SeqCst), OF_VERSION);
        drop(end);
    }
}
