//! How much at once: the places of a function and of all hosts, shared fairly among the clients that want them.
//!
//! A client alone may take most of what is free. The more it holds, the more must be left free for it to take another
//! place (the dynamic threshold of Choudhury and Hahne), so somebody who comes later finds one at once, whatever a single
//! client does. Who finds none waits: each client in a queue of its own, of bounded length, and the queues take turns.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::auth::Caller;
use crate::body::{Body, BoundedBody};
use crate::budget::Budgets;
use crate::origin::{Origin, sharer};
use crate::shares::Shares;

/// Functions whose pools are kept; the least used are forgotten, which only forgets idle ones.
const MAX_FUNCTIONS: u64 = 10_000;
/// A client may hold so many times what is free. Alone it gets two thirds; of 256 places, five clients that each take all
/// they can leave one for the sixth. From then on, whoever comes waits for the first place that comes free.
const GREED: u32 = 2;

/// Clients of which one may be pushed out, where all wait that may: the look is under the pool's lock.
const LOOKED_AT: usize = 64;

/// Who shares: everybody else gets as much as each of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// Of a public function: one address, or one network of IPv6.
    Address(IpAddr),
    Token(String),
    Admin,
}

impl Client {
    pub fn of(caller: &Caller, origin: &Origin) -> Self {
        match caller {
            Caller::Anyone => Client::Address(sharer(origin.address)),
            Caller::Token(token) => Client::Token(token.id.clone()),
            Caller::Admin => Client::Admin,
        }
    }
}

/// Counts what runs.
pub struct Admission {
    functions: moka::sync::Cache<FunctionName, Arc<Pool>>,
    /// The places of all hosts.
    all: Arc<Pool>,
    /// Requests whose bodies have not begun to come.
    expected: Arc<Shares<Client>>,
    /// Answers that need no token, until they are taken.
    pub open_answers: Arc<Shares<IpAddr>>,
    pub budgets: Arc<Budgets>,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            functions: moka::sync::Cache::new(MAX_FUNCTIONS),
            all: Arc::default(),
            expected: Shares::new(limits::EXPECTED_BODIES),
            open_answers: Shares::new(limits::OPEN_ANSWERS),
            budgets: Arc::default(),
        }
    }
}

/// A call's places, held until it has ended.
pub struct Places {
    _function: CallPlace,
    _host: CallPlace,
}

impl Admission {
    /// A function's pool, the same one for all its versions.
    pub fn pool(&self, function: &FunctionName) -> Arc<Pool> {
        self.functions.get_with_by_ref(function, Arc::default)
    }

    /// Waits for a request's body to begin: a request that cannot run yet takes no place, and a client has not any number
    /// of these.
    pub async fn begun(&self, client: &Client, body: BoundedBody) -> Result<Body, Problem> {
        let _expected = self.expected.enter(client.clone()).ok_or_else(|| {
            Problem::new(
                ProblemKind::TooManyRequests,
                "as many bodies of this client's requests are waited for as may be: send those first",
            )
            .with_limit(format!(
                "requests without their body = {}",
                limits::EXPECTED_BODIES
            ))
        })?;
        body.begun().await
    }

    /// A place among a function's calls, and one among those of all `hosts`: at once, or after a bounded wait.
    pub async fn enter(
        &self,
        pool: &Arc<Pool>,
        client: &Client,
        function: &FunctionVersion,
        hosts: usize,
    ) -> Result<Places, Problem> {
        let limit = function.manifest.limits.calls;
        let own = pool.enter(client, limit).await.map_err(|refusal| match refusal {
            Refusal::Full => Problem::new(
                ProblemKind::Overload,
                format!(
                    "function `{}` has as many calls at once as it may: try again, or raise `limits.calls` in its nearfield.toml",
                    function.name
                ),
            )
            .with_limit(format!("limits.calls = {limit}")),
            Refusal::TooManyWait => too_many_wait(),
        })?;
        let hosts = u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
        let limit = hosts.saturating_mul(limits::CALLS_PER_HOST);
        let host = self
            .all
            .enter(client, limit)
            .await
            .map_err(|refusal| match refusal {
                Refusal::Full => Problem::new(
                    ProblemKind::Overload,
                    "all hosts have as many calls at once as they may",
                )
                .with_limit(format!("calls at once = {limit}")),
                Refusal::TooManyWait => too_many_wait(),
            })?;
        Ok(Places {
            _function: own,
            _host: host,
        })
    }
}

