//! The host's side of a GPU alone, with a real worker: what calls cannot show.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_gpu::GpuError;
use nearfield_gpu::client::{
    Account, Buffer, Gpu, GpuOptions, Outcome, Pipeline, Slice, Source, Step, Submission, WorkerCommand,
};
use nearfield_gpu::resident::Piece;
use nearfield_gpu::wire::{Choice, Shader};
use nearfield_protocol::Digest;

use crate::harness::{binary, until};

const ADD: &str = "
    @group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&numbers) { numbers[id.x] += 1u; }
    }";
const ENDLESS: &str = "
    @group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) { loop { numbers[id.x] += 1u; } }";
/// Some milliseconds for each workgroup.
const LONG: &str = "
    @group(0) @binding(0) var<storage, read_write> out: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        var x = id.x;
        for (var j = 0u; j < 50000u; j++) { x = x * 747796405u + out[(x + j) % 64u]; }
        out[id.x % 64u] = x;
    }";

fn gpu(budget_bytes: u64) -> Option<Gpu> {
    if std::env::var_os("NEARFIELD_TEST_GPU").is_some_and(|value| value == "none") {
        return None;
    }
    let options = GpuOptions {
        worker: WorkerCommand {
            program: binary(),
            arguments: vec!["gpu-worker".into()],
        },
        choice: Choice::Software,
        budget_bytes: Some(budget_bytes),
    };
    Some(Gpu::start(options).unwrap())
}

fn account() -> Account {
    Account::new(
        "f",
        Duration::from_secs(60),
        Instant::now() + Duration::from_secs(60),
    )
}

async fn build(gpu: &Gpu, wgsl: &str) -> Pipeline {
    let shader = Shader {
        wgsl: wgsl.to_owned(),
        entry: "main".to_owned(),
        constants: Vec::new(),
    };
    gpu.build(shader, &account()).await.unwrap()
}

fn all(buffer: &Buffer) -> Slice {
    Slice {
        buffer: buffer.clone(),
        offset: 0,
        len: buffer.size(),
    }
}

fn dispatch(pipeline: &Pipeline, buffer: &Buffer) -> Step {
    Step::Dispatch {
        pipeline: pipeline.clone(),
        bindings: vec![(0, all(buffer))],
        workgroups: [1, 1, 1],
    }
}

async fn submit(
    gpu: &Gpu,
    account: &Account,
    steps: Vec<Step>,
    reads: Vec<Slice>,
) -> Result<Outcome, GpuError> {
    let mut submission = Submission::new(steps, reads, None, account.clone());
    gpu.check(&submission)?;
    gpu.bring(&mut submission).await.unwrap();
    gpu.submit(submission)?.await.unwrap()
}

fn first(outcome: &Outcome) -> u32 {
    u32::from_le_bytes(*outcome.reads[0].first_chunk().unwrap())
}

#[tokio::test]
async fn what_a_failed_submission_was_to_write_is_not_used() {
    let Some(gpu) = gpu(64 << 20) else { return };
    let (add, endless) = (build(&gpu, ADD).await, build(&gpu, ENDLESS).await);
    let (buffer, other) = (gpu.zeroed(256), gpu.zeroed(256));
    let account = account();
    let right = submit(&gpu, &account, vec![dispatch(&add, &buffer)], vec![all(&buffer)]).await;
    assert_eq!(first(&right.unwrap()), 1);
    // Two on their way: the second would read what the first one never wrote.
    let failing = Submission::new(
        vec![dispatch(&endless, &buffer)],
        Vec::new(),
        None,
        account.clone(),
    );
    let following = Submission::new(
        vec![dispatch(&add, &buffer)],
        vec![all(&buffer)],
        None,
        account.clone(),
    );
    let (failing, following) = (gpu.submit(failing).unwrap(), gpu.submit(following).unwrap());
    let failed = failing.await.unwrap().unwrap_err();
    assert!(
        matches!(&failed, GpuError::Quota(text) if text.contains("cut short")),
        "{failed}"
    );
    let followed = following.await.unwrap().unwrap_err();
    assert!(
        matches!(&followed, GpuError::Invalid(text) if text.contains("unknown")),
        "{followed}"
    );
    // Others are as they were, and a new one begins with zeros.
    let right = submit(&gpu, &account, vec![dispatch(&add, &other)], vec![all(&other)]).await;
    assert_eq!(first(&right.unwrap()), 1);
}

