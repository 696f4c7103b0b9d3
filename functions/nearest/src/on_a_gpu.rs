use super::*;
use nearfield::mock;

const DIM: usize = 12;

/// Numbers between -1 and 1.
fn random(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The same in twice the precision, one row after the other.
fn expected(rows: &[f32], query: &[f32], k: usize) -> Vec<(u64, f64)> {
    let length = |vector: &[f32]| vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut all: Vec<(u64, f64)> = rows
        .chunks(DIM)
        .enumerate()
        .map(|(row, vector)| {
            let dot: f64 = vector
                .iter()
                .zip(query)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            let lengths = length(vector) * length(query);
            (row as u64, if lengths > 0.0 { dot / lengths } else { 0.0 })
        })
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn check(found: &[Vec<Found>], rows: &[f32], queries: &[Vec<f32>], k: usize) {
    assert_eq!(found.len(), queries.len());
    for (found, query) in found.iter().zip(queries) {
        let expected = expected(rows, query, k);
        let (near, exact): (Vec<f64>, Vec<f64>) = found
            .iter()
            .zip(&expected)
            .map(|(found, (_, score))| (f64::from(found.score), *score))
            .unzip();
        let difference: f64 = near.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f64 = exact.iter().map(|score| score.powi(2)).sum();
        assert!((difference / norm).sqrt() < 1e-5);
        let rows: Vec<u64> = found.iter().map(|found| found.row).collect();
        let expected: Vec<u64> = expected.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn rows_are_right_across_shards() {
    if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
        return;
    }
    // Shards of 100 rows but the last one, and two that are equal.
    let mut rows = random(DIM * 950, 1);
    let twice = rows[DIM * 200..DIM * 300].to_vec();
    rows[DIM * 700..DIM * 800].copy_from_slice(&twice);
    rows[..DIM].fill(0.0);
    let mut queries: Vec<Vec<f32>> = random(DIM * 5, 2).chunks(DIM).map(<[f32]>::to_vec).collect();
    // One that is there, twice.
    queries.push(twice[DIM * 7..DIM * 8].to_vec());
    let dataset = || {
        mock::Dataset::new(&format!("fixed:{}", DIM * 4))
            .shard_bytes(DIM as u64 * 400)
            .file("vectors", bytes(&rows))
    };
    let host = || mock::Host::new().dataset("vectors", dataset()).gpu();
    for k in [1, 10, 200] {
        let asked = serde_json::json!({ "queries": queries, "k": k });
        let request = nearfield::http::Request::post("/")
            .body(asked.to_string())
            .unwrap();
        let answer = host().run(|| mock::call(call, request));
        assert_eq!(answer.status(), 200, "{}", answer.body());
        check(
            &serde_json::from_str::<Vec<Vec<Found>>>(answer.body()).unwrap(),
            &rows,
            &queries,
            k,
        );
        let done = host().job::<nearest>("vectors", asked).unwrap();
        check(
            &serde_json::from_value::<Vec<Vec<Found>>>(done.result).unwrap(),
            &rows,
            &queries,
            k,
        );
    }
}

#[test]
fn what_does_not_fit_is_told() {
    if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
        return;
    }
    let host = mock::Host::new()
        .dataset(
            "vectors",
            mock::Dataset::new("fixed:8").file("v", bytes(&random(10, 1))),
        )
        .gpu();
    host.run(|| {
        for (body, part) in [
            (r#"{"queries": [[1, 2, 3]]}"#, "fixed:12"),
            (r#"{"queries": [[1, 2], [1]]}"#, "one length"),
            (r#"{"queries": []}"#, "at least one"),
            (r#"{"queries": [[1, 2]], "k": 0}"#, "k from 1"),
        ] {
            let request = nearfield::http::Request::post("/").body(body).unwrap();
            let answer = mock::call(call, request);
            assert_eq!(answer.status(), 400, "{body}");
            assert!(answer.body().contains(part), "{body}: {}", answer.body());
        }
    });
}
