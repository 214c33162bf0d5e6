use std::{thread, time::Duration};

use bygone_block::{Geometry, nbd::Limits};

use crate::{EXPORT, Fixture, client::*, device::Mem, eventually};

fn fixture() -> Fixture {
    Fixture::new(&Mem::new(1 << 20))
}

#[test]
fn greeting_offers_fixed_newstyle_and_no_zeroes() {
    assert_eq!(Client::connect(&fixture().path()).handshake_flags, 3);
}

#[test]
fn list_names_every_export_with_its_description() {
    let table = vec![("a/root".to_owned(), Mem::new(512)), ("b/ä#main".to_owned(), Mem::new(512))];
    let fixture = Fixture::with(table, Limits::default(), None);
    let answers = Client::connect(&fixture.path()).option(OPT_LIST, b"");
    let line = |name: &str| [text(name), format!("about {name}").into_bytes()].concat();
    let expected = [(REP_SERVER, line("a/root")), (REP_SERVER, line("b/ä#main")), (REP_ACK, Vec::new())];
    assert_eq!(answers, expected);
}

#[test]
fn info_tells_size_flags_and_blocks_and_go_tells_the_same() {
    for (block_bytes, read_only, can_trim, structured, flags) in [
        (512, false, true, false, 0b1101_0110_1101),
        (512, false, true, true, 0b1101_1110_1101),
        (4096, false, false, false, 0b1101_0100_1101),
        (4096, true, true, true, 0b0101_1000_1111),
    ] {
        let device = Mem::shaped(Geometry { size_bytes: 1 << 20, block_bytes, read_only, can_trim });
        let fixture = Fixture::new(&device);
        let mut client = Client::connect(&fixture.path());
        if structured {
            client.structured();
        }
        let said = client.option(OPT_INFO, &info_data(EXPORT, &[3, 1, 2, 999, 3]));
        let export = [&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &u16::to_be_bytes(flags)].concat();
        let blocks = [&[0, 3][..], &u32::to_be_bytes(block_bytes), &[0, 0, 0x10, 0, 2, 0, 0, 0]].concat();
        let name = [b"\0\x01".as_slice(), EXPORT.as_bytes()].concat();
        let about = [b"\0\x02about ".as_slice(), EXPORT.as_bytes()].concat();
        let all = [export, name, about, blocks].map(|data| (REP_INFO, data)).to_vec();
        assert_eq!(said, [all, vec![(REP_ACK, Vec::new())]].concat());
        assert_eq!(client.option(OPT_GO, &info_data(EXPORT, &[3, 1, 2, 999, 3])), said);
    }
}

#[test]
fn an_export_that_cannot_be_had_is_refused_in_words_and_haggling_goes_on() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    for (name, error, text) in [
        ("nobody", ERR_UNKNOWN, "there is no such export; bygone target list shows them"),
        ("refused", ERR_POLICY, "not while it is promoted"),
        ("closing", ERR_SHUTDOWN, "the server is shutting down; connect again later"),
        ("failing", ERR_UNKNOWN, "the index is damaged"),
    ] {
        for kind in [OPT_INFO, OPT_GO] {
            assert_eq!(client.only_answer(kind, &info_data(name, &[])), (error, text.to_owned()));
        }
    }
    assert_eq!(client.go(EXPORT).unwrap().0, 1 << 20);
}

#[test]
fn export_name_enters_transmission_with_or_without_zeroes() {
    let fixture = fixture();
    for (flags, zeroes) in [(3_u32, 0), (1, 124), (0, 124)] {
        let mut client = Client::silent(&fixture.path());
        client.greeting();
        client.send(&flags.to_be_bytes());
        client.send(&option(OPT_EXPORT_NAME, EXPORT.as_bytes()));
        let answer = client.bytes(10 + zeroes).unwrap();
        assert_eq!(answer[..8], (1_u64 << 20).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.write(0, &[7; 512]), 0);
        assert_eq!(client.read(0, 512), [7; 512]);
    }
}

#[test]
fn export_name_that_cannot_be_had_closes() {
    let fixture = fixture();
    for name in ["nobody", "refused", &"x".repeat(5000), &"x".repeat(70_000)] {
        let mut client = Client::connect(&fixture.path());
        client.send(&option(OPT_EXPORT_NAME, name.as_bytes()));
        client.assert_closed();
    }
}

#[test]
fn unknown_and_unsupported_options_are_refused_and_haggling_goes_on() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    for kind in [0, 4, 5, 11, 12, 99, u32::MAX] {
        assert_eq!(client.only_answer(kind, b"").0, ERR_UNSUP, "option {kind}");
        assert_eq!(client.only_answer(kind, &[1; 1000]).0, ERR_UNSUP, "option {kind}");
    }
    assert!(client.go(EXPORT).is_ok());
}

#[test]
fn malformed_options_are_refused_and_haggling_goes_on() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    client.structured();
    assert_eq!(client.only_answer(OPT_LIST, b"x").0, ERR_INVALID);
    assert_eq!(client.only_answer(OPT_STRUCTURED, b"x").0, ERR_INVALID);
    let good = info_data(EXPORT, &[1]);
    let contexts = context_data(EXPORT, &["base:"]);
    for len in 0..good.len() {
        assert_eq!(client.only_answer(OPT_GO, &good[..len]).0, ERR_INVALID, "cut at {len}");
    }
    for len in 0..contexts.len() {
        assert_eq!(client.only_answer(OPT_SET_CONTEXTS, &contexts[..len]).0, ERR_INVALID, "cut at {len}");
    }
    assert_eq!(client.only_answer(OPT_INFO, &[good.clone(), vec![0]].concat()).0, ERR_INVALID);
    assert_eq!(client.only_answer(OPT_INFO, &info_data(&"x".repeat(4097), &[])).0, ERR_INVALID);
    assert_eq!(client.only_answer(OPT_INFO, b"\0\0\0\x02\xff\xfe\0\0").0, ERR_INVALID);
    let many = vec!["base:"; 65];
    assert_eq!(client.only_answer(OPT_LIST_CONTEXTS, &context_data(EXPORT, &many)).0, ERR_TOO_BIG);
    assert!(client.go(EXPORT).is_ok());
}

