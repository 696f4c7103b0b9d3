//! Does nothing with each shard: what a job costs by itself.
//!
//! `nearfield run noop --over registry`

/// Does not even read the shard.
#[nearfield::map]
fn noop(_: nearfield::Shard) {}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    #[test]
    fn nothing_comes_of_any_number_of_shards() {
        for shards in 1..5 {
            let data = mock::Dataset::new("bytes")
                .shard_bytes(1)
                .file("f", vec![0; shards]);
            let done = mock::Host::new()
                .dataset("data", data)
                .job::<super::noop>("data", ())
                .unwrap();
            assert_eq!(done.result, serde_json::Value::Null);
            assert!(done.files.is_empty());
        }
    }
}