fn too_many_wait() -> Problem {
    Problem::new(
        ProblemKind::TooManyRequests,
        "as many calls of this client wait for a place as may: wait until some have ended",
    )
    .with_limit(format!(
        "waiting calls of a client = {}",
        limits::WAITING_PER_CLIENT
    ))
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// None came free in time, or too many others wait.
    Full,
    /// This client has its share of those who wait.
    TooManyWait,
}

/// Places that clients share.
#[derive(Default)]
pub struct Pool {
    /// The lock is held for one place that is taken or given back.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: u32,
    /// By client, none that holds nothing.
    held: HashMap<Client, u32>,
    /// Who waits, in the order of their turns. None of them may take a place as things are.
    turns: VecDeque<Client>,
    queues: HashMap<Client, VecDeque<Waiter>>,
    /// All of them together.
    waiting: usize,
}

struct Waiter {
    limit: u32,
    /// Closed once nobody waits any more.
    place: oneshot::Sender<CallPlace>,
}

/// A place, until it is dropped.
pub struct CallPlace {
    pool: Option<Arc<Pool>>,
    client: Client,
}

impl std::fmt::Debug for CallPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a place of {:?}", self.client)
    }
}

/// Whether a client that holds so many places may take another one while so many are free.
fn may_take(held: u32, free: u32) -> bool {
    free > 0 && held < free.saturating_mul(GREED)
}

impl Pool {
    /// A place, of `limit` in all: at once, or after a bounded wait.
    pub async fn enter(self: &Arc<Self>, client: &Client, limit: u32) -> Result<CallPlace, Refusal> {
        let waiting = match self.ask(client, limit)? {
            Ok(place) => return Ok(place),
            Err(waiting) => waiting,
        };
        match Box::pin(tokio::time::timeout(limits::QUEUE_WAIT, waiting)).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Refusal::Full),
        }
    }

    /// A place, or where one will come.
    fn ask(
        self: &Arc<Self>,
        client: &Client,
        limit: u32,
    ) -> Result<Result<CallPlace, oneshot::Receiver<CallPlace>>, Refusal> {
        let mut state = self.state.lock();
        match state.take(client, limit) {
            true => Ok(Ok(self.place(client))),
            false => state.wait(client, limit).map(Err),
        }
    }

    fn place(self: &Arc<Self>, client: &Client) -> CallPlace {
        CallPlace {
            pool: Some(self.clone()),
            client: client.clone(),
        }
    }

    fn give_back(self: Arc<Self>, client: &Client) {
        let mut state = self.state.lock();
        state.give_back(client);
        // Every client that waits is asked once; after a place was given, all of them once more.
        let mut left = state.turns.len();
        while left > 0 {
            left -= 1;
            let Some(next) = state.turns.pop_front() else {
                break;
            };
            if let Some(waiter) = state.next_of(&next) {
                state.turns.push_back(next.clone());
                if !state.take(&next, waiter.limit) {
                    state.queues.entry(next).or_default().push_front(waiter);
                    state.waiting += 1;
                    continue;
                }
                left = state.turns.len();
                if let Err(mut place) = waiter.place.send(self.place(&next)) {
                    // Nobody waits any more. The place is given back here, because its drop would wait for this lock.
                    place.pool = None;
                    state.give_back(&next);
                }
            }
        }
    }
}

impl State {
    fn take(&mut self, client: &Client, limit: u32) -> bool {
        let held = self.held.get(client).copied().unwrap_or_default();
        if !may_take(held, limit.saturating_sub(self.taken)) {
            return false;
        }
        self.taken += 1;
        match self.held.get_mut(client) {
            Some(held) => *held += 1,
            None => drop(self.held.insert(client.clone(), 1)),
        }
        true
    }

