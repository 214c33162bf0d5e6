//! Many short worlds. A failure prints how to repeat it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bygone_sim::{profile, run, run_tapped, run_twice};
use bygone_store::env::{Clock, SystemClock};

const STEPS: u64 = 120;
/// One in this many worlds is played twice and must have the same result both times.
const TWICE_EVERY: u64 = 5;

fn play(name: &str, seeds: std::ops::Range<u64>) {
    let profile = profile::named(name).unwrap();
    for seed in seeds {
        let result =
            if seed % TWICE_EVERY == 0 { run_twice(seed, STEPS, profile) } else { run(seed, STEPS, profile) };
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
}

macro_rules! worlds {
    ($($test:ident: $profile:literal $seeds:expr;)*) => {
        $(#[test]
        fn $test() {
            play($profile, $seeds);
        })*
    };
}

worlds! {
    calm_worlds_keep_everything_1: "calm" 0..150;
    calm_worlds_keep_everything_2: "calm" 150..300;
    what_was_flushed_survives_crashes_1: "crash" 0..150;
    what_was_flushed_survives_crashes_2: "crash" 150..300;
    what_was_flushed_survives_crashes_3: "crash" 300..450;
    what_was_flushed_survives_crashes_4: "crash" 450..600;
    a_full_medium_loses_nothing_1: "full" 0..150;
    a_full_medium_loses_nothing_2: "full" 150..300;
    a_full_medium_loses_nothing_3: "full" 300..450;
    nothing_is_acknowledged_after_a_failed_sync_1: "sync" 0..150;
    nothing_is_acknowledged_after_a_failed_sync_2: "sync" 150..300;
    nothing_is_acknowledged_after_a_failed_sync_3: "sync" 300..450;
    rot_is_reported_and_never_served_1: "rot" 0..60;
    rot_is_reported_and_never_served_2: "rot" 60..120;
    rot_is_reported_and_never_served_3: "rot" 120..180;
    a_damaged_index_is_mended_in_use_and_nothing_wrong_is_read_1: "index" 0..100;
    a_damaged_index_is_mended_in_use_and_nothing_wrong_is_read_2: "index" 100..200;
    rot_where_the_log_grows_costs_what_it_hit_and_nothing_else_1: "newest" 0..100;
    rot_where_the_log_grows_costs_what_it_hit_and_nothing_else_2: "newest" 100..200;
    holders_that_meet_lose_nothing_1: "holders" 0..100;
    holders_that_meet_lose_nothing_2: "holders" 100..200;
    holders_that_meet_a_damaged_index_lose_nothing_1: "holders-index" 0..100;
    holders_that_meet_a_damaged_index_lose_nothing_2: "holders-index" 100..200;
    a_follower_is_told_everything_once_1: "follow" 0..120;
    a_follower_is_told_everything_once_2: "follow" 120..240;
    everything_at_once_1: "mixed" 0..150;
    everything_at_once_2: "mixed" 150..300;
    everything_at_once_3: "mixed" 300..450;
    everything_at_once_in_tall_trees_1: "pages" 0..100;
    everything_at_once_in_tall_trees_2: "pages" 100..200;
    everything_at_once_on_wide_disks_1: "wide" 0..100;
    everything_at_once_on_wide_disks_2: "wide" 100..200;
}

#[test]
fn worlds_that_went_wrong_once_go_well() {
    // Complete records of a failed write followed the end of a segment without an index, and `verify` counted them as
    // part of it.
    for (name, seed) in [("full", 500_014), ("mixed", 500_156)] {
        if let Err(failure) = run(seed, 400, profile::named(name).unwrap()) {
            panic!("{failure}");
        }
    }
    // A write failed and left complete records. The record written over the first of them was identical, so the others
    // continued it; or a power cut brought the first ones back, and the next segment continued those.
    for (name, seed) in [("full", 500_072), ("mixed", 500_228)] {
        if let Err(failure) = run(seed, 300, profile::named(name).unwrap()) {
            panic!("{failure}");
        }
    }
    // A power cut left only the trailer of an index, after a checkpoint had taken over the content of the segment.
    if let Err(failure) = run(1_795_711_162_237_126, 120, profile::named("pages").unwrap()) {
        panic!("{failure}");
    }
    // A superseded holder went on in the segment that it had open, over the index that the new one had given it.
    if let Err(failure) = run(1_795_761_867_002_700, 120, profile::named("holders").unwrap()) {
        panic!("{failure}");
    }
    // A damaged index was made anew while a segment in use had lost its name.
    if let Err(failure) = run(310, 120, profile::named("holders-index").unwrap()) {
        panic!("{failure}");
    }
    // A bit flipped in the only remaining header that identified the log.
    if let Err(failure) = run(1_795_714_869_059_775, 120, profile::named("newest").unwrap()) {
        panic!("{failure}");
    }
}

/// New worlds, for two minutes (or `BYGONE_SIM_FRESH_SECONDS`). The clock chooses the first seed, unless
/// `BYGONE_SIM_FRESH_SEED` does: continuous integration derives that from the commit, so that its run can be repeated.
#[test]
fn fresh_worlds_go_well_for_two_minutes() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let clock = SystemClock::new();
    let end = clock.monotonic().0 + number("BYGONE_SIM_FRESH_SECONDS").unwrap_or(120) as i64 * 1_000_000;
    // Far from the fixed seeds.
    let first = number("BYGONE_SIM_FRESH_SEED").unwrap_or(clock.wall().0 as u64);
    println!("fresh seeds from {first} on");
    let mut worlds = 0;
    for seed in first.. {
        for &profile in profile::PROFILES {
            if clock.monotonic().0 >= end {
                println!("{worlds} fresh worlds");
                return;
            }
            run(seed, STEPS, profile).unwrap_or_else(|failure| panic!("{failure}"));
            worlds += 1;
        }
        let tapped = run_tapped(seed, STEPS);
        assert!(tapped.is_ok(), "{}", tapped.unwrap_err());
    }
}

/// Plays the world that the environment names: `BYGONE_SIM_SEED`, `BYGONE_SIM_PROFILE`, `BYGONE_SIM_STEPS`.
#[test]
fn one_seed() {
    let var = |name| std::env::var(name).ok();
    let Some(seed) = var("BYGONE_SIM_SEED").and_then(|seed| seed.parse().ok()) else { return };
    let profile = profile::named(&var("BYGONE_SIM_PROFILE").unwrap_or_else(|| "mixed".to_owned())).unwrap();
    let steps = var("BYGONE_SIM_STEPS").and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    if let Err(failure) = run_twice(seed, steps, profile) {
        panic!("{failure}");
    }
}
