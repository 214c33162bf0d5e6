use jiff::civil::{Date, Time, Weekday};

use super::parsed;
use crate::{
    Event, Grade, Kind, Seq,
    when::{Change, Day, ParseError, Span, Unit, What, When, parse_duration},
};

#[test]
fn every_form_is_read_and_written_canonically() {
    for (text, canonical) in [
        ("now", "now"),
        ("  NOW\t", "now"),
        ("seq:12345", "seq:12345"),
        ("Seq: 0012", "seq:12"),
        ("2026-11-22T15:04:05Z", "2026-11-22T15:04:05Z"),
        ("2026-11-22t15:04:05.123456z", "2026-11-22T15:04:05.123456Z"),
        ("2026-11-22T15:04:05+09:00", "2026-11-22T06:04:05Z"),
        ("2026-11-22 15:04:05 -0500", "2026-11-22T20:04:05Z"),
        ("2026-11-22 15:04+09", "2026-11-22T06:04:00Z"),
        ("2026-11-22 at 15:04 UTC", "2026-11-22T15:04:00Z"),
        ("2026-11-22 15:04", "2026-11-22 15:04"),
        ("2026-11-22T15:04:05", "2026-11-22 15:04:05"),
        ("2026-11-22   15:04:05.120", "2026-11-22 15:04:05.12"),
        ("2026-11-22 15:04:00.5", "2026-11-22 15:04:00.5"),
        ("on 2026-11-22", "2026-11-22"),
        ("15:04", "15:04"),
        ("at 9:05:07", "09:05:07"),
        ("3 days ago", "3 days ago"),
        ("Three Days Ago at 15:00", "3 days ago 15:00"),
        ("an hour ago", "1 hour ago"),
        ("a minute ago", "1 minute ago"),
        ("one day ago", "1 day ago"),
        ("twelve months ago 8:00", "12 months ago 08:00"),
        ("2h ago", "2 hours ago"),
        ("90s ago", "90 seconds ago"),
        ("5 m ago", "5 minutes ago"),
        ("1 week ago", "1 week ago"),
        ("2mo ago", "2 months ago"),
        ("1y ago", "1 year ago"),
        ("yesterday 14:59", "yesterday 14:59"),
        ("yesterday", "yesterday"),
        ("today at 09:00", "today 09:00"),
        ("tuesday 10:00", "tuesday 10:00"),
        ("on Tue at 10:00", "tuesday 10:00"),
        ("last shutdown", "last shutdown"),
        ("the last shutdown before Tuesday", "last shutdown before tuesday"),
        ("last boot before yesterday 14:59", "last boot before yesterday 14:59"),
        ("last clean", "last clean"),
        ("last stopped before last flushed", "last stopped before last flushed"),
        ("first boot", "first boot"),
        ("the FIRST clean", "first clean"),
        ("before install nginx", "before install nginx"),
        ("before update", "before update"),
        ("before upgrade libc6", "before update libc6"),
        ("before uninstall Nginx", "before remove Nginx"),
        ("before the last install nginx", "before install nginx"),
        ("before first install nginx", "before first install nginx"),
        ("before install nginx before tuesday", "before install nginx before tuesday"),
        ("before install before 2 days ago", "before install before 2 days ago"),
        ("last shutdown before install nginx", "last shutdown before install nginx"),
        ("last clean before first update", "last clean before first update"),
        ("point:before-upgrade", "point:before-upgrade"),
        ("POINT:  Before  the Upgrade ", "point:Before  the Upgrade"),
        ("last boot before point:a before b", "last boot before point:a before b"),
        ("branch:try-1", "branch:try-1"),
        ("Branch: try-1", "branch:try-1"),
        ("try-1@now", "branch:try-1"),
        ("try-1@15:04", "try-1@15:04"),
        ("branch:try-1@ last  shutdown", "try-1@last shutdown"),
        ("id:3@seq:14", "id:3@seq:14"),
        ("try-1@point:a@b", "try-1@point:a@b"),
        ("point:a@b", "point:a@b"),
        ("last boot before try-1@15:04", "last boot before try-1@15:04"),
        ("22:44 UTC", "22:44 UTC"),
        ("22:44z", "22:44 UTC"),
        ("at 22:44 gmt", "22:44 UTC"),
        ("yesterday 14:59+0900", "yesterday 14:59 +09:00"),
        ("3 days ago at 15:00 -03", "3 days ago 15:00 -03:00"),
        ("2026-11-22 15:04 Europe/Berlin", "2026-11-22 15:04 Europe/Berlin"),
        ("try-1@tuesday 10:00 Asia/Tokyo", "try-1@tuesday 10:00 Asia/Tokyo"),
    ] {
        let when = parsed(text);
        assert_eq!(when.to_string(), canonical, "{text:?}");
        assert_eq!(parsed(canonical), when, "{canonical:?}");
    }
}

