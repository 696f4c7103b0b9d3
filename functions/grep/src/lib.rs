//! Finds lines: in a file of a dataset with `GET /grep/src/lib.rs?q=unsafe`, and in all of a dataset with
//! `nearfield run grep --over registry --args '{"q": "unsafe", "max": 1000}'` (`job.rs`).
//!
//! The manifest's `locate` sends each call to a holder of the file's shard, so the file is read from disk there
//! and only the lines that match travel.

mod job;

pub use job::grep_all;

use std::io::Write;

use nearfield::{Body, Dataset, Error, Request, RequestExt, Result};

#[derive(serde::Deserialize)]
struct Search {
    /// The text to find, as it is written.
    q: String,
}

/// Streams the lines that hold `q` as `number:line`, numbered from 1.
#[nearfield::http]
fn grep(request: Request) -> Result<Body> {
    let Search { q } = request.query()?;
    if q.is_empty() {
        return Err(Error::bad_request("q is empty"));
    }
    // The host took the route away; what is left is the file's path.
    let path = request.path()?;
    let Some(file) = Dataset::open("data")?.file(&path)? else {
        return Err(Error::not_found(format!("there is no file {path}")));
    };
    Ok(nearfield::stream(move |out| {
        let mut lines = file.lines();
        let mut number = 0u64;
        while let Some(line) = lines.next_line()? {
            number += 1;
            if contains(line, q.as_bytes()) {
                write!(out, "{number}:")?;
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }))
}

/// Whether `text` holds `part`, looked for at the places of its first byte.
fn contains(text: &[u8], part: &[u8]) -> bool {
    let [first, ..] = part else { return true };
    let mut rest = text;
    while let Some(place) = rest.iter().position(|byte| byte == first) {
        rest = &rest[place..];
        if rest.starts_with(part) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    fn answer(path: &str) -> (u16, String) {
        let file = "one\ntwo aab\n\nthree\naab";
        let data = mock::Dataset::new("lines").shard_bytes(4).file("src/a.txt", file);
        let answer = mock::Host::new()
            .dataset("data", data)
            .run(|| mock::call(super::grep, mock::get(path)));
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn matching_lines_have_their_numbers() {
        assert_eq!(answer("/src/a.txt?q=ab"), (200, "2:two aab\n5:aab\n".into()));
        assert_eq!(answer("/src/a.txt?q=e"), (200, "1:one\n4:three\n".into()));
        assert_eq!(answer("/src/a.txt?q=zz"), (200, String::new()));
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(answer("/src/b.txt?q=ab").0, 404);
        assert_eq!(answer("/src/a.txt?q=").0, 400);
        assert_eq!(answer("/src/a.txt").0, 400);
    }
}
