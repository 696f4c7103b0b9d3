//! Tests that need an adapter; the software one will do. `NEARFIELD_TEST_GPU=none` leaves them out where there is none.

use std::time::Instant;

use super::*;
use crate::wire::{Bound, Run, Shader, Slice, Step};

fn device() -> Option<Device> {
    if std::env::var_os("NEARFIELD_TEST_GPU").is_some_and(|value| value == "none") {
        return None;
    }
    let opened = Device::open(&Choice::Software, |reason| panic!("the device is lost: {reason}"));
    Some(opened.unwrap_or_else(|error| panic!("{error}")))
}

fn shader(wgsl: &str) -> Shader {
    Shader {
        wgsl: wgsl.to_owned(),
        entry: "main".to_owned(),
        constants: Vec::new(),
    }
}

fn all(buffer: Id, len: u64) -> Slice {
    Slice {
        buffer,
        offset: 0,
        len,
    }
}

fn dispatch(pipeline: Id, buffers: &[Slice], x: u32) -> Step {
    let bound = |(binding, slice): (usize, &Slice)| Bound {
        binding: binding as u32,
        slice: *slice,
    };
    Step::Dispatch {
        pipeline,
        bindings: buffers.iter().enumerate().map(bound).collect(),
        workgroups: [x, 1, 1],
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

impl Device {
    fn run_for(&mut self, run: &Run, writes: &[u8]) -> Result<(Ran, Vec<u32>), GpuError> {
        let mut read = Vec::new();
        let ran = self.run(run, writes, |offset, bytes| {
            read.resize(offset as usize, 0);
            read.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok((ran, words(&read)))
    }
}

use crate::wire::Ran;

const DOUBLE: &str = "
    override by: u32 = 2;
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&x) { y[id.x] = x[id.x] * by; }
    }";

#[test]
fn steps_run_in_order_on_what_was_brought() {
    let Some(mut device) = device() else { return };
    // Larger than the ring of chunks, of a length that fits nothing.
    let count = 3_000_001_u64;
    let bytes: Vec<u8> = (0..count as u32).flat_map(u32::to_le_bytes).collect();
    let mut at = 0;
    device
        .upload(1, bytes.len() as u64, |piece| {
            piece.copy_from_slice(&bytes[at..at + piece.len()]);
            at += piece.len();
            Ok(())
        })
        .unwrap();
    let mut triple = shader(DOUBLE);
    triple.constants = vec![("by".to_owned(), 3.0)];
    device.build(10, &shader(DOUBLE)).unwrap();
    let built = device.build(11, &triple).unwrap();
    assert_eq!(built.bindings.len(), 2);
    let len = count * 4;
    let groups = (count as u32).div_ceil(64);
    let run = Run {
        create: vec![(2, len), (3, len)],
        steps: vec![
            dispatch(10, &[all(1, len), all(2, len)], groups),
            dispatch(11, &[all(2, len), all(3, len)], groups),
            Step::Write { to: all(3, 8), at: 4 },
            Step::Copy {
                from: all(3, 4),
                to: 3 - 1,
                to_offset: 4,
            },
        ],
        reads: vec![all(3, len), all(2, 8)],
    };
    let writes: Vec<u8> = [7_u32, 8, 9].iter().flat_map(|word| word.to_le_bytes()).collect();
    let (ran, read) = device.run_for(&run, &writes).unwrap();
    assert!(!ran.exhausted && ran.gpu_ns > 0);
    assert_eq!(&read[..4], [8, 9, 2 * 6, 3 * 6]);
    let expected: Vec<u32> = (2..count as u32).map(|x| x * 6).collect();
    assert_eq!(&read[2..count as usize], expected);
    // Each read begins at a multiple of 8.
    assert_eq!(&read[count as usize + 1..], [0, 8]);
    device.let_go(&[1, 2, 3]);
    let gone = device.run_for(
        &Run {
            reads: vec![all(1, 4)],
            ..Run::default()
        },
        &[],
    );
    assert!(matches!(gone, Err(GpuError::NotFound(_))), "{gone:?}");
}

#[test]
fn what_is_wrong_is_an_answer_and_the_device_goes_on() {
    let Some(mut device) = device() else { return };
    let invalid = |error: Result<(Ran, Vec<u32>), GpuError>, part: &str| match error {
        Err(GpuError::Invalid(text)) if text.contains(part) => {}
        other => panic!("{part}: {other:?}"),
    };
    device.build(10, &shader(DOUBLE)).unwrap();
    let with = |create: Vec<(Id, u64)>, steps| Run {
        create,
        steps,
        reads: Vec::new(),
    };
    let two = |x| {
        with(
            vec![(1, 64), (2, 64)],
            vec![dispatch(10, &[all(1, 64), all(2, 64)], x)],
        )
    };
    invalid(device.run_for(&two(70_000), &[]), "65535");
    invalid(
        device.run_for(&with(vec![], vec![dispatch(10, &[all(1, 64)], 1)]), &[]),
        "binding 1",
    );
    invalid(
        device.run_for(
            &with(vec![], vec![dispatch(10, &[all(1, 64), all(1, 64)], 1)]),
            &[],
        ),
        "usage",
    );
    let beyond = Slice {
        buffer: 2,
        offset: 32,
        len: 64,
    };
    invalid(
        device.run_for(&with(vec![], vec![dispatch(10, &[all(1, 64), beyond], 1)]), &[]),
        "",
    );
    let copy = Step::Copy {
        from: all(1, 64),
        to: 2,
        to_offset: 4,
    };
    invalid(device.run_for(&with(vec![], vec![copy]), &[]), "");
    let huge = device.run_for(&with(vec![(3, 10 << 30)], vec![]), &[]);
    assert!(matches!(huge, Err(GpuError::Quota(_))), "{huge:?}");
    let refused = device.build(11, &shader("fn main() {\n  let a = 1u + b;\n}"));
    assert!(
        matches!(&refused, Err(GpuError::Invalid(text)) if text.starts_with("line 2, column 16")),
        "{refused:?}"
    );
    let mut constants = shader(DOUBLE);
    constants.constants = vec![("nothing".to_owned(), 1.0)];
    let refused = device.build(12, &constants);
    assert!(
        matches!(&refused, Err(GpuError::Invalid(text)) if text.contains("nothing")),
        "{refused:?}"
    );
    let mut run = two(1);
    run.create.clear();
    device.run_for(&run, &[]).unwrap();
}

/// Loops that never end by themselves, alone and waiting for each other, end and say so.
#[test]
fn endless_loops_end() {
    let Some(mut device) = device() else { return };
    let head = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
        var<workgroup> shared_value: atomic<u32>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) index: u32) {";
    for (id, body) in [
        "loop { out[index] += 1u; }",
        "while out[1] < 4294967295u { out[index] ^= 1u; }",
        "loop { workgroupBarrier(); out[index] += 1u; }",
        "loop { loop { atomicAdd(&shared_value, 1u); storageBarrier(); if atomicLoad(&shared_value) == 3u { break; } } }",
        "for (var i = 0u; i < 4294967295u; i++) { for (var j = 0u; j < 4294967295u; j++) { out[j % 64u] += i; } }",
    ]
    .into_iter()
    .enumerate()
    {
        let id = id as Id + 100;
        let begun = Instant::now();
        device.build(id, &shader(&format!("{head} {body} }}"))).unwrap();
        let run = Run {
            create: vec![(id + 100, 256)],
            steps: vec![dispatch(id, &[all(id + 100, 256)], 4)],
            reads: Vec::new(),
        };
        let (ran, _) = device.run_for(&run, &[]).unwrap();
        assert!(ran.exhausted, "{body}");
        assert!(begun.elapsed().as_secs() < 20, "{body}: {:?}", begun.elapsed());
    }
    // Loops that do end do not say so.
    let ends = format!("{head} for (var i = 0u; i < 50000u; i++) {{ out[index] += 1u; }} }}");
    device.build(1, &shader(&ends)).unwrap();
    let run = Run {
        create: vec![(2, 256)],
        steps: vec![dispatch(1, &[all(2, 256)], 1)],
        reads: vec![all(2, 256)],
    };
    let (ran, read) = device.run_for(&run, &[]).unwrap();
    assert_eq!((ran.exhausted, read), (false, vec![50_000; 64]));
}

/// Reads and writes beyond a buffer, at random places, find nothing of others and leave theirs as it is.
#[test]
fn nothing_foreign_is_read_or_written() {
    let Some(mut device) = device() else { return };
    const SECRET: u32 = 0xdead_beef;
    let secret: Vec<u8> = std::iter::repeat_n(SECRET.to_le_bytes(), 1 << 16)
        .flatten()
        .collect();
    let len = secret.len() as u64;
    for round in 0..4_u64 {
        // Before and after the buffers that the hostile shader has, and in memory that was let go of.
        for id in [1, 3, 5] {
            device
                .upload(id + 10 * round, len, |piece| {
                    piece.copy_from_slice(&secret[..piece.len()]);
                    Ok(())
                })
                .unwrap();
        }
        device.let_go(&[5 + 10 * round]);
    }
    let hostile = "
        @group(0) @binding(0) var<storage, read> x: array<u32>;
        @group(0) @binding(1) var<storage, read_write> found: array<u32>;
        @group(0) @binding(2) var<storage, read_write> small: array<u32>;
        var<workgroup> left: array<u32, 256>;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            var seed = id.x * 747796405u + 2891336453u;
            for (var i = 0u; i < 500u; i++) {
                seed = seed * 747796405u + 2891336453u;
                if x[seed] == 0xdeadbeefu || small[seed >> 8u] == 0xdeadbeefu || left[seed] == 0xdeadbeefu {
                    found[0] = 1u;
                }
                small[seed] = 0x0bad0badu;
                found[1u + (seed & 0x7fffffffu)] = 0u;
            }
        }";
    device.build(100, &shader(hostile)).unwrap();
    let run = Run {
        create: vec![(201, 256), (202, 256), (203, 16)],
        steps: vec![dispatch(100, &[all(201, 256), all(202, 256), all(203, 16)], 64)],
        reads: vec![all(202, 4), all(1, len), all(3, len), all(31, len), all(33, len)],
    };
    let (_, read) = device.run_for(&run, &[]).unwrap();
    assert_eq!(read[0], 0, "something of another's was read");
    assert!(
        read[2..].iter().all(|word| *word == SECRET),
        "something of another's was written"
    );
    // New memory holds nothing of what was there before.
    device.let_go(&[1, 3, 11, 13, 21, 23, 31, 33, 201, 202, 203]);
    let fresh = Run {
        create: (300..306).map(|id| (id, len)).collect(),
        steps: Vec::new(),
        reads: (300..306).map(|id| all(id, len)).collect(),
    };
    let (_, read) = device.run_for(&fresh, &[]).unwrap();
    assert!(read.iter().all(|word| *word == 0));
}