#[test]
fn every_kind_has_a_last_and_a_first() {
    for kind in [
        Kind::Boot,
        Kind::Shutdown,
        Kind::Reset,
        Kind::Panic,
        Kind::Package,
        Kind::Write,
        Kind::Contact,
        Kind::Timer,
        Kind::Suspect,
        Kind::Point,
        Kind::Gap,
        Kind::Base,
        Kind::Branch,
        Kind::Manager,
    ] {
        let what = What::Kind(kind.clone());
        assert_eq!(parsed(&format!("last {kind}")), When::Last { what: what.clone(), before: None });
        assert_eq!(parsed(&format!("first {kind}")), When::First { what, before: None });
    }
}

#[test]
fn the_tree_says_what_the_text_said() {
    let time = |hour, minute| Some(Time::constant(hour, minute, 0, 0));
    assert_eq!(parsed("seq:18446744073709551615"), When::Seq(Seq::MAX));
    assert_eq!(
        parsed("2026-11-22 15:04"),
        When::Day { day: Day::Date(Date::constant(2026, 11, 22)), at: time(15, 4) }
    );
    assert_eq!(
        parsed("two weeks ago 07:00"),
        When::Ago { span: Span { count: 2, unit: Unit::Week }, at: time(7, 0) }
    );
    assert_eq!(
        parsed("last clean before wed"),
        When::Last {
            what: What::Graded(Grade::Clean),
            before: Some(Box::new(When::Day { day: Day::Weekday(Weekday::Wednesday), at: None })),
        }
    );
    assert_eq!(
        parsed("before remove vim"),
        When::Last {
            what: What::Change { change: Change::Remove, package: Some("vim".to_owned()) },
            before: None,
        }
    );
}

#[test]
fn what_is_not_in_the_grammar_is_refused_with_its_reason() {
    let word = |word: &str| word.into();
    for (text, expected) in [
        ("", ParseError::Empty),
        (" \n ", ParseError::Empty),
        ("tomorrow", ParseError::UnknownWord { word: word("tomorrow") }),
        ("at", ParseError::Unfinished),
        ("last", ParseError::Unfinished),
        ("before", ParseError::Unfinished),
        ("last boot before", ParseError::Unfinished),
        ("the shutdown", ParseError::UnknownWord { word: word("shutdown") }),
        ("now then", ParseError::Trailing { word: word("then") }),
        ("seq:5 6", ParseError::Trailing { word: word("6") }),
        ("first boot before now", ParseError::Trailing { word: word("before") }),
        ("last shutdwon", ParseError::UnknownKind { word: word("shutdwon") }),
        ("last tuesday", ParseError::UnknownKind { word: word("tuesday") }),
        ("before lunch", ParseError::UnknownChange { word: word("lunch") }),
        ("before last boot", ParseError::UnknownChange { word: word("last") }),
        ("3", ParseError::NoUnit),
        ("3 days", ParseError::NoAgo),
        ("3 moons ago", ParseError::UnknownUnit { word: word("moons") }),
        ("1.5 hours ago", ParseError::UnknownUnit { word: word(".5") }),
        ("4294967296 days ago", ParseError::NumberTooLarge),
        ("99999999999999999999 days ago", ParseError::NumberTooLarge),
        ("2 hours ago 15:00", ParseError::ClockWithoutDay),
        ("2026-02-30", ParseError::BadDate { word: word("2026-02-30") }),
        ("2026-1-2 10:00", ParseError::BadDate { word: word("2026-1-2") }),
        ("2026/11/22", ParseError::BadDate { word: word("2026/11/22") }),
        ("2026-11-22T", ParseError::BadDate { word: word("2026-11-22T") }),
        ("0000-01-01T00:00+09:00", ParseError::BadDate { word: word("0000-01-01") }),
        ("9999-12-31T23:59Z", ParseError::BadDate { word: word("9999-12-31") }),
        ("24:00", ParseError::BadTime { word: word("24:00") }),
        ("15:4", ParseError::BadTime { word: word("15:4") }),
        ("23:59:60", ParseError::BadTime { word: word("23:59:60") }),
        ("15:04:05.1234567890", ParseError::BadTime { word: word("15:04:05.1234567890") }),
        ("15:04x", ParseError::BadTime { word: word("15:04x") }),
        ("15:04 +9", ParseError::BadOffset { word: word("+9") }),
        ("15:04 Europe/B\u{e9}rlin", ParseError::BadOffset { word: word("Europe/B\u{e9}rlin") }),
        ("last boot UTC", ParseError::Trailing { word: word("UTC") }),
        ("branch:a b", ParseError::Trailing { word: word("b") }),
        ("@15:04", ParseError::NoName),
        ("branch:@15:04", ParseError::NoName),
        ("try-1@", ParseError::Unfinished),
        ("a@b@now", ParseError::BranchTwice),
        ("a@branch:b", ParseError::BranchTwice),
        ("branch:a@ b@now", ParseError::BranchTwice),
        ("2026-11-22 15:04+24:00", ParseError::BadOffset { word: word("+24:00") }),
        ("2026-11-22 15:04+9", ParseError::BadOffset { word: word("+9") }),
        ("2026-11-22 15:04 +09:", ParseError::BadOffset { word: word("+09:") }),
        ("seq:", ParseError::BadSeq { word: word("") }),
        ("seq:-1", ParseError::BadSeq { word: word("-1") }),
        ("seq:+1", ParseError::BadSeq { word: word("+1") }),
        ("seq:18446744073709551616", ParseError::BadSeq { word: word("18446744073709551616") }),
        ("point:", ParseError::NoName),
        ("branch:  ", ParseError::NoName),
    ] {
        let error = When::parse(text).expect_err(text);
        assert_eq!(error, expected, "{text:?}");
        assert!(!error.hint().is_empty(), "{text:?}");
    }
}

