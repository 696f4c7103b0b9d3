use super::*;
use crate::blobs::StoreOptions;

fn report(key: &[u8], output: &[u8]) -> PureReport {
    PureReport {
        key: ResultKey(Digest::of(key)),
        remembered: false,
        output_bytes: output.len() as u64,
        output: Digest::of(output),
        parts: Digest::EMPTY,
        fuel: 7,
        total_fuel: 8,
        moved_bytes: 0,
        data_bytes: 9,
        written_files: 0,
        written_bytes: 0,
        written: Digest::of(b""),
        run_us: 3,
        made: None,
    }
}

async fn open(dir: &Path, max_bytes: u64) -> (Store, Remembered) {
    // The thread that committed last may hold the store a moment longer than its caller.
    let store = loop {
        match Store::open(dir, StoreOptions::default()).await {
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let remembered = Remembered::open(dir, store.clone(), max_bytes).unwrap();
    (store, remembered)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_outputs_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![5; INLINE_BYTES + 1];
    {
        let (store, remembered) = open(dir.path(), u64::MAX).await;
        let keep = |key: &'static [u8], output: Vec<u8>| {
            let remembered = remembered.clone();
            async move {
                let report = report(key, &output);
                remembered
                    .keep(
                        report,
                        &["logs".to_owned()],
                        output.into(),
                        None,
                        remembered.as_of().unwrap(),
                    )
                    .await
                    .unwrap();
            }
        };
        // At once, so that one commits for others.
        tokio::join!(
            keep(b"a", b"small".to_vec()),
            keep(b"b", large.clone()),
            keep(b"c", vec![])
        );
        drop(remembered);
        store.shutdown().await;
    }
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    let key = |name: &[u8]| ResultKey(Digest::of(name));
    assert_eq!(
        &remembered.output(&key(b"a")).await.unwrap().unwrap()[..],
        b"small"
    );
    assert_eq!(remembered.output(&key(b"b")).await.unwrap().unwrap()[..], large);
    assert!(remembered.output(&key(b"c")).await.unwrap().unwrap().is_empty());
    let found = remembered.get(&key(b"a")).unwrap().unwrap();
    assert_eq!((found.remembered, found.fuel, found.run_us), (true, 7, 0));
    assert_eq!(remembered.get(&key(b"d")).unwrap(), None);
    assert_eq!(remembered.blobs().unwrap(), HashSet::from([Digest::of(&large)]));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_what_the_dataset_led_to_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    let large = vec![5; INLINE_BYTES + 1];
    for (key, origin) in [(&b"a"[..], "logs"), (b"b", "logs"), (b"c", "other")] {
        let output: Bytes = large.clone().into();
        remembered
            .keep(
                report(key, &large),
                &[origin.to_owned()],
                output,
                None,
                remembered.as_of().unwrap(),
            )
            .await
            .unwrap();
    }
    // What was computed for another dataset and used for this one holds its data too.
    remembered
        .used(&ResultKey(Digest::of(b"c")), &["logs".to_owned()])
        .await
        .unwrap();
    remembered
        .keep(
            report(b"d", b"x"),
            &["other".to_owned()],
            "x".into(),
            None,
            remembered.as_of().unwrap(),
        )
        .await
        .unwrap();
    let forgotten = remembered.purge("logs").await.unwrap();
    assert_eq!(
        (forgotten.results, forgotten.blobs),
        (3, vec![Digest::of(&large)])
    );
    assert_eq!(remembered.usage().unwrap(), (1, ROW_BYTES + 1));
    assert_eq!(remembered.purge("logs").await.unwrap(), Forgotten::default());
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, remembered) = open(dir.path(), 10 * (ROW_BYTES + 100)).await;
    for n in 0..30_u8 {
        let output = vec![n; 100];
        remembered
            .keep(
                report(&[n], &output),
                &["logs".to_owned()],
                output.into(),
                None,
                remembered.as_of().unwrap(),
            )
            .await
            .unwrap();
    }
    assert_eq!(remembered.evict().await.unwrap().results, 20);
    assert_eq!(remembered.usage().unwrap(), (10, 10 * (ROW_BYTES + 100)));
    assert_eq!(remembered.evict().await.unwrap().results, 0);
    store.shutdown().await;
}

