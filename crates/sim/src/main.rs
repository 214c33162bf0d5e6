//! Long runs: `cargo run -p bygone-sim --release -- --seeds 0..1000 --steps 500 [--profile NAME] [--keep-going]`,
//! or with `--tapped` worlds of a tapped disk.

use std::{ops::Range, process::ExitCode};

use bygone_sim::{profile, run, run_tapped, run_twice};

fn play_tapped(seeds: Range<u64>, steps: u64, keep_going: bool) -> ExitCode {
    let (mut worlds, mut failed) = (0_u64, 0_u64);
    for seed in seeds {
        worlds += 1;
        if let Err(failure) = run_tapped(seed, steps) {
            failed += 1;
            println!("{failure}\n");
            if !keep_going {
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{worlds} worlds of a tapped disk, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let mut seeds = 0..100_u64;
    let mut steps = 300_u64;
    let mut profiles = profile::PROFILES.to_vec();
    let (mut keep_going, mut twice, mut tapped) = (false, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--seeds" => {
                let text = value();
                let (a, b) = text.split_once("..").unwrap_or((&text, ""));
                let a = a.parse().unwrap_or(0);
                seeds = a..b.parse().unwrap_or(a + 1);
            }
            "--steps" => steps = value().parse().unwrap_or(steps),
            "--profile" => profiles = profile::named(&value()).into_iter().collect(),
            "--keep-going" => keep_going = true,
            "--twice" => twice = true,
            "--tapped" => tapped = true,
            other => {
                eprintln!("unknown: {other}");
                return ExitCode::from(2);
            }
        }
    }
    // The panics of a run are reported with its failure.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut worlds, mut failed, mut played, mut compared, mut cuts) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    if tapped {
        return play_tapped(seeds, steps, keep_going);
    }
    for seed in seeds {
        for &profile in &profiles {
            worlds += 1;
            match if twice { run_twice(seed, steps, profile) } else { run(seed, steps, profile) } {
                Ok(outcome) => {
                    played += outcome.stats.steps;
                    compared += outcome.stats.compared_bytes;
                    cuts += outcome.stats.power_cuts;
                }
                Err(failure) => {
                    failed += 1;
                    let text = failure.to_string();
                    let lines: Vec<&str> = text.lines().collect();
                    let shown = if keep_going { lines.len().saturating_sub(2) } else { 0 };
                    println!("{}\n", lines[shown..].join("\n"));
                    if !keep_going {
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
    }
    println!(
        "{worlds} worlds, {played} steps, {cuts} power cuts, {} MiB compared; {failed} failed",
        compared >> 20
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