    fn give_back(&mut self, client: &Client) {
        self.taken -= 1;
        if let Some(held) = self.held.get_mut(client) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(client);
            }
        }
    }

    fn wait(&mut self, client: &Client, limit: u32) -> Result<oneshot::Receiver<CallPlace>, Refusal> {
        let is_new = !self.queues.contains_key(client);
        if is_new && self.queues.len() >= limits::WAITING_CLIENTS {
            return Err(Refusal::Full);
        }
        // As many as run: a call that would wait for longer than calls take is refused at once.
        let most = limits::QUEUED_CALLS_PER_FUNCTION.max(limit as usize);
        if self.waiting >= most && !(is_new && self.push_out()) {
            return Err(Refusal::Full);
        }
        let queue = self.queues.entry(client.clone()).or_default();
        let before = queue.len();
        queue.retain(|waiter| !waiter.place.is_closed());
        self.waiting -= before - queue.len();
        if queue.len() >= limits::WAITING_PER_CLIENT {
            return Err(Refusal::TooManyWait);
        }
        let (place, waiting) = oneshot::channel();
        queue.push_back(Waiter { limit, place });
        self.waiting += 1;
        if is_new {
            self.turns.push_back(client.clone());
        }
        Ok(waiting)
    }

    /// Refuses the last call of a client that has several, of those whose turns come soonest the one with most: whoever has none
    /// may wait in its place. Whether there was one.
    fn push_out(&mut self) -> bool {
        let has = |client: &&Client| self.queues.get(*client).map_or(0, VecDeque::len);
        let longest = self.turns.iter().take(LOOKED_AT).max_by_key(has).cloned();
        let Some(queue) = longest.and_then(|client| self.queues.get_mut(&client)) else {
            return false;
        };
        let is_pushed_out = queue.len() > 1 && queue.pop_back().is_some();
        self.waiting -= usize::from(is_pushed_out);
        is_pushed_out
    }

    /// The first of a client that still waits. Without one, its queue is gone.
    fn next_of(&mut self, client: &Client) -> Option<Waiter> {
        let queue = self.queues.get_mut(client)?;
        while let Some(waiter) = queue.pop_front() {
            self.waiting -= 1;
            if !waiter.place.is_closed() {
                return Some(waiter);
            }
        }
        self.queues.remove(client);
        None
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use nearfield_protocol::Digest;
    use nearfield_protocol::manifest::FunctionManifest;
    use proptest::prelude::*;

    use super::*;

    fn client(number: u8) -> Client {
        Client::Address([192, 0, 2, number].into())
    }

    /// A place, if there is one at once.
    fn take(pool: &Arc<Pool>, number: u8, limit: u32) -> Option<CallPlace> {
        pool.ask(&client(number), limit).ok()?.ok()
    }

    fn take_all(pool: &Arc<Pool>, number: u8, limit: u32) -> Vec<CallPlace> {
        std::iter::from_fn(|| take(pool, number, limit)).collect()
    }

    #[tokio::test]
    async fn one_client_gets_most_places_and_the_next_ones_find_some() {
        let pool = Arc::new(Pool::default());
        let greedy = take_all(&pool, 1, 256);
        assert_eq!(greedy.len(), 171, "two thirds");
        let mut held = vec![greedy];
        for number in 2..=6 {
            let taken = take_all(&pool, number, 256);
            assert!(!taken.is_empty(), "client {number} finds none");
            held.push(taken);
        }
        drop(held);
        assert_eq!(pool.state.lock().taken, 0);
        assert!(pool.state.lock().held.is_empty());
        // What is for one or two at once is for one client's two.
        for limit in 1..=2 {
            assert_eq!(take_all(&pool, 1, limit).len(), limit as usize);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_function_has_its_places_and_gets_them_back() {
        let admission = Admission::default();
        let version = |name: &str, calls| {
            let mut manifest = FunctionManifest::default();
            manifest.limits.calls = calls;
            FunctionVersion {
                name: name.parse().unwrap(),
                version: 1,
                component: Digest::EMPTY,
                manifest,
                deployed_unix_ms: 0,
                rolled_back_to: None,
            }
        };
        let admission = &admission;
        let enter = |function: FunctionVersion, number| async move {
            let pool = admission.pool(&function.name);
            admission.enter(&pool, &client(number), &function, 1).await
        };
        let f = || version("f", 3);
        let held = [enter(f(), 1).await, enter(f(), 1).await, enter(f(), 2).await];
        assert!(held.iter().all(Result::is_ok));
        let refused = enter(f(), 3).await.err().unwrap();
        assert_eq!(refused.kind, ProblemKind::Overload);
        assert_eq!(refused.limit.as_deref(), Some("limits.calls = 3"));
        assert!(enter(version("g", 1), 1).await.is_ok(), "others are not held up");
        let fourth = enter(version("f", 4), 3).await;
        assert!(fourth.is_ok());
        assert!(enter(f(), 3).await.is_err(), "versions share the count");
        drop((held, fourth));
        assert!(enter(f(), 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_a_bound_and_clients_take_turns() {
        let pool = Arc::new(Pool::default());
        let held = take(&pool, 1, 1).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |number: u8| {
            let (pool, order) = (pool.clone(), order.clone());
            tokio::spawn(async move {
                let place = pool.enter(&client(number), 1).await;
                order.lock().push((number, place.as_ref().err().copied()));
                drop(place);
            })
        };
        let mut waiting: Vec<_> = (0..=limits::WAITING_PER_CLIENT).map(|_| wait(1)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(*order.lock(), [(1, Some(Refusal::TooManyWait))]);
        order.lock().clear();
        waiting.extend([wait(2), wait(3)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(held);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        let order = order.lock();
        let first: Vec<_> = order.iter().take(3).map(|(number, _)| *number).collect();
        assert_eq!(
            first,
            [1, 2, 3],
            "nobody waits for all that another client asked for before"
        );
        assert!(order.iter().all(|(_, refusal)| refusal.is_none()));
        let state = pool.state.lock();
        assert!(state.taken == 0 && state.held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_went_away_gets_no_place() {
        let pool = Arc::new(Pool::default());
        let held = take(&pool, 1, 1).unwrap();
        assert_eq!(
            pool.enter(&client(2), 1).await.err(),
            Some(Refusal::Full),
            "not in time"
        );
        let (two, three) = (client(2), client(3));
        let mut gone = Box::pin(pool.enter(&two, 1));
        assert!((&mut gone).now_or_never().is_none());
        let mut stays = Box::pin(pool.enter(&three, 1));
        assert!((&mut stays).now_or_never().is_none());
        drop(gone);
        drop(held);
        assert!(stays.await.is_ok());
        let state = pool.state.lock();
        assert!(state.taken == 0 && state.turns.is_empty() && state.queues.is_empty());
        assert_eq!(state.waiting, 0);
    }

    #[tokio::test]
    async fn no_more_wait_than_run_and_whoever_has_none_finds_room() {
        let pool = Arc::new(Pool::default());
        let _held: Vec<CallPlace> = (1..=4).filter_map(|number| take(&pool, number, 4)).collect();
        assert_eq!(pool.state.lock().taken, 4);
        let wait = |number: u8| {
            let asked = pool.ask(&client(number), 4);
            asked.map(|asked| asked.expect_err("no place is free"))
        };
        let greedy = limits::QUEUED_CALLS_PER_FUNCTION / limits::WAITING_PER_CLIENT;
        let many = (0..greedy).flat_map(|client| [9 + client as u8; limits::WAITING_PER_CLIENT]);
        let mut waiting: Vec<_> = many.map(|number| wait(number).unwrap()).collect();
        assert_eq!(wait(9).err(), Some(Refusal::Full), "it waits already");
        let late = wait(99).unwrap();
        let refused = |waiting: &mut oneshot::Receiver<CallPlace>| {
            matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed))
        };
        assert_eq!(
            waiting
                .iter_mut()
                .filter_map(|waiting| refused(waiting).then_some(()))
                .count(),
            1
        );
        assert_eq!(wait(99).err(), Some(Refusal::Full));
        assert_eq!(pool.state.lock().waiting, limits::QUEUED_CALLS_PER_FUNCTION);
        drop(late);
    }

    proptest! {
        /// Whatever clients take and give back: never more than there are, never one in use that was free, and who holds
        /// nothing finds a place as long as one is free.
        #[test]
        fn places_are_counted(steps in proptest::collection::vec((0u8..6, any::<bool>()), 0..200), limit in 1u32..20) {
            let pool = Arc::new(Pool::default());
            let mut held: Vec<CallPlace> = Vec::new();
            for (number, gives) in steps {
                let own = held.iter().position(|place| place.client == client(number));
                match (gives, own) {
                    (true, Some(own)) => drop(held.swap_remove(own)),
                    (true, None) => {}
                    (false, own) => {
                        let free = limit - held.len() as u32;
                        let place = take(&pool, number, limit);
                        prop_assert!(own.is_some() || place.is_some() == (free > 0));
                        held.extend(place);
                    }
                }
                prop_assert!(held.len() as u32 <= limit);
                prop_assert_eq!(pool.state.lock().taken, held.len() as u32);
            }
        }
    }
}
