//! Measures the cost of queries for events in a long history.
//!
//! - `events fill FOLDER COUNT`: appends COUNT events to the log in FOLDER (made if there is none): every thousandth is
//!   a shutdown, every hundredth a point, the rest are contacts. Half of them are on a branch that is not the present.
//! - `events ask FOLDER`: opens the log and runs eight queries, such as the newest 200 events, the last shutdown, or a
//!   point by its label. It prints a line of JSON with the time of each; the first begins with an empty page cache.

use std::{error::Error, path::Path, sync::Arc};

use bygone_model::{BranchId, Event, Grade, Kind, Seq};
use bygone_store::{
    EventOrder, EventQuery, Log, LogOptions,
    env::{Clock as _, RealDir, SystemClock},
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["fill", folder, count] => fill(folder.as_ref(), count.parse()?),
        ["ask", folder] => ask(folder.as_ref()),
        _ => Err("usage: events fill FOLDER COUNT | ask FOLDER".into()),
    }
}

fn open(folder: &Path) -> Done<Arc<Log>> {
    let dir = || Arc::new(RealDir::new(folder));
    let clock = Arc::new(SystemClock::new());
    match Log::open(dir(), clock.clone(), LogOptions::default()) {
        Err(bygone_store::Error::NoLog) => {
            std::fs::create_dir_all(folder)?;
            Ok(Log::make(dir(), clock, LogOptions::default(), [9; 16])?)
        }
        opened => Ok(opened?),
    }
}

fn fill(folder: &Path, count: u64) -> Done {
    let log = open(folder)?;
    let name = format!("events-{}", log.head_seq());
    let other = log.add_branch(&name, log.catalog().head, log.head_seq())?;
    for n in 0..count {
        let event = match n % 1000 {
            0 => Event::new(Kind::Shutdown, "the target shut itself down").graded(Grade::Stopped),
            n if n % 100 == 1 => Event::new(Kind::Point, format!("point {name} {}", log.head_seq())),
            _ => Event::new(Kind::Contact, "talked to 192.0.2.7, port 443").with("bytes", n),
        };
        let branch = if n % 2 == 0 { BranchId(0) } else { other };
        log.event(branch, &event)?;
        if n % 1024 == 0 {
            while log.maintain()? {}
        }
    }
    log.checkpoint()?;
    println!(r#"{{"events":{count},"head":{},"used_bytes":{}}}"#, log.head_seq(), log.used_bytes()?);
    Ok(())
}

fn ask(folder: &Path) -> Done {
    let clock = SystemClock::new();
    let since = |start: i64| (clock.monotonic().0 - start) as f64 / 1e3;
    let start = clock.monotonic().0;
    let log = open(folder)?;
    println!(r#"{{"opened_ms":{:.1}}}"#, since(start));
    let line = log.catalog().lived_line();
    let any = EventQuery::default;
    let newest =
        log.find_events(&EventQuery { kinds: &[Kind::Point], ..any() }, EventOrder::Newest, 1, &mut |_| {
            true
        })?;
    let oldest =
        log.find_events(&EventQuery { kinds: &[Kind::Point], ..any() }, EventOrder::Oldest, 1, &mut |_| {
            true
        })?;
    drop(log);
    let labels = |events: &[bygone_store::Event]| events.first().map(|event| event.event.label.clone());
    let (newest, oldest) = (labels(&newest).unwrap_or_default(), labels(&oldest).unwrap_or_default());
    let middle = EventQuery { line: Some(&line), kinds: &[Kind::Shutdown], ..any() };
    let asked: [(&str, EventQuery<'_>, usize); 8] = [
        ("the newest 200", any(), 200),
        ("the last shutdown", middle, 1),
        (
            "the last shutdown before the middle",
            EventQuery { before: (Seq(500_000), Seq::ZERO), ..middle },
            1,
        ),
        ("a kind that there is not", EventQuery { line: Some(&line), kinds: &[Kind::Panic], ..any() }, 1),
        ("the last clean", EventQuery { line: Some(&line), grade: Grade::Clean, ..any() }, 1),
        ("the newest point, by its label", EventQuery { label: Some(&newest), ..any() }, 8),
        ("the oldest point, by its label", EventQuery { label: Some(&oldest), ..any() }, 8),
        ("a label that there is not", EventQuery { label: Some("no such label"), ..any() }, 8),
    ];
    let log = open(folder)?;
    for (what, query, limit) in &asked {
        let start = clock.monotonic().0;
        let found = log.find_events(query, EventOrder::Newest, *limit, &mut |_| true)?.len();
        println!(r#"{{"asked":"{what}","found":{found},"ms":{:.2}}}"#, since(start));
    }
    Ok(())
}