#[test]
fn an_option_that_is_too_long_is_refused_and_an_absurd_one_ends_it() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    assert_eq!(client.only_answer(OPT_LIST, &vec![0; 40_000]).0, ERR_TOO_BIG);
    assert_eq!(client.only_answer(OPT_GO, &vec![0; 1 << 20]).0, ERR_TOO_BIG);
    let header = [b"IHAVEOPT".as_slice(), &7_u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat();
    client.send(&header);
    assert_eq!(client.option_answers(OPT_GO)[0].0, ERR_TOO_BIG);
    client.assert_closed();
}

#[test]
fn contexts_are_listed_and_selected_as_the_protocol_says() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    assert_eq!(client.only_answer(OPT_LIST_CONTEXTS, &context_data(EXPORT, &[])).0, ERR_INVALID);
    assert_eq!(client.only_answer(OPT_SET_CONTEXTS, &context_data(EXPORT, &[])).0, ERR_INVALID);
    client.structured();
    let found = |id: u32| {
        let context = [&id.to_be_bytes()[..], b"base:allocation"].concat();
        vec![(REP_CONTEXT, context), (REP_ACK, Vec::new())]
    };
    let nothing = vec![(REP_ACK, Vec::new())];
    for (kind, queries, expected) in [
        (OPT_LIST_CONTEXTS, &[][..], found(0)),
        (OPT_LIST_CONTEXTS, &["base:"], found(0)),
        (OPT_LIST_CONTEXTS, &["x-y:z", "base:allocation", "base:"], found(0)),
        (OPT_LIST_CONTEXTS, &["base:else", "qemu:dirty-bitmap:b"], nothing.clone()),
        (OPT_SET_CONTEXTS, &[], nothing.clone()),
        (OPT_SET_CONTEXTS, &["base:"], nothing.clone()),
        (OPT_SET_CONTEXTS, &["nonsense"], nothing),
        (OPT_SET_CONTEXTS, &["base:allocation", "base:allocation"], found(1)),
    ] {
        assert_eq!(client.option(kind, &context_data(EXPORT, queries)), expected, "{kind} {queries:?}");
    }
}

#[test]
fn block_status_has_to_be_selected_for_this_export_last() {
    let table = vec![(EXPORT.to_owned(), Mem::new(4096)), ("other".to_owned(), Mem::new(4096))];
    let fixture = Fixture::with(table, Limits::default(), None);
    let all = ["base:allocation"];
    let last_selections: [&[(&str, &[&str])]; 4] =
        [&[], &[("other", &all)], &[(EXPORT, &all), (EXPORT, &[])], &[(EXPORT, &all), ("other", &all)]];
    for selections in last_selections {
        let mut client = Client::connect(&fixture.path());
        client.structured();
        for (name, queries) in selections {
            client.option(OPT_SET_CONTEXTS, &context_data(name, queries));
        }
        client.go(EXPORT).unwrap();
        assert_eq!(client.ask(STATUS, 0, 0, 4096).error, EINVAL, "{selections:?}");
    }
}

#[test]
fn abort_is_acknowledged_and_closes() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    assert_eq!(client.only_answer(OPT_ABORT, b"whatever"), (REP_ACK, String::new()));
    client.assert_closed();
}

#[test]
fn unknown_client_flags_close() {
    let fixture = fixture();
    for flags in [4_u32, 7, 0x8000_0001, u32::MAX] {
        let mut client = Client::silent(&fixture.path());
        client.greeting();
        client.send(&flags.to_be_bytes());
        client.assert_closed();
    }
}

#[test]
fn a_handshake_ends_at_its_deadline_however_busy_it_looks() {
    let limits = Limits { handshake: Duration::from_millis(400), ..Limits::default() };
    let fixture = Fixture::limited(&Mem::new(512), limits);
    let mut idle = Client::silent(&fixture.path());
    let mut slow = Client::silent(&fixture.path());
    for byte in option(OPT_LIST, b"").iter().cycle() {
        use std::io::Write;
        if slow.stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    idle.greeting();
    idle.assert_closed();
    eventually("both slots are free", || fixture.server.connections().greeting == 0);
}

#[test]
fn too_many_clients_are_refused_until_one_ends() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let fixture = Fixture::limited(&Mem::new(512), limits);
    let (one, mut two) = (fixture.client(), fixture.client());
    let mut third = Client::connect(&fixture.path());
    assert_eq!(third.go(EXPORT).unwrap_err().0, ERR_POLICY);
    let counts = fixture.server.connections();
    assert_eq!((counts.serving, counts.greeting, counts.accepted, counts.turned_away), (2, 1, 3, 1));
    let mut old = Client::connect(&fixture.path());
    old.send(&option(OPT_EXPORT_NAME, EXPORT.as_bytes()));
    old.assert_closed();
    drop(one);
    eventually("the first place is free", || fixture.server.connections().serving == 1);
    third.go(EXPORT).unwrap();
    third.flush();
    two.flush();
}

#[test]
fn haggling_without_end_is_ended() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.path());
    for _ in 0..4096 {
        client.option(99, b"");
    }
    client.send(&option(99, b""));
    client.assert_closed();
}
