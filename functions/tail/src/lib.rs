//! The newest lines of a log: `GET /tail/app.log?q=ERROR&n=20`, best over a folder put with `--in-place --split lines`.
//!
//! It reads backwards from the end, so its cost follows from how far back the lines are and not from how long the log
//! is. Where a log has too few of them, it goes on in what was rotated away: `app.log.1`, `app.log.2` and so on.

mod backwards;

use backwards::Backwards;
use nearfield::{Body, Dataset, Error, Request, RequestExt, Result};

/// More lines than anybody reads; they are held in memory.
const MAX_LINES: usize = 10_000;

#[derive(serde::Deserialize)]
struct Wanted {
    /// The text that lines must hold, as it is written; empty for all lines.
    #[serde(default)]
    q: String,
    /// How many lines at most.
    #[serde(default = "ten")]
    n: usize,
}

fn ten() -> usize {
    10
}

/// Answers with the last lines that hold `q`, the newest last. Without a file, those of the dataset's end.
#[nearfield::http]
fn tail(request: Request) -> Result<Body> {
    let Wanted { q, n } = request.query()?;
    if n > MAX_LINES {
        return Err(Error::bad_request(format!("n is more than {MAX_LINES}")));
    }
    let path = request.path()?;
    let logs = Dataset::open("logs")?;
    let mut newest_first = Vec::new();
    if path.is_empty() {
        for index in (0..logs.len()).rev() {
            let shard = logs.shard(index)?;
            let size = shard.size();
            collect(Backwards::new(shard, size), &q, n, &mut newest_first)?;
        }
    } else {
        let mut name = path.clone();
        for rotated in 1.. {
            let Some(file) = logs.file(&name)? else { break };
            let size = file.len();
            collect(Backwards::new(file, size), &q, n, &mut newest_first)?;
            if newest_first.len() == n {
                break;
            }
            name = format!("{path}.{rotated}");
        }
        if name == path && logs.file(&path)?.is_none() {
            return Err(Error::not_found(format!("there is no log {path}")));
        }
    }
    let lines = newest_first.iter().rev().flat_map(|line| [&line[..], b"\n"]);
    Ok(Body::from(lines.collect::<Vec<_>>().concat()))
}

/// Takes lines that hold `q` until there are `n`.
fn collect<R: std::io::Read + std::io::Seek>(
    mut lines: Backwards<R>,
    q: &str,
    n: usize,
    newest_first: &mut Vec<Vec<u8>>,
) -> Result<()> {
    while newest_first.len() < n
        && let Some(line) = lines.next_line()?
    {
        if q.is_empty() || line.windows(q.len()).any(|part| part == q.as_bytes()) {
            newest_first.push(line.to_vec());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    fn answer(path: &str) -> (u16, String) {
        let data = mock::Dataset::new("lines")
            .shard_bytes(8)
            .file("app.log", "5 red\n6 blue\n7 red\n")
            .file("app.log.1", "3 red\n4 blue")
            .file("app.log.2", "1 red\n2 blue\n")
            .file("other.log", "0 red\n");
        let answer = mock::Host::new()
            .dataset("logs", data)
            .run(|| mock::call(super::tail, mock::get(path)));
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn the_newest_lines_come_last() {
        assert_eq!(answer("/app.log?n=2"), (200, "6 blue\n7 red\n".into()));
        assert_eq!(answer("/app.log?q=blue&n=2"), (200, "4 blue\n6 blue\n".into()));
        assert_eq!(
            answer("/app.log?q=red"),
            (200, "1 red\n3 red\n5 red\n7 red\n".into())
        );
        assert_eq!(answer("/app.log?q=green"), (200, String::new()));
        assert_eq!(answer("/app.log?n=0"), (200, String::new()));
    }

    #[test]
    fn without_a_file_it_is_the_end_of_all() {
        assert_eq!(answer("/?n=2"), (200, "2 blue\n0 red\n".into()));
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(answer("/none.log").0, 404);
        assert_eq!(answer("/app.log?n=10001").0, 400);
        assert_eq!(answer("/app.log?n=x").0, 400);
    }
}
