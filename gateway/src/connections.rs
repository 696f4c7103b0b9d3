//! The connections of a listener: so many in all, and so many from each address.
//!
//! A connection costs its client nothing until it asks for something that not everybody gets. Until then it gives way to a
//! newer one, and the oldest goes first: nobody keeps others out with half requests. Where all have done so, one that asks for
//! nothing gives way, the longest idle first: nobody keeps others out with connections that lie idle.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nearfield_protocol::limits;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a connection lies idle before it gives way: a client's next request may be on its way.
const IDLE: Duration = Duration::from_secs(1);

pub struct Connections {
    /// The lock is held for one connection that comes, proves itself or goes.
    state: Mutex<State>,
    most: usize,
    most_per_address: usize,
    /// What times of idle connections are counted from.
    began: Instant,
}

#[derive(Default)]
struct State {
    /// By number, which grows.
    open: HashMap<u64, Open>,
    by_address: HashMap<IpAddr, usize>,
    /// Of these, those that may be pushed out, the oldest first.
    unproven: BTreeMap<u64, CancellationToken>,
    last: u64,
}

struct Open {
    /// The address that the connection counts for, if any.
    address: Option<IpAddr>,
    pushed_out: CancellationToken,
    activity: Arc<Activity>,
}

/// Whether a connection's client waits for something.
#[derive(Default)]
struct Activity {
    requests: AtomicU32,
    /// When the last of them ended, in milliseconds.
    idle_since: AtomicU64,
}

/// A request of a connection that is under way.
pub struct Request {
    proof: Arc<Proof>,
}

/// A connection's place, until it is dropped or pushed out.
pub struct ConnectionPlace {
    connections: Arc<Connections>,
    number: u64,
    /// Cancelled once it is pushed out.
    pub pushed_out: CancellationToken,
    pub proof: Arc<Proof>,
}

/// What a connection's requests hold of its place.
pub struct Proof {
    connections: Arc<Connections>,
    number: u64,
    given: AtomicBool,
    activity: Arc<Activity>,
}

impl Default for Connections {
    fn default() -> Self {
        Connections::new(limits::CONNECTIONS, limits::CONNECTIONS_PER_ADDRESS)
    }
}

impl Connections {
    fn new(most: usize, most_per_address: usize) -> Self {
        Connections {
            state: Mutex::default(),
            most,
            most_per_address,
            began: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// A place for one more, which counts for `address`: a trusted proxy's counts for none.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<ConnectionPlace> {
        let now_ms = self.now_ms();
        let mut state = self.state.lock();
        if let Some(address) = address {
            let there = state.by_address.get(&address).copied().unwrap_or_default();
            if there >= self.most_per_address && !state.push_out(Some(address), now_ms) {
                return None;
            }
        }
        if state.open.len() >= self.most && !state.push_out(None, now_ms) {
            return None;
        }
        state.last += 1;
        let (number, pushed_out) = (state.last, CancellationToken::new());
        let activity = Arc::new(Activity {
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(now_ms),
        });
        let open = Open {
            address,
            pushed_out: pushed_out.clone(),
            activity: activity.clone(),
        };
        state.open.insert(number, open);
        state.unproven.insert(number, pushed_out.clone());
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        Some(ConnectionPlace {
            connections: self.clone(),
            number,
            pushed_out,
            proof: Arc::new(Proof {
                connections: self.clone(),
                number,
                given: AtomicBool::new(false),
                activity,
            }),
        })
    }
}

impl State {
    /// Makes room, of one address or of all. Whether some connection could be pushed out.
    fn push_out(&mut self, address: Option<IpAddr>, now_ms: u64) -> bool {
        let is_of = |open: &Open| address.is_none() || open.address == address;
        let oldest = self
            .unproven
            .keys()
            .find(|number| self.open.get(number).is_some_and(is_of));
        let idle = |open: &Open| {
            let requests = open.activity.requests.load(Ordering::Relaxed);
            let since = open.activity.idle_since.load(Ordering::Relaxed);
            (requests == 0 && since + IDLE.as_millis() as u64 <= now_ms).then_some(since)
        };
        // Looked at one by one: only where all places are taken by clients that have proved themselves.
        let longest_idle = || {
            let those = self.open.iter().filter(|(_, open)| is_of(open));
            let those = those.filter_map(|(number, open)| Some((idle(open)?, *number)));
            those.min().map(|(_, number)| number)
        };
        let Some(number) = oldest.copied().or_else(longest_idle) else {
            return false;
        };
        if let Some(open) = self.open.get(&number) {
            open.pushed_out.cancel();
        }
        self.remove(number);
        true
    }