#[tokio::test]
async fn everything_is_forgotten_once_for_each_time_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, remembered) = open(dir.path(), 1 << 30).await;
    let maker = NodeId::from_bytes([1; 32]);
    let keep = async |n: &[u8], by: Option<NodeId>| {
        let made = PureReport {
            made: by.map(|by| Made {
                by,
                signature: Signature([n[0]; 64]),
            }),
            ..report(n, b"5")
        };
        let kept = remembered.keep(
            made,
            &[],
            Bytes::from_static(b"5"),
            None,
            remembered.as_of().unwrap(),
        );
        kept.await.unwrap();
        assert_eq!(remembered.get(&made.key).unwrap().unwrap().made, made.made);
    };
    let forget = async |unix_ms| {
        let until = RecordClock {
            unix_ms,
            counter: 0,
            writer: [0; 4],
        };
        remembered.forget_all(until).await.unwrap().results
    };
    keep(b"own", None).await;
    keep(b"given", Some(maker)).await;
    let before = remembered.as_of().unwrap();
    assert_eq!(forget(5).await, 2);
    // What was begun before is forgotten with the rest.
    let late = report(b"late", b"5");
    let kept = remembered.keep(late, &[], Bytes::from_static(b"5"), None, before);
    kept.await.unwrap();
    assert_eq!(remembered.get(&late.key).unwrap(), None);
    // What was made since then counts.
    keep(b"own", None).await;
    assert_eq!((forget(5).await, forget(4).await), (0, 0));
    assert_eq!(forget(6).await, 1);
}

#[tokio::test]
async fn files_are_with_who_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    let files = Bytes::from(vec![6; INLINE_WRITTEN_BYTES + 1]);
    let wrote = PureReport {
        written_files: 1,
        written_bytes: files.len() as u64,
        written: Digest::of(&files),
        ..report(b"a", b"x")
    };
    let keep = async |written: Option<Bytes>| {
        let kept = remembered.keep(wrote, &[], "x".into(), written, remembered.as_of().unwrap());
        kept.await.unwrap();
        remembered.get(&wrote.key).unwrap().unwrap()
    };
    let given = keep(None).await;
    assert_eq!(given.written, wrote.written);
    assert!(!remembered.has_written(&given).unwrap());
    assert_eq!(remembered.written(&wrote.key).await.unwrap(), None);
    assert_eq!(remembered.usage().unwrap(), (1, ROW_BYTES + 1));

    let made = keep(Some(files.clone())).await;
    assert!(remembered.has_written(&made).unwrap() && made.agrees(&given));
    assert_eq!(remembered.written(&wrote.key).await.unwrap(), Some(files.clone()));
    assert_eq!(remembered.blobs().unwrap(), HashSet::from([wrote.written]));
    assert_eq!(
        remembered.usage().unwrap(),
        (1, ROW_BYTES + 1 + files.len() as u64)
    );

    // A row that is laid over it holds nothing of it.
    keep(None).await;
    assert!(remembered.blobs().unwrap().is_empty());
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_result_was_made_of_stays_with_it_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Digest::of(b"parts");
    let made_of = |parts| PureReport {
        parts,
        ..report(b"total", b"5")
    };
    let key = made_of(parts).key;
    let keep = |remembered: &Remembered, parts| {
        let remembered = remembered.clone();
        async move {
            let as_of = remembered.as_of().unwrap();
            let output = Bytes::from_static(b"5");
            let origins = ["logs".to_owned()];
            let kept = remembered.keep(made_of(parts), &origins, output, None, as_of);
            kept.await.unwrap();
        }
    };
    {
        let (store, remembered) = open(dir.path(), u64::MAX).await;
        keep(&remembered, parts).await;
        store.shutdown().await;
    }
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    let found = |remembered: &Remembered| remembered.get(&key).unwrap().map(|found| found.parts);
    assert_eq!(found(&remembered), Some(parts));
    // One of other parts, and then a map's, take its place.
    for other in [Digest::of(b"others"), Digest::EMPTY, parts] {
        keep(&remembered, other).await;
        assert_eq!(found(&remembered), Some(other));
    }
    remembered.purge("logs").await.unwrap();
    assert_eq!(found(&remembered), None);
    let left = remembered.inner.db.begin_read().unwrap();
    let left = left.open_table(PARTS).unwrap();
    assert!(left.get(key.0.as_bytes()).unwrap().is_none());
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    let as_of = remembered.as_of().unwrap();
    let kept = remembered.keep(report(b"a", b"x"), &[], Bytes::from_static(b"x"), None, as_of);
    kept.await.unwrap();
    drop(remembered);
    store.shutdown().await;
    drop(store);
    let path = dir.path().join("remembered.redb");
    let broken = vec![7; 100_000];
    // The thread that committed last may hold the database a moment longer.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &broken).unwrap();
    let (store, remembered) = open(dir.path(), u64::MAX).await;
    assert_eq!(remembered.usage().unwrap(), (0, 0));
    assert_eq!(
        std::fs::read(dir.path().join("remembered.redb.broken")).unwrap(),
        broken
    );
    store.shutdown().await;
}
