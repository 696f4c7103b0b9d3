//! How long a guest may hold its thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;

use crate::meter::OutOfTime;

/// How long a guest's turn may last before another thread takes over what else waits for this one. Fuel ends most turns
/// sooner; this ends those that host calls make long.
const TURN: Duration = Duration::from_millis(2);
/// The runtime need not look at its sockets after a turn that was shorter: that costs about a microsecond.
const SHORT_TURN: Duration = Duration::from_micros(50);
/// A turn that is so long was one long step.
const LONG_TURN: Duration = Duration::from_millis(8);
/// Turns of a component that are watched after a long one, by the thread's own clock.
const TURNS_WATCHED: u32 = 100;
/// Turns of a component that are apart after a long one.
const TURNS_APART: u32 = 1_000;
/// Turns that are apart at once: each holds a thread beside those of the runtime.
static APART: Semaphore = Semaphore::const_new(64);

thread_local! {
    /// When the turn began that this thread is in.
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives what waits for this thread to another one, if the guest that runs on it has had it for long.
pub(crate) fn share_thread(now: Instant) {
    if TURN_BEGAN.get().is_some_and(|began| now - began > TURN) {
        TURN_BEGAN.set(Some(now));
        // Nothing blocks here: the runtime only hands the tasks that wait for this thread to another one.
        tokio::task::block_in_place(|| ());
    }
}

/// How long the turns of one component's guests are. Some steps of a guest are long by themselves, and no hook comes within them:
/// a fill of all its memory, a string that goes from one component inside it to another. Once a turn was that long, the next
/// ones are apart: what else waits for their thread is handed to another one first.
///
/// A turn also takes long while other threads have its core. Which of both it is, the thread's own clock tells, which costs a
/// call of the kernel: it is read only for the turns that follow a long one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    watched: AtomicU32,
    apart: AtomicU32,
}

/// A guest whose turn has used up its fuel wakes itself at once. A runtime that always has such a guest to run looks at its
/// sockets and timers only after every 61st turn. So the turns of a call after its first long one have this waker: a guest that
/// wakes itself within a turn goes on after the runtime has looked, unless the turn was short.
struct TurnWaker {
    task: Waker,
    /// Whether the turn goes on.
    in_turn: AtomicBool,
    /// Whether the guest was woken in its turn.
    is_woken: AtomicBool,
}

impl TurnWaker {
    fn new(task: &Waker) -> Arc<Self> {
        Arc::new(TurnWaker {
            task: task.clone(),
            in_turn: AtomicBool::new(false),
            is_woken: AtomicBool::new(false),
        })
    }

    /// Gives the guest a turn that begins now.
    fn poll<G: Future>(self: &Arc<Self>, guest: Pin<&mut G>, now: Instant) -> Poll<G::Output> {
        self.in_turn.store(true, Ordering::SeqCst);
        let polled = guest.poll(&mut Context::from_waker(&Waker::from(self.clone())));
        self.in_turn.store(false, Ordering::SeqCst);
        if self.is_woken.swap(false, Ordering::SeqCst) && polled.is_pending() {
            match now.elapsed() < SHORT_TURN {
                true => self.task.wake_by_ref(),
                // The runtime wakes it once it has looked.
                false => {
                    let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&self.task));
                }
            }
        }
        polled
    }
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        // Within a turn, `poll` sees the mark once the turn has ended. Between two turns it is taken back, and the task is woken: so is
        // whoever set it in between.
        if !self.in_turn.load(Ordering::SeqCst) {
            self.is_woken.store(false, Ordering::SeqCst);
            self.task.wake_by_ref();
        }
    }
}

/// How a turn runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Usual,
    Watched,
    Apart,
}