    fn remove(&mut self, number: u64) {
        self.unproven.remove(&number);
        let Some(address) = self.open.remove(&number).and_then(|open| open.address) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Proof {
    /// From now on the connection gives way only where it lies idle.
    pub fn give(&self) {
        if !self.given.swap(true, Ordering::Relaxed) {
            self.connections.state.lock().unproven.remove(&self.number);
        }
    }
}

impl Proof {
    /// A request begins: the connection is not idle until the returned [`Request`] is dropped.
    pub fn request(self: &Arc<Self>) -> Request {
        self.activity.requests.fetch_add(1, Ordering::Relaxed);
        Request { proof: self.clone() }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Proof {
            connections,
            activity,
            ..
        } = &*self.proof;
        activity.idle_since.store(connections.now_ms(), Ordering::Relaxed);
        activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.connections.state.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::origin::sharer;

    fn enter(connections: &Arc<Connections>, address: &str) -> Option<ConnectionPlace> {
        connections.enter(Some(sharer(address.parse().unwrap())))
    }

    #[test]
    fn one_address_has_its_share() {
        let connections = Arc::new(Connections::new(100, 5));
        let proven = |address: &str| {
            let place = enter(&connections, address)?;
            place.proof.give();
            Some(place)
        };
        let held: Vec<_> = (0..5).map(|_| proven("192.0.2.1").unwrap()).collect();
        assert!(
            proven("::ffff:192.0.2.1").is_none(),
            "the same client in IPv6 clothes"
        );
        assert!(proven("192.0.2.2").is_some());
        // Whoever has one address of IPv6 has its whole network.
        let many: Vec<_> = (0..9)
            .filter_map(|low| proven(&format!("2001:db8:0:1::{low}")))
            .collect();
        assert_eq!(many.len(), 5);
        assert!(proven("2001:db8:0:2::1").is_some());
        drop((held, many));
        assert!(proven("192.0.2.1").is_some());
        let state = connections.state.lock();
        assert!(state.open.is_empty() && state.by_address.is_empty() && state.unproven.is_empty());
    }

    #[test]
    fn what_has_proved_nothing_gives_way_the_oldest_first() {
        let connections = Arc::new(Connections::new(4, 3));
        let old: Vec<_> = (0..3)
            .map(|_| enter(&connections, "192.0.2.1").unwrap())
            .collect();
        old[0].proof.give();
        let new = enter(&connections, "192.0.2.1").unwrap();
        assert!(!old[0].pushed_out.is_cancelled() && old[1].pushed_out.is_cancelled());
        // All places together, and a client that has none.
        let other = enter(&connections, "192.0.2.2").unwrap();
        let third = enter(&connections, "192.0.2.3").unwrap();
        assert!(old[2].pushed_out.is_cancelled() && !new.pushed_out.is_cancelled());
        for place in [&new, &other, &third] {
            place.proof.give();
        }
        assert!(enter(&connections, "192.0.2.4").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_idle_gives_way_the_longest_idle_first() {
        let connections = Arc::new(Connections::new(3, 3));
        let places: Vec<_> = (1..=3)
            .map(|last| {
                let place = enter(&connections, &format!("192.0.2.{last}")).unwrap();
                place.proof.give();
                place
            })
            .collect();
        let busy = places[0].proof.request();
        assert!(
            enter(&connections, "192.0.2.9").is_none(),
            "none lies idle for long"
        );
        tokio::time::sleep(IDLE).await;
        drop(places[1].proof.request());
        tokio::time::sleep(IDLE).await;
        let gone = |at: usize| places[at].pushed_out.is_cancelled();
        let fourth = enter(&connections, "192.0.2.4").unwrap();
        fourth.proof.give();
        assert!(gone(2) && !gone(1) && !gone(0));
        let fifth = enter(&connections, "192.0.2.5").unwrap();
        fifth.proof.give();
        assert!(gone(1) && !gone(0));
        // Whoever waits for something stays.
        let _fourth = fourth.proof.request();
        tokio::time::sleep(IDLE).await;
        assert!(enter(&connections, "192.0.2.6").is_some_and(|_| fifth.pushed_out.is_cancelled()));
        drop(busy);
        assert_eq!(connections.state.lock().open.len(), 2);
    }

    proptest! {
        #[test]
        fn places_are_never_more_than_there_are(steps in proptest::collection::vec((0u8..4, 0u8..3, 0usize..8), 0..200)) {
            let connections = Arc::new(Connections::new(6, 3));
            let mut places: Vec<(Option<IpAddr>, ConnectionPlace)> = Vec::new();
            for (address, what, which) in steps {
                let address = (address > 0).then(|| IpAddr::from([192, 0, 2, address]));
                match what {
                    0 => places.extend(connections.enter(address).map(|place| (address, place))),
                    1 if which < places.len() => places[which].1.proof.give(),
                    2 if which < places.len() => drop(places.swap_remove(which)),
                    _ => {}
                }
                places.retain(|(_, place)| !place.pushed_out.is_cancelled());
                let state = connections.state.lock();
                prop_assert_eq!(state.open.len(), places.len());
                prop_assert!(places.len() <= 6);
                for address in 1..4 {
                    let address = Some(IpAddr::from([192, 0, 2, address]));
                    prop_assert!(places.iter().filter(|(own, _)| *own == address).count() <= 3);
                }
            }
        }
    }
}
