//! The smallest function that uses a GPU: `{"a": 2, "x": [1, 2], "y": [10, 20]}` becomes `[12, 24]`.

use nearfield::gpu::{Batch, Buffer, Kernel};
use nearfield::{Error, IntoResponse, Json, Request, RequestExt, Result};

#[derive(serde::Deserialize)]
struct Saxpy {
    a: f32,
    x: Vec<f32>,
    y: Vec<f32>,
}

#[nearfield::http]
fn saxpy(mut request: Request) -> Result<impl IntoResponse> {
    let Saxpy { a, x, y } = request.json()?;
    if x.len() != y.len() || x.is_empty() {
        return Err(Error::bad_request("x and y have the same length, at least 1"));
    }
    let kernel = Kernel::new(include_str!("saxpy.wgsl"), "saxpy")?;
    let (xs, ys, factor) = (
        Buffer::zeroed(x.len())?,
        Buffer::zeroed(y.len())?,
        Buffer::zeroed(1)?,
    );
    let mut batch = Batch::new();
    batch.write(&xs, 0, &x).write(&ys, 0, &y).write(&factor, 0, &[a]);
    let workgroups = [x.len().div_ceil(64) as u32, 1, 1];
    batch.dispatch(&kernel, workgroups, &[xs.all(), ys.all(), factor.all()]);
    let sums = batch.read(&ys, 0..y.len());
    Ok(Json(batch.submit()?.read(sums)?))
}

#[cfg(test)]
mod on_a_gpu {
    use super::*;
    use nearfield::mock;

    #[test]
    fn every_element_is_right() {
        if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
            return;
        }
        // No multiple of the workgroup.
        for count in [1, 63, 64, 1_001] {
            let numbers = |by: f32| (0..count).map(|n| n as f32 * by).collect::<Vec<_>>();
            let (x, y) = (numbers(0.5), numbers(-3.0));
            let body = serde_json::json!({ "a": 1.5, "x": x, "y": y }).to_string();
            let request = nearfield::http::Request::post("/").body(body).unwrap();
            let answer = mock::Host::new().gpu().run(|| mock::call(saxpy, request));
            assert_eq!(answer.status(), 200, "{}", answer.body());
            let sums: Vec<f32> = serde_json::from_str(answer.body()).unwrap();
            let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.5 * x + y).collect();
            assert_eq!(sums, expected);
        }
    }

    #[test]
    fn without_a_gpu_it_says_what_is_missing() {
        let request = nearfield::http::Request::post("/")
            .body(r#"{"a": 1, "x": [1], "y": [1]}"#)
            .unwrap();
        let answer = mock::Host::new().run(|| mock::call(saxpy, request));
        assert_eq!(answer.status(), 500);
    }
}
