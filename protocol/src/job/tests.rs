use super::*;

fn setting() -> PureSetting {
    PureSetting {
        function: "f".parse().unwrap(),
        component: Digest::of(b"component"),
        args: b"{}".to_vec(),
        inputs: BTreeMap::from([("other".to_owned(), Digest::of(b"other"))]),
        limits: PureLimits {
            fuel: 1,
            memory_bytes: 1 << 20,
            timeout: Duration::from_secs(1),
        },
        may_write: false,
        origins: vec!["logs".to_owned()],
        distrusted: BTreeMap::new(),
        gpu: None,
    }
}

fn subject() -> MapSubject {
    MapSubject {
        shard: Digest::of(b"shard"),
        format: "csv".to_owned(),
        header: b"a,b\n".as_slice().into(),
    }
}

fn map(setting: PureSetting, subject: MapSubject) -> ResultKey {
    PureSpec {
        setting: Arc::new(setting),
        work: Work::Map {
            dataset: Digest::of(b"dataset"),
            index: 0,
            subject,
        },
    }
    .key()
}

#[test]
fn every_input_changes_the_key() {
    let base = map(setting(), subject());
    let settings: [fn(&mut PureSetting); 7] = [
        |s| s.component = Digest::of(b"another"),
        |s| s.args = b"{ }".to_vec(),
        |s| s.inputs = BTreeMap::new(),
        |s| s.inputs = BTreeMap::from([("other".to_owned(), Digest::of(b"newer"))]),
        |s| s.limits.memory_bytes += 1,
        |s| s.may_write = true,
        |s| {
            s.gpu = Some(GpuGrant {
                kind: crate::gpu::GpuKind::Any,
                time: Duration::ZERO,
                memory_bytes: 0,
                job: "one".to_owned(),
            });
        },
    ];
    for (index, change) in settings.into_iter().enumerate() {
        let mut changed = setting();
        change(&mut changed);
        assert_ne!(map(changed, subject()), base, "setting {index}");
    }
    let subjects: [fn(&mut MapSubject); 3] = [
        |s| s.shard = Digest::of(b"another"),
        |s| s.format = "lines".to_owned(),
        |s| s.header = b"a,c\n".as_slice().into(),
    ];
    for (index, change) in subjects.into_iter().enumerate() {
        let mut changed = subject();
        change(&mut changed);
        assert_ne!(map(setting(), changed), base, "subject {index}");
    }
}

#[test]
fn what_cannot_matter_does_not_change_the_key() {
    let base = map(setting(), subject());
    let mut same = setting();
    same.function = "renamed".parse().unwrap();
    same.origins = vec!["other".to_owned()];
    same.limits.fuel = 99;
    same.limits.timeout = Duration::from_secs(99);
    assert_eq!(map(same, subject()), base);
}

#[test]
fn neither_order_nor_bounds_of_parts_can_be_confused() {
    let key = |work| {
        PureSpec {
            setting: Arc::new(setting()),
            work,
        }
        .key()
    };
    let (a, b) = (ResultKey(Digest::of(b"a")), ResultKey(Digest::of(b"b")));
    let ab = key(Work::Reduce { parts: vec![a, b] });
    assert_ne!(ab, key(Work::Reduce { parts: vec![b, a] }));
    assert_ne!(ab, key(Work::Reduce { parts: vec![a] }));
    assert_ne!(
        key(Work::Reduce { parts: vec![a] }),
        key(Work::Finish { total: a })
    );
}

#[test]
fn whoever_is_distrusted_takes_along_what_is_made_of_results_and_no_map() {
    let until = |unix_ms| RecordClock {
        unix_ms,
        counter: 0,
        writer: [0; 4],
    };
    let with = |distrusted: &[(u8, u64)]| PureSetting {
        distrusted: distrusted
            .iter()
            .map(|(id, unix_ms)| (NodeId::from_bytes([*id; 32]), until(*unix_ms)))
            .collect(),
        ..setting()
    };
    let total = ResultKey(Digest::of(b"a"));
    let finish = |distrusted: &[(u8, u64)]| {
        let setting = Arc::new(with(distrusted));
        let work = Work::Finish { total };
        PureSpec { setting, work }.key()
    };
    let keys = [&[][..], &[(1, 5)], &[(1, 6)], &[(2, 5)], &[(1, 5), (2, 5)]].map(finish);
    let different: std::collections::HashSet<_> = keys.into_iter().collect();
    assert_eq!(different.len(), keys.len());
    assert_eq!(map(with(&[(1, 5)]), subject()), map(setting(), subject()));
}

fn report(output: &[u8], parts: Digest) -> PureReport {
    PureReport {
        key: ResultKey(Digest::of(b"key")),
        remembered: false,
        output_bytes: output.len() as u64,
        output: Digest::of(output),
        parts,
        fuel: 1,
        total_fuel: 1,
        data_bytes: 0,
        moved_bytes: 0,
        written_files: 0,
        written_bytes: 0,
        written: Digest::EMPTY,
        run_us: 0,
        made: None,
    }
}

#[test]
fn results_of_other_parts_are_other_results() {
    let of = |outputs: &[&[u8]]| {
        let parts = outputs.iter().map(|output| report(output, Digest::EMPTY));
        digest_of_parts(&parts.collect::<Vec<_>>())
    };
    assert_eq!(of(&[]), Digest::EMPTY);
    let dearer = PureReport {
        total_fuel: 2,
        ..report(b"a", Digest::EMPTY)
    };
    let parts = [
        of(&[b"a"]),
        of(&[b"a", b"b"]),
        of(&[b"b", b"a"]),
        digest_of_parts([&dearer]),
    ];
    for (index, one) in parts.iter().enumerate() {
        for other in &parts[..index] {
            let (one, other) = (report(b"sum", *one), report(b"sum", *other));
            assert!(!one.agrees(&other) && one.claim() != other.claim());
        }
    }
}

/// Signatures of maps that were given before reports had parts still hold.
#[test]
fn a_maps_claim_is_what_it_was() {
    let claim = report(b"a", Digest::EMPTY).claim().to_string();
    assert_eq!(
        claim,
        "b3:5ae568a10935b607b3c1a4286e092dc649b40d150f5ede9f4d4d9a906f5961ad"
    );
}
