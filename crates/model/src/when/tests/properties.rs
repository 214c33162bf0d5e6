use jiff::{
    Timestamp, Zoned,
    civil::{Date, Time, Weekday},
    tz::{Offset, TimeZone},
};
use proptest::prelude::*;

use super::{Listed, new_york, noon, november, tokyo};
use crate::{
    BranchId, Grade, Kind, Micros, Place, Seq,
    when::{Change, Day, Mark, Span, Unit, What, When, WholeDay, Zone, describe, parse_duration},
};

fn times() -> impl Strategy<Value = Time> {
    let subsec = prop_oneof![Just(0), 0..1_000_000_000];
    (0..24i8, 0..60i8, 0..60i8, subsec).prop_map(|(h, m, s, n)| Time::new(h, m, s, n).unwrap())
}

fn units() -> impl Strategy<Value = Unit> {
    proptest::sample::select(vec![
        Unit::Second,
        Unit::Minute,
        Unit::Hour,
        Unit::Day,
        Unit::Week,
        Unit::Month,
        Unit::Year,
    ])
}

fn days() -> impl Strategy<Value = Day> {
    prop_oneof![
        (0..10_000i16, 1..13i8, 1..29i8).prop_map(|(y, m, d)| Day::Date(Date::new(y, m, d).unwrap())),
        Just(Day::Today),
        Just(Day::Yesterday),
        (0..7i8).prop_map(|n| Day::Weekday(Weekday::from_monday_zero_offset(n).unwrap())),
    ]
}

fn changes() -> impl Strategy<Value = What> {
    let change = proptest::sample::select(vec![Change::Install, Change::Update, Change::Remove]);
    let package = proptest::option::of("[a-zA-Z0-9][a-z0-9.+:=-]{0,12}");
    (change, package)
        .prop_filter("a keyword", |(_, package)| package.as_deref() != Some("before"))
        .prop_map(|(change, package)| What::Change { change, package })
}

fn whats() -> impl Strategy<Value = What> {
    prop_oneof![
        proptest::sample::select(vec![Kind::Boot, Kind::Shutdown, Kind::Package, Kind::Point, Kind::Gap])
            .prop_map(What::Kind),
        proptest::sample::select(vec![Grade::Flushed, Grade::Clean, Grade::Stopped]).prop_map(What::Graded),
    ]
}

fn zoned() -> impl Strategy<Value = When> {
    let zone = prop_oneof![
        (-1_439..1_440i32).prop_map(|minutes| Zone::Fixed(Offset::from_seconds(minutes * 60).unwrap())),
        "[A-Z][a-z_]{0,9}/[A-Z][A-Za-z0-9_+-]{0,9}".prop_map(Zone::Named),
    ];
    let when = prop_oneof![
        times().prop_map(When::Clock),
        (Just(Day::Yesterday), times()).prop_map(|(day, at)| When::Day { day, at: Some(at) }),
    ];
    (zone, when).prop_map(|(zone, when)| When::In { zone, when: Box::new(when) })
}

fn whens() -> impl Strategy<Value = When> {
    let micros = -62_167_219_200_000_000i64..253_402_207_200_000_000;
    let names = "[^ \\s\\pC]([^\\pC]{0,20}[^ \\s\\pC])?";
    let leaf = prop_oneof![
        Just(When::Now),
        any::<u64>().prop_map(|seq| When::Seq(Seq(seq))),
        micros.prop_map(|at| When::Instant(Timestamp::from_microsecond(at).unwrap())),
        times().prop_map(When::Clock),
        (any::<u32>(), units(), proptest::option::of(times())).prop_map(|(count, unit, at)| When::Ago {
            span: Span { count, unit },
            at: at.filter(|_| unit >= Unit::Day),
        }),
        (days(), proptest::option::of(times())).prop_map(|(day, at)| When::Day { day, at }),
        whats().prop_map(|what| When::First { what, before: None }),
        names.prop_map(When::Point),
        zoned(),
    ];
    let branch = "[a-zA-Z0-9][a-zA-Z0-9._-]{0,12}|id:[0-9]{1,6}";
    let leaf = prop_oneof![
        9 => leaf.clone(),
        1 => (branch, leaf).prop_map(|(branch, when)| When::On { branch, when: Box::new(when) }),
    ];
    leaf.prop_recursive(4, 5, 1, |inner| {
        let before = proptest::option::of(inner.prop_map(Box::new));
        prop_oneof![
            (whats(), before.clone()).prop_map(|(what, before)| When::Last { what, before }),
            (changes(), before.clone()).prop_map(|(what, before)| When::Last { what, before }),
            (changes(), before).prop_map(|(what, before)| When::First { what, before }),
        ]
    })
}

/// Words of the grammar in any order, and some other words.
fn soup() -> impl Strategy<Value = String> {
    let word = proptest::sample::select(vec![
        "now",
        "seq:",
        "seq:7",
        "at",
        "on",
        "the",
        "last",
        "first",
        "before",
        "install",
        "nginx",
        "boot",
        "clean",
        "shutdown",
        "tuesday",
        "today",
        "yesterday",
        "3",
        "a",
        "99999999999999999999",
        "4294967295",
        "days",
        "days ago",
        "years ago",
        "2h",
        "ago",
        "15:04",
        "15:04:05.123",
        "24:00",
        "2026-11-22",
        "2026-11-22T15:04",
        "9999-12-31",
        "0000-01-01",
        "-9999",
        "+09:00",
        "Z",
        "point:",
        "x",
        "branch:main",
        "try-1@",
        "id:1@",
        "Europe/Berlin",
        "\u{3000}",
        "é",
        "٣",
        "\0",
    ]);
    proptest::collection::vec((word, prop_oneof![Just(" "), Just(""), Just("\t ")]), 0..9)
        .prop_map(|words| words.into_iter().map(|(word, space)| format!("{word}{space}")).collect())
}