#[tokio::test]
async fn memory_that_others_use_is_theirs_until_they_let_go() {
    let Some(gpu) = gpu(8 << 20) else { return };
    let add = build(&gpu, ADD).await;
    let large = gpu.zeroed(6 << 20);
    submit(&gpu, &account(), vec![dispatch(&add, &large)], Vec::new())
        .await
        .unwrap();
    let minute = Duration::from_secs(60);
    let others = Account::new("g", minute, Instant::now() + minute);
    // Calls of one function have half together.
    for (account, text) in [(&others, "not in use"), (&account(), "calls of `f`")] {
        let another = gpu.zeroed(4 << 20);
        let refused = submit(&gpu, account, vec![dispatch(&add, &another)], Vec::new())
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, GpuError::Unavailable(said) if said.contains(text)),
            "{refused}"
        );
    }
    let beyond = gpu.zeroed(9 << 20);
    let refused = submit(&gpu, &account(), vec![dispatch(&add, &beyond)], Vec::new())
        .await
        .unwrap_err();
    assert!(matches!(&refused, GpuError::Quota(_)), "{refused}");
    drop(large);
    until("it is let go of", || gpu.resident_bytes() == 0);
    // What failed is not used again: the guest makes another one.
    let another = gpu.zeroed(4 << 20);
    submit(&gpu, &account(), vec![dispatch(&add, &another)], Vec::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_shard_is_brought_once_however_many_want_it() {
    let Some(gpu) = gpu(64 << 20) else { return };
    let sum = build(
        &gpu,
        "@group(0) @binding(0) var<storage, read> x: array<u32>;
         @group(0) @binding(1) var<storage, read_write> y: array<u32>;
         @compute @workgroup_size(1) fn main() { y[0] = x[5]; }",
    )
    .await;
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let piece = Piece {
        digest: Digest::of(b"shard"),
        offset: 0,
        len: 1 << 20,
    };
    let source = |asked: Arc<std::sync::atomic::AtomicU32>| Source {
        copies: true,
        open: Arc::new(move || {
            use std::io::Write;
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut file = tempfile::tempfile()?;
            file.write_all(&7_u32.to_le_bytes().repeat(1 << 18))?;
            Ok((file, 0))
        }),
    };
    let run = async |uploaded: u64| {
        let (shard, out) = (gpu.shard(piece, source(asked.clone())), gpu.zeroed(4));
        let step = Step::Dispatch {
            pipeline: sum.clone(),
            bindings: vec![(0, all(&shard)), (1, all(&out))],
            workgroups: [1, 1, 1],
        };
        let outcome = submit(&gpu, &account(), vec![step], vec![all(&out)])
            .await
            .unwrap();
        assert_eq!((first(&outcome), outcome.usage.uploaded_bytes), (7, uploaded));
    };
    run(1 << 20).await;
    let before = gpu.residents();
    for _ in 0..5 {
        run(0).await;
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(before.borrow().contains(&piece.digest));
}

#[tokio::test]
async fn who_costs_workers_is_refused_and_others_are_not() {
    let Some(gpu) = gpu(64 << 20) else { return };
    let long = build(&gpu, LONG).await;
    let add = build(&gpu, ADD).await;
    let run = async |who: &str, pipeline: &Pipeline, groups: u32| {
        let account = Account::new(
            who,
            Duration::from_millis(700),
            Instant::now() + Duration::from_secs(60),
        );
        let buffer = gpu.zeroed(256);
        let step = Step::Dispatch {
            pipeline: pipeline.clone(),
            bindings: vec![(0, all(&buffer))],
            workgroups: [groups, 1, 1],
        };
        submit(&gpu, &account, vec![step], vec![all(&buffer)]).await
    };
    for round in 0..3 {
        let ended = run("greedy", &long, 65_535).await.unwrap_err();
        assert!(matches!(ended, GpuError::Timeout(_)), "{round}: {ended}");
        assert_eq!(first(&run("modest", &add, 1).await.unwrap()), 1);
    }
    assert_eq!(gpu.restarts(), 3);
    let refused = run("greedy", &add, 1).await.unwrap_err();
    assert!(
        matches!(&refused, GpuError::Unavailable(text) if text.contains("3 times")),
        "{refused}"
    );
    assert_eq!(first(&run("modest", &add, 1).await.unwrap()), 1);
    assert_eq!(gpu.restarts(), 3);
}

#[tokio::test]
async fn functions_take_turns_however_much_one_asks() {
    let Some(gpu) = gpu(64 << 20) else { return };
    let (long, add) = (build(&gpu, LONG).await, build(&gpu, ADD).await);
    let of = |who: &str| {
        let minute = Duration::from_secs(60);
        Account::new(who, minute, Instant::now() + minute)
    };
    // Of many calls, until there is no place for more.
    let mut greedy = Vec::new();
    let refused = 'all: loop {
        let account = of("greedy");
        for _ in 0..4 {
            let buffer = gpu.zeroed(256);
            let submission =
                Submission::new(vec![dispatch(&long, &buffer)], Vec::new(), None, account.clone());
            match gpu.submit(submission) {
                Ok(pending) => greedy.push(pending),
                Err(error) => break 'all error,
            }
        }
    };
    assert!(
        matches!(&refused, GpuError::Unavailable(text) if text.contains("of `greedy`")),
        "{refused}"
    );
    let buffer = gpu.zeroed(256);
    let modest = submit(
        &gpu,
        &of("modest"),
        vec![dispatch(&add, &buffer)],
        vec![all(&buffer)],
    )
    .await;
    assert_eq!(first(&modest.unwrap()), 1);
    let asked = greedy.len();
    greedy.retain_mut(|pending| pending.try_recv().is_err());
    assert!(greedy.len() > asked / 2, "{} of {asked} still wait", greedy.len());
    for pending in greedy {
        pending.await.unwrap().unwrap();
    }
}
