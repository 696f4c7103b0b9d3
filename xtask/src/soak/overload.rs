//! Three times the load that a node can take: what it still answers, how fast, and how soon it is itself again.
//!
//! First some clients call a function as fast as they are answered: that is the load that the node can take, and its rate the
//! peak. Then calls come at three times that rate, whether or not earlier ones were answered, from many addresses. A call's
//! time counts from when it was to be sent. The clients run on the node's cores, and three times the calls take three times
//! their work: a rate counts per CPU that the clients leave to the node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Finding, Setting};
use crate::report::{bytes, count, time};

/// Clients that call as fast as they are answered: as many as a function has calls at once.
const STEADY: usize = 256;
/// How much more comes than can be taken.
const TIMES: u32 = 3;
/// Connections that the overload comes by, and addresses that they come from.
const CONNECTIONS: usize = 1_600;
const ADDRESSES: usize = 100;
/// What the function does: about a millisecond of work.
const PATH: &str = "/spin";

/// The goals: of the peak's rate, of its p99.9, of its memory, and until the rate is back.
const LEAST_GOODPUT: f64 = 0.9;
const MOST_TIMES: u32 = 3;
const MOST_MEMORY: f64 = 1.3;
const MOST_RECOVERY: Duration = Duration::from_secs(1);

/// What calls came to.
#[derive(Default)]
struct Tally {
    good: Mutex<Vec<Duration>>,
    refused: AtomicU64,
    failed: AtomicU64,
    /// Why the first of these did.
    reason: Mutex<Option<String>>,
    /// Calls for which no connection was free when they were to be sent.
    unsent: AtomicU64,
    /// The CPUs that the clients left to the node, on average.
    left: f64,
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("overload")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    let component = crate::guests::component(&setting.components, "hostile");
    let component = component.display().to_string();
    node.json(&["deploy", &component, "--name", "spin", "--public"])?;
    let address: SocketAddr = node.functions_url.trim_start_matches("http://").parse()?;
    let seconds = Duration::from_secs(if setting.quick { 2 } else { 10 });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    // Once, so that its code is there.
    runtime.block_on(steady(address, 4, Duration::from_secs(1)))?;
    let peak = runtime.block_on(steady(address, STEADY, seconds))?;
    let rate = peak.rate(seconds);
    let usual = peak.slowest();
    let memory = node.memory("VmRSS")?;
    node.reset_peak()?;
    let over = runtime.block_on(flood(address, rate * f64::from(TIMES), seconds))?;
    let goodput = (over.rate(seconds) / over.left) / (rate / peak.left);
    let slowest = over.slowest();
    let most_memory = node.memory("VmHWM")?;
    let recovered = runtime.block_on(recovery(address, rate))?;
    node.stop()?;

    let findings = vec![
        (
            format!("{STEADY} clients as fast as they are answered"),
            format!("{} calls/s, p99.9 {}", count(rate as u64), time(usual)),
        ),
        (
            format!("{TIMES} times as many calls"),
            format!(
                "{goodput:.2} of the peak answered ({:.2} with the CPU that the clients took), p99.9 of these {}; {} refused, {} failed, {} not sent",
                over.rate(seconds) / rate,
                time(slowest),
                count(over.refused.load(Ordering::Relaxed)),
                count(over.failed.load(Ordering::Relaxed)),
                count(over.unsent.load(Ordering::Relaxed)),
            ),
        ),
        (
            "memory".to_owned(),
            format!("{} → {}", bytes(memory), bytes(most_memory)),
        ),
        ("until the rate is back".to_owned(), time(recovered)),
    ];
    for (what, came) in &findings {
        eprintln!("{what}: {came}");
    }
    if let Some(reason) = &*locked(&over.reason) {
        eprintln!("the first call that failed: {reason}");
    }
    ensure!(
        goodput >= LEAST_GOODPUT,
        "only {goodput:.2} of the peak is answered"
    );
    ensure!(
        slowest <= usual * MOST_TIMES,
        "p99.9 went from {} to {}",
        time(usual),
        time(slowest)
    );
    ensure!(
        most_memory as f64 <= memory as f64 * MOST_MEMORY,
        "memory went from {} to {}",
        bytes(memory),
        bytes(most_memory)
    );
    ensure!(
        recovered <= MOST_RECOVERY,
        "the rate was back after {}",
        time(recovered)
    );
    Ok(findings)
}

impl Tally {
    /// Complete, once no client adds to it.
    fn measured(tally: Arc<Self>, begun: Instant, used: Duration) -> Result<Self> {
        let left = left(begun, used)?;
        let tally = Arc::into_inner(tally).context("a client still calls")?;
        Ok(Tally { left, ..tally })
    }

