// How fast z² + c leaves for infinity, for each z of the plane's middle, as a colour.
struct View {
    c: vec2<f32>,
    size: vec2<u32>,
    // Half the height of what is seen.
    extent: f32,
}

@group(0) @binding(0) var<uniform> view: View;
@group(0) @binding(1) var<storage, read_write> pixels: array<u32>;

const TURNS = 400u;

@compute @workgroup_size(8, 8)
fn julia(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= view.size.x || id.y >= view.size.y {
        return;
    }
    let size = vec2<f32>(view.size);
    var z = (vec2<f32>(id.xy) + 0.5 - size / 2.0) / (size.y / 2.0) * view.extent;
    var turn = 0u;
    while turn < TURNS && dot(z, z) < 256.0 {
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + view.c;
        turn++;
    }
    var colour = vec3(0.0);
    if turn < TURNS {
        // Without steps between the turns.
        let smooth_turn = f32(turn) + 1.0 - log2(log2(dot(z, z)) / 2.0);
        colour = 0.5 + 0.5 * cos(0.15 * smooth_turn + vec3(3.4, 4.2, 5.2));
    }
    let bytes = vec3<u32>(clamp(colour, vec3(0.0), vec3(1.0)) * 255.0);
    pixels[id.y * view.size.x + id.x] = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (255u << 24u);
}
