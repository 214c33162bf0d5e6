//! Queries for events, compared with a search through a list of all of them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bygone_model::{At, BranchId, Event, Grade, Kind, Micros, Seq};
use bygone_store::{
    EventOrder, EventQuery, Log, cursor_of,
    env::File,
    format::checkpoint::{FRAME_BYTES, Trailer},
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, options};

const KINDS: [Kind; 4] = [Kind::Boot, Kind::Shutdown, Kind::Point, Kind::Package];
const GRADES: [Grade; 3] = [Grade::Crash, Grade::Clean, Grade::Stopped];

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

#[test]
fn a_question_about_events_finds_what_a_search_through_all_of_them_finds() {
    let (world, mut log, _) = World::make(1 << 20);
    let mut dice = Dice(7);
    let mut all: Vec<bygone_store::Event> = Vec::new();
    let branches: Vec<BranchId> =
        (0..3).map(|n| log.add_branch(&format!("b{n}"), BranchId(0), log.head_seq()).unwrap()).collect();
    let mut asked = 0;
    for n in 0..2500_u64 {
        let branch = if n % 3 == 0 { BranchId(0) } else { branches[dice.below(3) as usize] };
        let kind = KINDS[dice.below(4) as usize].clone();
        let mut event = Event::new(kind, format!("label {}", n / 2)).graded(GRADES[dice.below(3) as usize]);
        if dice.below(5) == 0 {
            event = event.at(At::exactly(Seq(1 + dice.below(log.head_seq().0)), Micros(0)));
        }
        let done = log.event(branch, &event).unwrap();
        all.push(bygone_store::Event { seq: done.last, time: done.time, branch, event });
        if n % 700 == 699 {
            log.promote_branch(branches[(n / 700) as usize % 3]).unwrap();
        }
        if n % 600 == 599 {
            log.checkpoint().unwrap();
        }
        if n == 2000 {
            log.flush().unwrap();
            drop(log);
            log = world.open();
        }
        if n % 25 != 0 {
            continue;
        }
        let catalog = log.catalog();
        let lines = [catalog.lived_line(), catalog.line_of(branches[dice.below(3) as usize])];
        let kinds: Vec<Kind> = KINDS.iter().filter(|_| dice.below(3) == 0).cloned().collect();
        let label = format!("label {}", dice.below(n + 5) / 2);
        let head = log.head_seq().0;
        let (one, other) = (dice.below(head + 2), dice.below(head + 2));
        let query = EventQuery {
            line: lines.get(dice.below(3) as usize),
            kinds: &kinds,
            grade: GRADES[dice.below(3) as usize],
            label: (dice.below(3) == 0).then_some(label.as_str()),
            after: (Seq(one.min(other)), Seq(dice.below(head))),
            before: (Seq(one.max(other)), Seq(dice.below(head))),
            ..EventQuery::default()
        };
        let fits = |event: &&bygone_store::Event| {
            let cursor = cursor_of(event);
            query.after < cursor
                && cursor < query.before
                && (kinds.is_empty() || kinds.contains(&event.event.kind))
                && event.event.grade >= query.grade
                && query.label.is_none_or(|l| event.event.kind == Kind::Point && event.event.label == l)
                && query.line.is_none_or(|line| line.has(event.place()))
        };
        let mut expected: Vec<&bygone_store::Event> = all.iter().filter(fits).collect();
        expected.sort_by_key(|event| cursor_of(event));
        let limit = [1, 3, 50, 10_000][dice.below(4) as usize];
        for order in [EventOrder::Oldest, EventOrder::Newest] {
            if order == EventOrder::Newest {
                expected.reverse();
            }
            let found = log.find_events(&query, order, limit, &mut |_| true).unwrap();
            assert!(found.iter().eq(expected.iter().copied().take(limit)), "{query:?} {order:?} {limit}");
            asked += found.len();
        }
    }
    assert!(asked > 1000, "the questions found too little to show anything: {asked}");
}

#[test]
fn the_best_event_that_tells_of_a_place_is_found() {
    let (_world, log, _) = World::make(1 << 20);
    let stop = Event::new(Kind::Shutdown, "stopped").graded(Grade::Stopped);
    let at = log.event(BranchId(0), &stop).unwrap();
    let place = bygone_model::Place::new(BranchId(0), at.last);
    let point = Event::new(Kind::Point, "here").at(At::exactly(at.last, at.time));
    log.event(BranchId(0), &point).unwrap();
    log.checkpoint().unwrap();
    let told = || log.event_at(place).unwrap().unwrap().event.label;
    assert_eq!(told(), "stopped");
    log.event(BranchId(0), &stop.at(At::exactly(at.last, at.time))).unwrap();
    assert_eq!(told(), "stopped");
    let next = bygone_model::Place::new(BranchId(0), at.last.next());
    assert!(log.event_at(next).unwrap().is_none(), "a point tells of the moment that it names only");
}