    fn rate(&self, seconds: Duration) -> f64 {
        locked(&self.good).len() as f64 / seconds.as_secs_f64()
    }

    /// The p99.9 of those that were answered.
    fn slowest(&self) -> Duration {
        let mut took = locked(&self.good);
        took.sort_unstable();
        let at = (took.len() * 999).div_ceil(1_000);
        took.get(at.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn note(&self, came: Result<u16>, took: Duration) {
        match came {
            Ok(200) => locked(&self.good).push(took),
            Ok(429 | 503) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            other => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let reason = match other {
                    Ok(status) => format!("status {status}"),
                    Err(error) => format!("{error:#}"),
                };
                locked(&self.reason).get_or_insert(reason);
            }
        }
    }
}

/// No panic under these locks leaves anything half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this process used of the CPUs since it began.
fn own_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec as u32)
}

/// How many CPUs this process left to others since then.
fn left(begun: Instant, used: Duration) -> Result<f64> {
    let own = (own_cpu() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    Ok(std::thread::available_parallelism()?.get() as f64 - own)
}

/// A connection from the address of this number.
async fn connect(address: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let own = Ipv4Addr::new(127, 0, 1, (1 + number % ADDRESSES) as u8);
    socket.bind(SocketAddr::new(IpAddr::V4(own), 0))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One call. Its status, once all of the answer is here.
async fn call(stream: &mut TcpStream) -> Result<u16> {
    let request = format!("GET /fn/spin{PATH} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        let read = stream.read(&mut piece).await?;
        ensure!(read > 0, "the connection ended");
        answer.extend_from_slice(&piece[..read]);
        let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let text = str::from_utf8(&answer[..head])?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without its length")?.trim().parse()?;
        if answer.len() >= head + 4 + length {
            return Ok(text.split(' ').nth(1).context("a status")?.parse()?);
        }
    }
}

/// So many clients, each with its next call as soon as the last one is answered.
async fn steady(address: SocketAddr, clients: usize, seconds: Duration) -> Result<Tally> {
    let tally = Arc::new(Tally::default());
    let (begun, used) = (Instant::now(), own_cpu());
    let over = begun + seconds;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let tally = tally.clone();
        tasks.spawn(async move {
            let mut stream = connect(address, number).await?;
            while Instant::now() < over {
                let sent = Instant::now();
                let came = call(&mut stream).await;
                tally.note(came, sent.elapsed());
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Tally::measured(tally, begun, used)
}

/// Calls at this rate, each by a connection that is free.
async fn flood(address: SocketAddr, rate: f64, seconds: Duration) -> Result<Tally> {
    let tally = Arc::new(Tally::default());
    let free = Arc::new(Mutex::new(Vec::with_capacity(CONNECTIONS)));
    for number in 0..CONNECTIONS {
        let stream = connect(address, number).await?;
        locked(&free).push((number, stream));
    }
    let (begun, used) = (Instant::now(), own_cpu());
    let mut tasks = tokio::task::JoinSet::new();
    let mut sent = 0_u64;
    while begun.elapsed() < seconds {
        // What is due by now is sent together.
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            let at = begun + Duration::from_secs_f64(sent as f64 / rate);
            sent += 1;
            let taken = locked(&free).pop();
            let Some((number, mut stream)) = taken else {
                tally.unsent.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (tally, free) = (tally.clone(), free.clone());
            tasks.spawn(async move {
                let came = call(&mut stream).await;
                let goes_on = came.is_ok();
                tally.note(came, at.elapsed());
                let stream = match goes_on {
                    true => Ok(stream),
                    false => connect(address, number).await,
                };
                if let Ok(stream) = stream {
                    locked(&free).push((number, stream));
                }
            });
        }
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What is under way no longer counts: it would be answered without the load.
    tasks.shutdown().await;
    Tally::measured(tally, begun, used)
}

/// How long it takes until as many clients as before get their rate again.
async fn recovery(address: SocketAddr, rate: f64) -> Result<Duration> {
    const STEP: Duration = Duration::from_millis(200);
    let (tally, over) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..STEADY {
        let (tally, over) = (tally.clone(), over.clone());
        tasks.spawn(async move {
            let mut stream = connect(address, number).await?;
            while !over.load(Ordering::Relaxed) {
                let came = call(&mut stream).await;
                tally.note(came, Duration::ZERO);
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    let mut before = 0;
    while begun.elapsed() < Duration::from_secs(30) {
        let from = Instant::now();
        tokio::time::sleep(STEP).await;
        let now = locked(&tally.good).len();
        if (now - before) as f64 / from.elapsed().as_secs_f64() >= rate * LEAST_GOODPUT {
            break;
        }
        before = now;
    }
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(took)
}
