//! Makes thumbnails: `nearfield run thumbnail --over photos --into thumbnails`.
//!
//! Each PNG and JPEG file of a dataset of files becomes a PNG of at most 128 by 128 pixels: `a/b.png` under its own
//! path, `a/b.jpg` as `a/b.jpg.png`, so that images which differ in their extension only do not meet. What can't be read
//! as an image is named in the result.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};
use nearfield::{Result, Shard, output};

/// The longest side of a thumbnail, in pixels.
const SIDE: u32 = 128;

/// What decoding an image may take: half of the memory a function has unless its manifest says more.
const DECODE_BYTES: u64 = 128 << 20;

/// How many files that are no images are named.
const NAMED: usize = 100;

#[derive(serde::Serialize, serde::Deserialize)]
pub struct Made {
    thumbnails: u64,
    /// Files that could not be read as what their names say.
    unreadable: u64,
    /// The first of them with the reason, at most 100.
    named: Vec<(String, String)>,
}

/// Writes the thumbnails of a pack's images.
#[nearfield::map]
pub fn thumbnail(shard: Shard) -> Result<Made> {
    let mut made = Made {
        thumbnails: 0,
        unreadable: 0,
        named: Vec::new(),
    };
    let mut bytes = Vec::new();
    shard.files().for_each(|path, content| {
        let Some((format, target)) = target(path) else {
            return Ok(());
        };
        bytes.clear();
        content.read_to_end(&mut bytes)?;
        match shrink(&bytes, format) {
            Ok(png) => {
                output::write(&target, png)?;
                made.thumbnails += 1;
            }
            Err(error) => {
                made.unreadable += 1;
                if made.named.len() < NAMED {
                    made.named.push((path.to_owned(), error.to_string()));
                }
            }
        }
        Ok(())
    })?;
    Ok(made)
}

#[nearfield::reduce]
fn add(mut all: Made, more: Made) -> Made {
    all.thumbnails += more.thumbnails;
    all.unreadable += more.unreadable;
    all.named.extend(more.named);
    all.named.truncate(NAMED);
    all
}

/// An image's format by its extension, and where its thumbnail goes.
fn target(path: &str) -> Option<(ImageFormat, String)> {
    let (_, extension) = path.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "png" => Some((ImageFormat::Png, path.to_owned())),
        "jpg" | "jpeg" => Some((ImageFormat::Jpeg, format!("{path}.png"))),
        _ => None,
    }
}

/// An image as a PNG that fits the square; one that fits already keeps its size.
fn shrink(bytes: &[u8], format: ImageFormat) -> image::ImageResult<Vec<u8>> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let image = reader.decode()?;
    let small = if image.width().max(image.height()) > SIDE {
        image.thumbnail(SIDE, SIDE)
    } else {
        image
    };
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GenericImageView, Rgb, RgbImage};
    use nearfield::mock;
    use serde_json::json;

    use super::*;

    /// Something smooth, so that JPEG keeps it nearly as it is.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([
                (x * 255 / width) as u8,
                (y * 255 / height) as u8,
                ((x + y) * 255 / (width + height)) as u8,
            ])
        })
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(image.clone())
            .write_to(&mut bytes, format)
            .unwrap();
        bytes.into_inner()
    }

    /// The plain way to shrink: the mean of the pixels that become one.
    fn mean(image: &RgbImage, factor: u32, x: u32, y: u32, channel: usize) -> f64 {
        let pixels = (0..factor).flat_map(|dy| (0..factor).map(move |dx| (x * factor + dx, y * factor + dy)));
        let sum: u32 = pixels.map(|(x, y)| u32::from(image[(x, y)][channel])).sum();
        f64::from(sum) / f64::from(factor * factor)
    }

    #[test]
    fn a_thumbnail_is_the_mean_of_its_pixels() {
        for (format, path, tolerance) in [
            (ImageFormat::Png, "a/wide.png", 1.0),
            (ImageFormat::Jpeg, "a/wide.JPG", 6.0),
        ] {
            let image = picture(512, 256);
            let data = mock::Dataset::new("files").file(path, encoded(&image, format));
            let done = mock::Host::new()
                .dataset("photos", data)
                .job::<thumbnail>("photos", ())
                .unwrap();
            assert_eq!(
                done.result,
                json!({ "thumbnails": 1, "unreadable": 0, "named": [] })
            );
            let (_, target) = target(path).unwrap();
            let small = image::load_from_memory_with_format(&done.files[&target], ImageFormat::Png).unwrap();
            assert_eq!(small.dimensions(), (128, 64));
            for (x, y, pixel) in small.to_rgb8().enumerate_pixels() {
                for channel in 0..3 {
                    let (is, should) = (f64::from(pixel[channel]), mean(&image, 4, x, y, channel));
                    assert!(
                        (is - should).abs() <= tolerance,
                        "{path} {x},{y}: {is} and not {should}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_image_has_its_own_and_other_files_none() {
        let small = encoded(&picture(20, 30), ImageFormat::Png);
        let data = mock::Dataset::new("files")
            .shard_bytes(1)
            .file("a.jpeg", encoded(&picture(300, 600), ImageFormat::Jpeg))
            .file("a.png", small.clone())
            .file("notes.txt", "no image")
            .file("x/broken.png", &small[..40]);
        let done = mock::Host::new()
            .dataset("photos", data)
            .job::<thumbnail>("photos", ())
            .unwrap();
        let size = |path: &str| image::load_from_memory(&done.files[path]).unwrap().dimensions();
        assert_eq!((size("a.jpeg.png"), size("a.png")), ((64, 128), (20, 30)));
        assert_eq!(done.files.len(), 2);
        assert_eq!(
            (&done.result["thumbnails"], &done.result["unreadable"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(done.result["named"][0][0], "x/broken.png");
    }

    #[test]
    fn an_image_that_would_fill_the_memory_is_none() {
        // A header that promises 60,000 by 60,000 pixels.
        let mut bytes = encoded(&picture(8, 8), ImageFormat::Png);
        for place in [16, 20] {
            bytes[place..place + 4].copy_from_slice(&60_000u32.to_be_bytes());
        }
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = shrink(&bytes, ImageFormat::Png).unwrap_err();
        assert!(matches!(error, image::ImageError::Limits(_)), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32, bit: bool| (sum >> 1) ^ if (sum & 1 == 1) ^ bit { 0xedb8_8320 } else { 0 };
        let bits = bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |place| byte >> place & 1 == 1));
        !bits.fold(u32::MAX, step)
    }
}