#[test]
fn of_events_of_one_grade_that_tell_of_a_place_the_one_recorded_last_is_found() {
    let (_world, log, _) = World::make(1 << 20);
    let first = log.event(BranchId(0), &Event::new(Kind::Manager, "first")).unwrap();
    let place = bygone_model::Place::new(BranchId(0), first.last);
    let told = || log.event_at(place).unwrap().unwrap().event.label;
    assert_eq!(told(), "first");
    // Each is found among those in memory and those in checkpoints, whichever are looked at first.
    for label in ["second", "third", "fourth"] {
        log.checkpoint().unwrap();
        let again = Event::new(Kind::Point, label).at(At::exactly(first.last, first.time));
        log.event(BranchId(0), &again).unwrap();
        assert_eq!(told(), label);
    }
    log.checkpoint().unwrap();
    assert_eq!(told(), "fourth");
}

#[test]
fn a_marked_moment_has_a_place_and_a_time_of_its_own_and_is_durable() {
    let (world, log, _) = World::make(1 << 20);
    let before = log.event(BranchId(0), &Event::new(Kind::Shutdown, "stopped")).unwrap();
    log.flush().unwrap();
    let marks = [log.mark_moment().unwrap(), log.mark_moment().unwrap()];
    assert!(before.last < marks[0].last && marks[0].last < marks[1].last);
    assert!(before.time < marks[0].time && marks[0].time < marks[1].time);
    assert_eq!(log.durable_seq(), marks[1].last);
    for mark in marks {
        assert_eq!(log.time_of(mark.last).unwrap(), mark.time);
        let hits: Vec<Seq> = log.at_time(mark.time).unwrap().iter().map(|hit| hit.seq).collect();
        assert_eq!(hits, [mark.last]);
        assert_eq!(log.place_of(mark.last).unwrap(), bygone_model::Place::new(BranchId(0), mark.last));
    }
    drop(log);
    let log = world.open();
    assert_eq!(log.time_of(marks[0].last).unwrap(), marks[0].time);
}

#[test]
fn i8_opening_a_log_of_many_events_without_an_index_holds_few_of_them_at_a_time() {
    let (world, log, _) = World::make(1024);
    for n in 0..10_000 {
        log.event(BranchId(0), &Event::new(Kind::Point, n.to_string())).unwrap();
        while n % 100 == 0 && log.maintain().unwrap() {}
    }
    log.flush().unwrap();
    let head = log.head_seq();
    drop(log);
    std::fs::remove_dir_all(world.path("index")).unwrap();
    let log = world.open();
    // Each has the events that were in memory when it was written.
    assert_eq!(world.files("index").len(), 2);
    let mut next = 0;
    log.events(Seq::ZERO, head, &mut |event| {
        assert_eq!(event.event.label, next.to_string());
        next += 1;
        true
    })
    .unwrap();
    assert_eq!(next, 10_000);
}

#[test]
fn who_asks_for_events_may_use_the_log_for_each_of_them() {
    let (_world, log, _) = World::make(1024);
    log.event(BranchId(0), &Event::new(Kind::Point, "one")).unwrap();
    let (sender, found) = mpsc::channel();
    std::thread::spawn(move || {
        let query = EventQuery { kinds: &[Kind::Point], ..EventQuery::default() };
        let found = log.find_events(&query, EventOrder::Newest, 5, &mut |event| {
            log.event(BranchId(0), &Event::new(Kind::Package, &event.event.label)).is_ok()
        });
        let _ = sender.send(found.map(|events| events.len()).ok());
    });
    assert_eq!(found.recv_timeout(Duration::from_secs(60)), Ok(Some(1)));
}

/// Counts the bytes that are read.
struct Counting(Arc<AtomicU64>);

impl Watch for Counting {
    fn read(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
        file.read_at(buf, offset)
    }
}

#[test]
fn a_footer_is_read_once_however_often_a_time_is_asked_for() {
    let (world, log, volume) = World::make(1024);
    for n in 0..500 {
        log.add_branch(&format!("a branch with a long name {n}"), BranchId(0), log.head_seq()).unwrap();
    }
    let early = crate::world::write(&log, volume, 0, 1, 1);
    log.checkpoint().unwrap();
    crate::world::write(&log, volume, 0, 1, 2);
    log.checkpoint().unwrap();
    drop(log);
    let bytes = std::fs::read(&world.files("index")[0]).unwrap();
    let footer = Trailer::decode(bytes.last_chunk::<FRAME_BYTES>().unwrap(), bytes.len() as u64).unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let dir = Watched::new(world.folder.path(), Counting(read.clone()));
    let log = Log::open(dir, Arc::new(Ticks::from(3_600_000_000)), options(24 << 10)).unwrap();
    let costs = || {
        read.store(0, Ordering::Relaxed);
        let time = log.time_of(early).unwrap();
        (time, read.load(Ordering::Relaxed))
    };
    let (first, again) = (costs(), costs());
    assert_eq!(first.0, again.0);
    assert!(again.1 + u64::from(footer.len_bytes) <= first.1, "{} and then {} bytes", first.1, again.1);
}