#[test]
fn a_text_has_a_bound_and_so_has_its_canonical_form() {
    let label = |len: usize| format!("point:{}", "x".repeat(len));
    assert!(When::parse(&label(250)).is_ok());
    assert_eq!(When::parse(&label(251)), Err(ParseError::TooLong { len_bytes: 257 }));
    let nested = "last base before ".repeat(14) + "1d ago 1:00:01.5";
    assert_eq!(nested.len(), 254);
    assert_eq!(When::parse(&nested), Err(ParseError::TooLong { len_bytes: 258 }));
    assert!(matches!(parse_duration(&"9".repeat(300)), Err(ParseError::TooLong { .. })));
}

#[test]
fn an_error_does_not_pass_control_characters_on() {
    let error = When::parse("\u{1b}[2J").unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'));
}

#[test]
fn a_hold_is_one_number_and_one_unit() {
    for (text, canonical, seconds) in [
        ("30d", "30 days", 30 * 86_400),
        ("2 weeks", "2 weeks", 14 * 86_400),
        ("12h", "12 hours", 12 * 3_600),
        (" An HOUR ", "1 hour", 3_600),
        ("10m", "10 minutes", 600),
        ("1 month", "1 month", 30 * 86_400),
        ("4294967295 years", "4294967295 years", 4_294_967_295 * 365 * 86_400),
    ] {
        let span = parse_duration(text).unwrap();
        assert_eq!((span.to_string().as_str(), span.to_duration().as_secs()), (canonical, seconds));
        assert_eq!(canonical.parse(), Ok(span));
    }
    for (text, expected) in [
        ("", ParseError::Empty),
        ("30", ParseError::NoUnit),
        ("days", ParseError::NoNumber { word: "days".into() }),
        ("0d", ParseError::Zero),
        ("1h 30m", ParseError::Trailing { word: "30m".into() }),
        ("3 days ago", ParseError::Trailing { word: "ago".into() }),
        ("99999999999999999999d", ParseError::NumberTooLarge),
    ] {
        assert_eq!(parse_duration(text), Err(expected), "{text:?}");
    }
}

#[test]
fn a_package_event_is_matched_by_its_lists_or_else_by_its_label() {
    let asked = |text: &str| match parsed(text) {
        When::Last { what, .. } => what,
        other => panic!("{other}"),
    };
    let label = |label: &str| Event::new(Kind::Package, label);
    let listed = label("apt install nginx").with("update", vec!["libc6:amd64", "tzdata=2026a"]);
    for (text, event, expected) in [
        ("before install nginx", label("before apt install nginx 1.22"), true),
        ("before install nginx", label("apt-get: installing 'nginx=1.22'"), true),
        ("before install nginx=1.22", label("apt install nginx=1.22"), true),
        ("before install nginx=1.23", label("apt install nginx=1.22"), false),
        ("before install nginx", label("apt install nginx-core"), false),
        ("before install nginx", label("apt remove nginx"), false),
        ("before update", label("dnf upgrade"), true),
        ("before install", Event::new(Kind::Boot, "install"), false),
        ("before install nginx", listed.clone(), false),
        ("before update libc6", listed.clone(), true),
        ("before update tzdata", listed.clone(), true),
        ("before update", listed.clone(), true),
        ("before remove", listed, false),
    ] {
        assert_eq!(asked(text).matches(&event), expected, "{text:?} {event:?}");
    }
}
