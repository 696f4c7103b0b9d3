use nearfield::gpu::{Batch, Buffer, Kernel};
use nearfield::{IntoResponse, Json, Request, RequestExt, Result};

/// Answers `POST /{{name}}` with the squares of a JSON list of numbers.
#[nearfield::http]
fn squares(mut request: Request) -> Result<impl IntoResponse> {
    let numbers: Vec<f32> = request.json()?;
    if numbers.is_empty() {
        return Ok(Json(numbers));
    }
    let kernel = Kernel::new(include_str!("square.wgsl"), "square")?;
    let buffer = Buffer::zeroed(numbers.len())?;
    let mut batch = Batch::new();
    batch.write(&buffer, 0, &numbers);
    batch.dispatch(&kernel, [numbers.len().div_ceil(64) as u32, 1, 1], &[buffer.all()]);
    let squares = batch.read(&buffer, 0..numbers.len());
    Ok(Json(batch.submit()?.read(squares)?))
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    #[test]
    fn it_squares() {
        let numbers = serde_json::json!([1, 2, -3.5]).to_string();
        let request = nearfield::http::Request::post("/").body(numbers).unwrap();
        let answer = mock::Host::new().gpu().run(|| mock::call(super::squares, request));
        assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, "[1.0,4.0,12.25]"));
    }
}
