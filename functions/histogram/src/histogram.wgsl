// Counts 32-bit integers by their highest eight bits. Each workgroup counts in memory of its own first, because 256 counters
// that all invocations share would make them wait for each other.
@group(0) @binding(0) var<storage, read> numbers: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<atomic<u32>>;

var<workgroup> own: array<atomic<u32>, 256>;

@compute @workgroup_size(256)
fn histogram(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    for (var at = id.x; at < arrayLength(&numbers); at += workgroups.x * 256u) {
        atomicAdd(&own[numbers[at] >> 24u], 1u);
    }
    workgroupBarrier();
    atomicAdd(&counts[index], atomicLoad(&own[index]));
}