impl Turns {
    fn begin(&self) -> Turn {
        // Counted roughly: turns of several threads at once do no harm. Most components never have a long one.
        let one_less = |count: &AtomicU32| {
            let less = |left: u32| left.checked_sub(1);
            count.load(Ordering::Relaxed) > 0
                && count
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                    .is_ok()
        };
        if one_less(&self.apart) {
            Turn::Apart
        } else if one_less(&self.watched) {
            Turn::Watched
        } else {
            Turn::Usual
        }
    }

    /// A turn has ended after so much time; of a turn that was not usual, its thread's own.
    fn end(&self, turn: Turn, took: Duration) {
        if took > LONG_TURN {
            match turn {
                Turn::Usual => self.watched.store(TURNS_WATCHED, Ordering::Relaxed),
                Turn::Watched | Turn::Apart => self.apart.store(TURNS_APART, Ordering::Relaxed),
            }
        }
    }
}

/// What a turn's length is measured with.
enum Watch {
    Clock(Instant),
    Thread(Duration),
}

impl Watch {
    fn start(turn: Turn, now: Instant) -> Self {
        match turn {
            Turn::Usual => Watch::Clock(now),
            Turn::Watched | Turn::Apart => Watch::Thread(thread_time()),
        }
    }

    fn took(&self) -> Duration {
        match self {
            Watch::Clock(began) => began.elapsed(),
            Watch::Thread(before) => thread_time().saturating_sub(*before),
        }
    }
}