fn nowhere_panics(text: &str, now: &Zoned) {
    let _ = parse_duration(text).map(|span| (span.after(now), span.before(now), span.to_duration()));
    let Ok(when) = When::parse(text) else { return };
    assert_eq!(When::parse(&when.to_string()).as_ref(), Ok(&when), "{text:?}");
    for day in [WholeDay::Refuse, WholeDay::Start, WholeDay::End] {
        match when.resolve_day(&november(), now, day) {
            Ok(found) => assert!(found.place.seq <= Seq(140)),
            Err(error) => assert!(error.candidates().len() <= 8 && !error.hint().is_empty()),
        }
    }
}

/// `now` at either end of the calendar, and on the days when clocks change.
fn nows() -> impl Strategy<Value = Zoned> {
    let at = prop_oneof![
        Just(Timestamp::MIN),
        Just(Timestamp::MAX),
        Just(noon().timestamp()),
        (1_772_900_000i64..1_773_100_000).prop_map(|at| Timestamp::from_second(at).unwrap()),
        (1_793_400_000i64..1_793_700_000).prop_map(|at| Timestamp::from_second(at).unwrap()),
    ];
    (at, proptest::bool::ANY).prop_map(|(at, east)| at.to_zoned(if east { tokyo() } else { new_york() }))
}

proptest! {
    #[test]
    fn canonical_text_parses_back_to_the_same_moment(when in whens()) {
        let text = when.to_string();
        prop_assume!(text.len() <= crate::when::MAX_TEXT_BYTES);
        prop_assert_eq!(When::parse(&text), Ok(when), "{}", text);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), now in nows()) {
        nowhere_panics(&text, &now);
    }

    #[test]
    fn no_sequence_of_words_panics(text in soup(), now in nows()) {
        nowhere_panics(&text, &now);
    }

    #[test]
    fn no_tree_panics_when_it_is_resolved(when in whens(), now in nows()) {
        nowhere_panics(&when.to_string(), &now);
    }

    #[test]
    fn described_time_parses_back_to_itself_at_its_precision(
        back_micros in prop_oneof![0..200_000_000i64, 0..100_000_000_000i64, 0..60_000_000_000_000_000i64],
        now in (1_772_900_000i64..1_800_000_000, proptest::bool::ANY),
    ) {
        let zone: TimeZone = if now.1 { tokyo() } else { new_york() };
        let now = Timestamp::from_second(now.0).unwrap().to_zoned(zone);
        let time = now.timestamp().as_microsecond() - back_micros;
        let text = describe(Micros(time), &now);
        let precision = if text == "now" || text.contains("second") { 1_000_000 } else { 60_000_000 };
        let told = match When::parse(&text) {
            Ok(When::Now) => vec![now.timestamp()],
            Ok(when) => when.instants(&now).unwrap().all,
            Err(error) => panic!("{text:?}: {error}"),
        };
        prop_assert_eq!(told.len(), 1, "{}", text);
        let off = told[0].as_microsecond() - time;
        prop_assert!(off.abs() < precision, "{} is {} µs off", text, off);
    }

    #[test]
    fn a_time_of_day_is_the_last_one_and_not_after_now(time in times(), now in nows()) {
        let instants = When::Clock(time).instants(&now).unwrap().all;
        prop_assert!(instants.iter().all(|at| *at <= now.timestamp()));
        let oldest = (now.timestamp().as_second() - 26 * 3_600).max(Timestamp::MIN.as_second());
        prop_assert!(instants.iter().all(|at| at.as_second() >= oldest));
    }

    /// On logs whose clock goes back and forth, a time resolves to a moment that is not after it and whose next moment
    /// is (or begins a new era); no other moment is a candidate.
    #[test]
    fn a_time_finds_the_nearest_moment_at_or_before_it(
        times in proptest::collection::vec(1_000..2_000i64, 1..12),
        asked in 900..2_100i64,
    ) {
        let marks = times.iter().zip(1..).map(|(time, n)| (Mark { place: Place::new(BranchId(0), Seq(n)), time: Micros(*time) }, None));
        let history = Listed { log: marks.collect(), ..Listed::default() };
        let when = When::Instant(Timestamp::from_microsecond(asked).unwrap());
        let seqs: Vec<u64> = match when.resolve(&history, &noon()) {
            Ok(found) => vec![found.place.seq.0],
            Err(error) if error.candidates().len() == 1 => {
                prop_assert!(times.iter().all(|time| *time > asked), "{}", error);
                return Ok(());
            }
            Err(error) => error.candidates().iter().map(|candidate| candidate.place.seq.0).collect(),
        };
        prop_assert!(!seqs.is_empty());
        for seq in seqs {
            let at = usize::try_from(seq).unwrap() - 1;
            prop_assert!(times[at] <= asked);
            prop_assert!(times.get(at + 1).is_none_or(|next| *next > asked || *next < times[at]));
        }
    }
}
