//! Multiplies matrices: `POST /fn/matmul?m=2&k=3&n=2` with the numbers of A, m rows of k, and then those of B, k rows of n, each
//! a little-endian `f32`. The answer is A · B, m rows of n.

use nearfield::gpu::{Batch, Buffer, Kernel};
use nearfield::{Error, IntoResponse, Request, RequestExt, Result, header};

/// Rows and columns of a tile of the shader.
const TILE: u32 = 16;
/// Bytes of A and B together: twice as many fit into the function's memory with what it makes of them.
const BODY_BYTES: u64 = 64 << 20;
/// What one write carries at most.
const WRITE_VALUES: usize = 1 << 20;

#[derive(serde::Deserialize)]
struct Shape {
    m: u32,
    k: u32,
    n: u32,
}

#[nearfield::http]
fn matmul(request: Request) -> Result<impl IntoResponse> {
    let Shape { m, k, n } = request.query()?;
    let numbers = request.into_body().bytes(BODY_BYTES as usize)?;
    let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&numbers);
    let size = |rows: u32, columns: u32| u64::from(rows) * u64::from(columns);
    if size(m, k) + size(k, n) != numbers.len() as u64 || size(m, n) == 0 || k == 0 {
        return Err(Error::bad_request(
            "the body has m·k and then k·n numbers of 4 bytes each, none of them 0",
        ));
    }
    let (left, right) = numbers.split_at(size(m, k) as usize);
    let product = multiply(left, right, [m, k, n])?;
    let bytes: Vec<u8> = bytemuck::cast_slice(&product).to_vec();
    let response = nearfield::http::Response::builder();
    Ok(response
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(bytes)?)
}

fn multiply(left: &[f32], right: &[f32], [m, k, n]: [u32; 3]) -> Result<Vec<f32>> {
    let kernel = Kernel::new(include_str!("matmul.wgsl"), "matmul")?;
    let (a, b) = (filled(left)?, filled(right)?);
    let c = Buffer::zeroed((m * n) as usize)?;
    // A vector of three takes the room of four.
    let shape = Buffer::zeroed(4)?;
    let mut batch = Batch::new();
    batch.write(&shape, 0, &[m, k, n, 0]);
    let workgroups = [n.div_ceil(TILE), m.div_ceil(TILE), 1];
    batch.dispatch(&kernel, workgroups, &[a.all(), b.all(), c.all(), shape.all()]);
    let product = batch.read(&c, 0..c.len());
    Ok(batch.submit()?.read(product)?)
}

/// A buffer of these numbers, written in parts: one call carries no more.
fn filled(numbers: &[f32]) -> Result<Buffer<f32>> {
    let buffer = Buffer::zeroed(numbers.len())?;
    for (index, some) in numbers.chunks(WRITE_VALUES).enumerate() {
        let mut batch = Batch::new();
        batch.write(&buffer, index * WRITE_VALUES, some);
        batch.submit()?.wait()?;
    }
    Ok(buffer)
}

#[cfg(test)]
mod on_a_gpu {
    use super::*;
    use nearfield::mock;

    #[test]
    fn products_are_those_of_twice_the_precision() {
        if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
            return;
        }
        let mut seed = 1_u32;
        let mut random = |count: u32| -> Vec<f32> {
            let mut next = || {
                seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..count).map(|_| next()).collect()
        };
        for [m, k, n] in [[1, 1, 1], [16, 16, 16], [17, 33, 5], [70, 301, 129]] {
            let numbers = random(m * k + k * n);
            let (a, b) = numbers.split_at((m * k) as usize);
            let request = nearfield::http::Request::post(format!("/?m={m}&k={k}&n={n}"))
                .body(bytemuck::cast_slice::<f32, u8>(&numbers).to_vec())
                .unwrap();
            let answer = mock::Host::new().gpu().run(|| mock::call_bytes(matmul, request));
            assert_eq!(answer.status(), 200);
            let product: Vec<f32> = bytemuck::pod_collect_to_vec(answer.body());
            let (mut difference, mut norm) = (0.0, 0.0);
            for (index, found) in product.iter().enumerate() {
                let (row, column) = (index as u32 / n, index as u32 % n);
                let term =
                    |i: u32| f64::from(a[(row * k + i) as usize]) * f64::from(b[(i * n + column) as usize]);
                let expected: f64 = (0..k).map(term).sum();
                difference += (f64::from(*found) - expected).powi(2);
                norm += expected * expected;
            }
            let error = (difference / norm).sqrt();
            assert!(error < 1e-5, "{m} {k} {n}: {error}");
        }
    }
}