/// How long this thread has had a core.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs a guest in turns, until its time is up at the latest.
pub(crate) async fn in_turns<G: Future>(
    deadline: Instant,
    turns: &Turns,
    mut guest: Pin<&mut G>,
) -> Result<G::Output, OutOfTime> {
    let mut rest = pin!(tokio::time::sleep_until(deadline.into()));
    let mut waits = None;
    let mut is_busy = false;
    let mut waker: Option<Arc<TurnWaker>> = None;
    poll_fn(|cx| {
        let now = Instant::now();
        // A busy runtime looks at its timers late.
        if now >= deadline {
            return Poll::Ready(Err(OutOfTime));
        }
        let turn = match waits {
            Some(_) => Turn::Apart,
            None => turns.begin(),
        };
        let watch = Watch::start(turn, now);
        // Most calls have short turns alone. A call goes on in another task than it began in at most once.
        let is_known = waker
            .as_ref()
            .is_some_and(|waker| waker.task.will_wake(cx.waker()));
        if is_busy && !is_known {
            waker = Some(TurnWaker::new(cx.waker()));
        }
        let mut take_turn = |cx: &mut Context<'_>| match &waker {
            Some(waker) => waker.poll(guest.as_mut(), now),
            None => guest.as_mut().poll(cx),
        };
        let polled = match turn {
            Turn::Usual | Turn::Watched => {
                TURN_BEGAN.set(Some(now));
                let polled = take_turn(cx);
                TURN_BEGAN.set(None);
                polled
            }
            Turn::Apart => {
                // Boxed, as all that few calls need.
                let waiting = waits.get_or_insert_with(|| Box::pin(APART.acquire()));
                match waiting.as_mut().poll(cx) {
                    Poll::Ready(thread) => {
                        waits = None;
                        let polled = tokio::task::block_in_place(|| take_turn(cx));
                        drop(thread);
                        polled
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        };
        let took = watch.took();
        is_busy |= took >= SHORT_TURN;
        turns.end(turn, took);
        match polled {
            Poll::Ready(ended) => Poll::Ready(Ok(ended)),
            Poll::Pending => rest.as_mut().poll(cx).map(|()| Err(OutOfTime)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::limits;
    use wasmtime::Store;
    use wasmtime::component::{Component, Linker};

    use super::*;
    use crate::engine::{Target, running_engine};
    use crate::inspect::inspect;
    use crate::lane::Lane;
    use crate::meter::begin;

    /// A component that hands a string of 16 MiB from one component inside it to another, without end.
    const STRINGS: &str = r#"(component
        (component $sink
          (core module $m
            (memory (export "memory") 512)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
            (func (export "take") (param i32 i32)))
          (core instance $i (instantiate $m))
          (func (export "take") (param "s" string)
            (canon lift (core func $i "take") (memory $i "memory") (realloc (func $i "realloc")))))
        (component $source
          (import "take" (func $take (param "s" string)))
          (core module $libc (memory (export "memory") 512))
          (core instance $libc (instantiate $libc))
          (core func $lowered (canon lower (func $take) string-encoding=utf16 (memory $libc "memory")))
          (core module $m
            (import "" "take" (func $take (param i32 i32)))
            (func (export "run")
              (loop $again (call $take (i32.const 0) (i32.const 0x1000000)) (br $again))))
          (core instance $i (instantiate $m (with "" (instance (export "take" (func $lowered))))))
          (func (export "run") (canon lift (core func $i "run"))))
        (instance $to (instantiate $sink))
        (instance $from (instantiate $source (with "take" (func $to "take"))))
        (export "run" (func $from "run")))"#;

    /// One that sends itself 64 MiB by a stream, without end.
    const STREAMS: &str = r#"(component
        (type $bytes (stream u8))
        (core module $libc (memory (export "memory") 2048))
        (core instance $libc (instantiate $libc))
        (core func $new (canon stream.new $bytes))
        (core func $read (canon stream.read $bytes async (memory $libc "memory")))
        (core func $write (canon stream.write $bytes async (memory $libc "memory")))
        (core func $set (canon waitable-set.new))
        (core func $join (canon waitable.join))
        (core func $poll (canon waitable-set.poll (memory $libc "memory")))
        (core module $m
          (import "" "new" (func $new (result i64)))
          (import "" "read" (func $read (param i32 i32 i32) (result i32)))
          (import "" "write" (func $write (param i32 i32 i32) (result i32)))
          (import "" "set" (func $set (result i32)))
          (import "" "join" (func $join (param i32 i32)))
          (import "" "poll" (func $poll (param i32 i32) (result i32)))
          (func (export "run") (local $ends i64) (local $reads i32) (local $writes i32) (local $set i32)
            (local.set $set (call $set))
            (local.set $ends (call $new))
            (local.set $reads (i32.wrap_i64 (local.get $ends)))
            (local.set $writes (i32.wrap_i64 (i64.shr_u (local.get $ends) (i64.const 32))))
            (call $join (local.get $reads) (local.get $set))
            (loop $again
              (drop (call $read (local.get $reads) (i32.const 0) (i32.const 0x4000000)))
              (drop (call $write (local.get $writes) (i32.const 0x4000000) (i32.const 0x4000000)))
              (drop (call $poll (local.get $set) (i32.const 0)))
              (br $again))))
        (core instance $i (instantiate $m (with "" (instance
          (export "new" (func $new)) (export "read" (func $read))
          (export "write" (func $write)) (export "set" (func $set))
          (export "join" (func $join)) (export "poll" (func $poll))))))
        (func (export "run") (canon lift (core func $i "run"))))"#;

    /// What the engine copies by itself costs little fuel, and no host call comes between: the clock ends it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn copies_within_a_component_end_in_time() {
        const TIME: Duration = Duration::from_millis(500);
        for (lane, component) in [
            (Lane::LiveP2, STRINGS),
            (Lane::Pure, STRINGS),
            (Lane::LiveP3, STREAMS),
        ] {
            let bytes = wat::parse_str(component).unwrap();
            let engine = running_engine(Target::of(lane, &inspect(&bytes).unwrap())).unwrap();
            let component = Component::new(&engine, &bytes).unwrap();
            let mut store = Store::new(&engine, ());
            store.epoch_deadline_async_yield_and_update(1);
            begin(&mut store, limits::FUEL_PER_CALL).unwrap();
            let pre = Linker::new(&engine).instantiate_pre(&component).unwrap();
            let begun = Instant::now();
            let run = pin!(async {
                let instance = pre.instantiate_async(&mut store).await.unwrap();
                let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
                run.call_async(&mut store, ()).await
            });
            let ended = in_turns(begun + TIME, &Turns::default(), run).await;
            assert!(matches!(ended, Err(OutOfTime)), "{lane:?}: {ended:?}");
            // One step more, in a build without optimisations.
            assert!(begun.elapsed() < TIME * 3, "{lane:?}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn turns_are_apart_for_a_while_after_long_ones() {
        let turns = Turns::default();
        let long = LONG_TURN * 2;
        turns.end(turns.begin(), LONG_TURN);
        assert_eq!(turns.begin(), Turn::Usual);
        turns.end(Turn::Usual, long);
        assert!((0..TURNS_WATCHED).all(|_| turns.begin() == Turn::Watched));
        assert_eq!(turns.begin(), Turn::Usual, "only the clock said so");
        turns.end(Turn::Usual, long);
        turns.end(turns.begin(), long);
        assert!((0..TURNS_APART).all(|_| turns.begin() == Turn::Apart));
        assert_eq!(turns.begin(), Turn::Watched);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_holds_its_thread_keeps_others_waiting_twice() {
        const HELD: Duration = Duration::from_millis(300);
        // Busy, not asleep: the thread's own clock has to go.
        let hold = || Box::pin(async { while_busy(HELD) });
        let guest = tokio::spawn(async move {
            let turns = Turns::default();
            let until = Instant::now() + HELD * 100;
            for _ in 0..2 {
                in_turns(until, &turns, hold().as_mut()).await.unwrap();
            }
            let longest = tokio::spawn(async {
                let begun = Instant::now();
                let (mut last, mut longest) = (begun, Duration::ZERO);
                while begun.elapsed() < HELD {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            });
            in_turns(until, &turns, hold().as_mut()).await.unwrap();
            longest.await.unwrap()
        });
        let longest = guest.await.unwrap();
        assert!(longest < HELD / 2, "{longest:?}");
    }

    /// A guest that never waits, and others on its thread: the runtime looks at its sockets after each of the guest's turns.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_burns_fuel_keeps_no_socket_waiting() {
        const TURN: Duration = Duration::from_millis(4);
        const CONNECTIONS: u32 = 9;
        const TIME: Duration = Duration::from_secs(60);
        let guest = tokio::spawn(async {
            let mut guest = Box::pin(poll_fn::<(), _>(|cx| {
                while_busy(TURN);
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
            in_turns(Instant::now() + TIME, &Turns::default(), guest.as_mut()).await
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // It accepts on the guest's thread, and the client is on none of the runtime's.
        let served = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                drop(stream);
            }
        });
        let waiting = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            for _ in 0..CONNECTIONS {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                // It ends once it was accepted.
                std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
            }
            begun.elapsed() / CONNECTIONS
        });
        let waited = waiting.await.unwrap();
        assert!(!guest.is_finished());
        guest.abort();
        served.abort();
        assert!(waited < TURN * 6, "many turns pass without a look: {waited:?}");
    }

    #[tokio::test]
    async fn a_guest_that_is_woken_goes_on_whoever_wakes_it() {
        // By itself, in short turns and long ones, and by another task.
        for length in [Duration::ZERO, SHORT_TURN * 2] {
            let mut turns = 0;
            let mut guest = Box::pin(poll_fn(|cx| {
                while_busy(length);
                turns += 1;
                let waker = cx.waker().clone();
                match turns % 3 {
                    0 => waker.wake_by_ref(),
                    1 => drop(tokio::spawn(async move { waker.wake() })),
                    _ => drop(std::thread::spawn(move || waker.wake())),
                }
                if turns == 300 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }));
            let until = Instant::now() + Duration::from_secs(20);
            assert_eq!(in_turns(until, &Turns::default(), guest.as_mut()).await, Ok(()));
        }
    }

    fn while_busy(time: Duration) {
        let begun = thread_time();
        while thread_time() - begun < time {
            std::hint::spin_loop();
        }
    }
}
