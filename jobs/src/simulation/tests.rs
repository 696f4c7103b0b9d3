use super::*;

/// Seeds that failed once.
const KEPT: &str = include_str!("seeds.txt");
const SEEDS: u64 = 4;
const HOSTS: usize = 120;
const JOB_SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_nothing_is_lost_and_all_is_well_in_the_end() {
    let hosts = number("NEARFIELD_HOSTS").map_or(HOSTS, |hosts| hosts as usize);
    let kept = KEPT
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let seeds: Vec<u64> = match number("NEARFIELD_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("NEARFIELD_FIRST_SEED").unwrap_or(0);
            kept.chain(first..first + number("NEARFIELD_SEEDS").unwrap_or(SEEDS))
                .collect()
        }
    };
    let mut all = Tally::default();
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| Run::new(seed, hosts, 2, BLOBS).run());
        let Ok(tally) = ran else {
            panic!(
                "seed {seed} with {hosts} hosts fails: NEARFIELD_SEED={seed} shows it again; keep it in seeds.txt"
            );
        };
        println!("seed {seed}: {tally:?}");
        assert!(
            tally.calls > 1_000 && tally.jobs > 1,
            "seed {seed} is about nothing: {tally:?}"
        );
        all.crashes += tally.crashes;
        all.partitions += tally.partitions;
        all.retried += tally.retried;
        all.refused += tally.refused;
        all.calls += tally.calls;
    }
    assert!(all.crashes > 0 && all.retried > 0, "nothing went wrong: {all:?}");
}

#[test]
fn every_job_ends_with_the_right_digest_or_the_right_reason() {
    let seeds = match number("NEARFIELD_JOB_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("NEARFIELD_FIRST_SEED").unwrap_or(0);
            first..first + number("NEARFIELD_JOB_SEEDS").unwrap_or(JOB_SEEDS)
        }
    };
    let (begun, count) = (std::time::Instant::now(), seeds.clone().count());
    let mut all = Tally::default();
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| Run::jobs(About::Jobs, seed).run());
        let Ok(tally) = ran else {
            panic!("seed {seed} of jobs fails: NEARFIELD_JOB_SEED={seed} shows it again");
        };
        all.jobs += tally.jobs;
        all.failed += tally.failed;
        all.crashes += tally.crashes;
        all.unchecked += tally.unchecked;
        all.evicted += tally.evicted;
        all.quarantined += tally.quarantined;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!("{count} seeds of jobs, {rate:.0} a second: {all:?}");
    assert!(
        all.jobs > count as u64 && all.unchecked * 50 <= all.jobs,
        "few jobs ended well: {all:?}"
    );
}

#[test]
fn a_fault_in_the_engine_is_found() {
    for mutation in [Mutation::BelievesEveryWord, Mutation::DropsRetries] {
        let wrong = |seed: &u64| {
            let run = || Run::jobs(About::Mutant(mutation), *seed).run();
            std::panic::catch_unwind(run).is_err()
        };
        assert!(
            (0..JOB_SEEDS).any(|seed| wrong(&seed)),
            "no seed finds {mutation:?}"
        );
    }
}

/// Prints what one gateway has to do for so many hosts, while nothing goes wrong and when a host is lost.
#[test]
#[ignore = "figures for docs/SCALE.md, minutes of them: `cargo xtask soak simulation` runs it"]
fn what_grows_with_the_number_of_hosts() {
    const BLOBS_PER_HOST: usize = 10;
    for hosts in [100, 300, 1_000] {
        let mut run = Run::new(1, hosts, 1, hosts * BLOBS_PER_HOST);
        let mut spent = [std::time::Duration::ZERO; 2];
        let mut go_until = |run: &mut Run, until: Millis| {
            spent = Default::default();
            while let Some(event) = run.world.next(until) {
                let case = match event {
                    Event::Arrives { .. } | Event::Listen(_) => 0,
                    Event::Repair(_) => 1,
                    // Neither calls, jobs nor faults: they are not what is measured.
                    Event::Call(_) | Event::Job | Event::Fault => continue,
                    _ => {
                        run.handle(event);
                        continue;
                    }
                };
                let begun = std::time::Instant::now();
                run.handle(event);
                spent[case] += begun.elapsed();
            }
            spent
        };
        let is_whole = |run: &Run| {
            run.world
                .blobs
                .iter()
                .all(|blob| run.world.copies(&blob.digest) >= 2)
        };
        let mut spread = 0;
        while !is_whole(&run) {
            spread += ROUND;
            go_until(&mut run, spread);
        }
        let (began, messages) = (spread, run.world.messages);
        let [heard, looked] = go_until(&mut run, began + 10_000);
        let messages = (run.world.messages - messages) / 10;
        // One host is lost for good.
        let (victim, moved) = (hosts / 2, run.world.moved_bytes);
        run.world.crash(victim);
        run.world.hosts[victim].lost = true;
        run.world.hosts[victim].disk.clear();
        let lost = run.world.now;
        let mut whole = lost;
        while !is_whole(&run) {
            whole += 250;
            go_until(&mut run, whole);
        }
        println!(
            "hosts {hosts}, blobs {}: spread {spread} ms; {messages} reports/s take {:.1} ms/s; a look at all blobs {:.1} ms; \
             a lost host made up for after {} ms with {} KiB moved",
            run.world.blobs.len(),
            heard.as_secs_f64() * 100.0,
            looked.as_secs_f64() * 1e3 / 5.0,
            whole - lost,
            (run.world.moved_bytes - moved) >> 10
        );
    }
}
