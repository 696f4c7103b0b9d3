//! Draws Julia sets: `GET /fn/julia?width=800&height=600&re=-0.8&im=0.156` is a PNG.

use nearfield::gpu::{Batch, Buffer, Kernel};
use nearfield::{Error, IntoResponse, Request, RequestExt, Result, header};

/// Pixels on a side.
const SIDE: std::ops::RangeInclusive<u32> = 1..=2_048;

#[derive(serde::Deserialize)]
#[serde(default)]
struct View {
    width: u32,
    height: u32,
    /// The constant that is added in each turn.
    re: f32,
    im: f32,
    /// Half the height of what is seen.
    extent: f32,
}

impl Default for View {
    fn default() -> Self {
        View {
            width: 800,
            height: 600,
            re: -0.8,
            im: 0.156,
            extent: 1.3,
        }
    }
}

#[nearfield::http]
fn julia(request: Request) -> Result<impl IntoResponse> {
    let view: View = request.query()?;
    if !SIDE.contains(&view.width) || !SIDE.contains(&view.height) {
        return Err(Error::bad_request("width and height are from 1 to 2048"));
    }
    let png = encode(&view, &draw(&view)?)?;
    let response = nearfield::http::Response::builder();
    Ok(response.header(header::CONTENT_TYPE, "image/png").body(png)?)
}

/// The pixels row by row, each red, green, blue and opaque.
fn draw(view: &View) -> Result<Vec<u32>> {
    let kernel = Kernel::new(include_str!("julia.wgsl"), "julia")?;
    let pixels = Buffer::<u32>::zeroed((view.width * view.height) as usize)?;
    // As the shader's `View` lies in memory: its size is a multiple of 8.
    let [re, im, extent] = [view.re, view.im, view.extent].map(f32::to_bits);
    let seen = Buffer::<u32>::zeroed(6)?;
    let mut batch = Batch::new();
    batch.write(&seen, 0, &[re, im, view.width, view.height, extent, 0]);
    let workgroups = [view.width.div_ceil(8), view.height.div_ceil(8), 1];
    batch.dispatch(&kernel, workgroups, &[seen.all(), pixels.all()]);
    let read = batch.read(&pixels, 0..pixels.len());
    Ok(batch.submit()?.read(read)?)
}

fn encode(view: &View, pixels: &[u32]) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, view.width, view.height);
    encoder.set_color(png::ColorType::Rgba);
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    encoder.write_header()?.write_image_data(&bytes)?;
    Ok(png)
}

#[cfg(test)]
mod on_a_gpu {
    use super::*;
    use nearfield::mock;

    #[test]
    fn the_image_is_symmetric_and_has_the_set_in_it() {
        if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
            return;
        }
        let answer = mock::Host::new()
            .gpu()
            .run(|| mock::call_bytes(julia, mock::get("/?width=101&height=75")));
        assert_eq!(answer.status(), 200);
        let decoder = png::Decoder::new(std::io::Cursor::new(answer.body()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (101, 75));
        let at = |x: usize, y: usize| &pixels[(y * 101 + x) * 4..][..4];
        // z and -z have the same square. A few pixels round otherwise.
        let all = (0..75).flat_map(|y| (0..101).map(move |x| (x, y)));
        let other = all.filter(|(x, y)| {
            let (a, b) = (at(*x, *y), at(100 - x, 74 - y));
            a.iter().zip(b).any(|(a, b)| a.abs_diff(*b) > 8)
        });
        assert!(other.count() < 75);
        assert_ne!(at(0, 0), at(50, 30), "outside and inside are told apart");
    }
}
