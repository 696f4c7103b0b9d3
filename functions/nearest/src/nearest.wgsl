// The cosine of the angle between each row and each query: the score of row r and query q lies at q · rows + r.
override dim: u32;

@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> queries: array<f32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(64)
fn nearest(@builtin(global_invocation_id) id: vec3<u32>) {
    let count = arrayLength(&rows) / dim;
    let row = id.x;
    if row >= count {
        return;
    }
    var dot = 0.0;
    var row_square = 0.0;
    var query_square = 0.0;
    for (var i = 0u; i < dim; i++) {
        let a = rows[row * dim + i];
        let b = queries[id.y * dim + i];
        dot += a * b;
        row_square += a * a;
        query_square += b * b;
    }
    let length = sqrt(row_square) * sqrt(query_square);
    // A vector without a direction is near to none.
    scores[id.y * count + row] = select(0.0, dot / length, length > 0.0);
}
