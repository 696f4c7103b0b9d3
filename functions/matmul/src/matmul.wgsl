// C = A · B, all row-major: A has m rows of k, B has k rows of n. Each workgroup makes one tile of C from tiles that its
// invocations bring into shared memory together.
const TILE = 16u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> shape: vec3<u32>;

var<workgroup> tile_a: array<array<f32, TILE>, TILE>;
var<workgroup> tile_b: array<array<f32, TILE>, TILE>;

@compute @workgroup_size(TILE, TILE)
fn matmul(@builtin(global_invocation_id) at: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let m = shape.x;
    let k = shape.y;
    let n = shape.z;
    var sum = 0.0;
    for (var start = 0u; start < k; start += TILE) {
        let column = start + local.x;
        let row = start + local.y;
        tile_a[local.y][local.x] = select(0.0, a[at.y * k + column], at.y < m && column < k);
        tile_b[local.y][local.x] = select(0.0, b[row * n + at.x], row < k && at.x < n);
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            sum += tile_a[local.y][i] * tile_b[i][local.x];
        }
        workgroupBarrier();
    }
    if at.y < m && at.x < n {
        c[at.y * n + at.x] = sum;
    }
}
