//! Inputs that can be made again: everything follows from a seed, so that nothing has to be kept to compare with.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
pub use nearfield_testkit::{noise, noise_bytes};

/// A few random bits.
pub fn draw(seed: u64) -> u64 {
    let bytes = noise_bytes(seed ^ 0x5eed, 8);
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

pub fn write_noise(path: &Path, seed: u64, count: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    io::copy(&mut noise(seed).take(count), &mut file)?;
    file.flush()
        .with_context(|| format!("writing {}", path.display()))
}

/// Lines of uneven length, `count` bytes in all; the last one has no end.
pub fn write_text(path: &Path, count: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut left = count;
    for number in 0u64.. {
        let line = format!(
            "{number} {:0width$x}\n",
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            width = number as usize % 90
        );
        let part = line.len().min(usize::try_from(left)?);
        file.write_all(&line.as_bytes()[..part])?;
        left -= part as u64;
        if left == 0 {
            break;
        }
    }
    file.flush()
        .with_context(|| format!("writing {}", path.display()))
}

/// Lines of words of which there are only so many, `count` bytes in all.
pub fn write_words(path: &Path, count: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut left, mut number) = (count, 0u64);
    while left > 0 {
        number += 1;
        let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let end = if number.is_multiple_of(12) { '\n' } else { ' ' };
        let text = format!("word{:x}{end}", word % 50_000);
        let part = text.len().min(usize::try_from(left)?);
        file.write_all(&text.as_bytes()[..part])?;
        left -= part as u64;
    }
    file.flush()
        .with_context(|| format!("writing {}", path.display()))
}

/// A folder of small files, a hundred to a folder, with empty files, executable ones, links and empty folders.
pub fn write_folder(path: &Path, files: u64) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for number in 0..files {
        let folder = path.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder)?;
            fs::create_dir_all(folder.join("empty/within"))?;
            symlink("../0000/0.txt", folder.join("link"))?;
            symlink("nowhere", folder.join("dangling"))?;
        }
        let file = folder.join(format!("{number}.txt"));
        let content = noise_bytes(
            number,
            (draw(number) % 4096) as usize * usize::from(number % 50 != 0),
        );
        fs::write(&file, content)?;
        if number % 17 == 0 {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The same component with a custom section of so many bytes: another digest, to be compiled again.
pub fn vary_component(component: &[u8], seed: u64) -> Vec<u8> {
    let mut section = vec![4];
    section.extend_from_slice(b"seed");
    section.extend_from_slice(&noise_bytes(seed, 16));
    let mut varied = component.to_vec();
    varied.push(0);
    varied.push(u8::try_from(section.len()).expect("a length below 128 is its own LEB128"));
    varied.extend_from_slice(&section);
    varied
}

/// A file's digest.
pub fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}
