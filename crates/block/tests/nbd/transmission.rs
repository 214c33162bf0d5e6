use std::{
    io::{self, Write},
    sync::{Arc, Barrier, atomic::Ordering},
    thread,
};

use bygone_block::{Geometry, IoError};

use crate::{
    EXPORT, Fixture,
    client::*,
    device::{Call, Gate, Mem},
    eventually, pattern,
};

const MIB: usize = 1 << 20;

fn shaped(block_bytes: u32, read_only: bool, can_trim: bool) -> Arc<Mem> {
    Mem::shaped(Geometry { size_bytes: 1 << 20, block_bytes, read_only, can_trim })
}

#[test]
fn what_is_written_is_read_back_with_both_kinds_of_replies() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    for (round, mut client) in [fixture.client(), fixture.simple_client()].into_iter().enumerate() {
        for (offset, len) in [(0, 512), (512, 4096), (65536, 512 * 7), (0, 1 << 20), ((1 << 20) - 512, 512)] {
            let data = pattern(offset + round as u64, len);
            assert_eq!(client.write(offset, &data), 0);
            assert!(client.read(offset, u32::try_from(len).unwrap()) == data);
            assert!(device.bytes(offset, len) == data);
        }
    }
}

#[test]
fn large_requests_go_through_in_pieces() {
    let device = Mem::new(40 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let mut simple = fixture.simple_client();
    for len in [MIB + 512, 3 * MIB, 32 * MIB] {
        let data = pattern(len as u64, len);
        assert_eq!(client.write(4096, &data), 0);
        assert!(device.bytes(4096, len) == data);
        let len32 = u32::try_from(len).unwrap();
        assert!(client.read(4096, len32) == data);
        assert!(simple.read(4096, len32) == data);
        let whole = client.ask(READ, DF, 4096, len32);
        assert!(whole.error == 0 && whole.data == [(4096, data)], "one chunk with DF");
    }
    device.cold.store(true, Ordering::SeqCst);
    assert!(client.read(4096, 32 << 20) == device.bytes(4096, 32 * MIB));
    assert!(simple.read(4096, 32 << 20) == device.bytes(4096, 32 * MIB));
    assert_eq!(client.ask(READ, 0, 0, (32 << 20) + 512).error, EOVERFLOW);
    assert_eq!(simple.ask(READ, 0, 0, (32 << 20) + 512).error, EINVAL);
    client.flush();
    simple.flush();
}

#[test]
fn a_write_that_is_too_large_is_refused_and_ends_the_connection() {
    let fixture = Fixture::new(&Mem::new(64 << 20));
    let mut other = fixture.client();
    for len in [(32 << 20) + 512, u32::MAX] {
        let mut client = fixture.client();
        client.send(&request(WRITE, 0, 5, 0, len));
        client.send(&vec![1; 4 * MIB]);
        assert_eq!(client.outcome(5).error, EINVAL);
        client.assert_closed();
    }
    other.flush();
}

#[test]
fn requests_beyond_the_end_or_not_aligned_are_refused() {
    for block in [512_u32, 4096] {
        let device = shaped(block, false, true);
        let fixture = Fixture::new(&device);
        for mut client in [fixture.client(), fixture.simple_client()] {
            let end = 1_u64 << 20;
            for (offset, len) in [
                (end, block),
                (end - 512, 8192),
                (u64::MAX - 511, 512),
                (u64::MAX, u32::MAX),
                (0, (1 << 20) + 4096),
            ] {
                assert_eq!(client.ask(READ, 0, offset, len).error, EINVAL);
                assert_eq!(client.ask(TRIM, 0, offset, len).error, EINVAL);
                assert_eq!(client.ask(CACHE, 0, offset, len).error, EINVAL);
                assert_eq!(client.ask(STATUS, 0, offset, len).error, EINVAL);
                assert_eq!(client.ask(ZEROES, 0, offset, len).error, ENOSPC);
            }
            assert_eq!(client.write(end, &[1; 4096]), ENOSPC);
            assert_eq!(client.write(end - 4096, &[1; 8192]), ENOSPC);
            let half = block / 2;
            for (offset, len) in [(1, block), (0, block - 1), (u64::from(half), block), (0, half)] {
                assert_eq!(client.ask(READ, 0, offset, len).error, EINVAL);
                assert_eq!(client.ask(ZEROES, 0, offset, len).error, EINVAL);
                assert_eq!(client.write(offset, &vec![1; len as usize]), EINVAL);
            }
            assert_eq!(client.write(u64::from(block), &vec![1; block as usize]), 0);
        }
        let written = u64::from(block);
        let only = vec![Call::Write(vec![(written, written, 'd')]); 2];
        assert_eq!(device.calls(), only, "nothing that was refused reached the device");
    }
}

#[test]
fn a_read_only_export_refuses_every_kind_of_write() {
    let device = shaped(512, true, true);
    let fixture = Fixture::new(&device);
    for mut client in [fixture.client(), fixture.simple_client()] {
        assert_eq!(client.write(0, &[1; 65536]), EPERM);
        assert_eq!(client.ask(TRIM, 0, 0, 512).error, EPERM);
        assert_eq!(client.ask(ZEROES, 0, 0, 512).error, EPERM);
        client.flush();
        assert_eq!(client.read(0, 512), [0; 512]);
    }
}

#[test]
fn unknown_requests_and_flags_are_refused_and_their_payload_is_skipped() {
    let fixture = Fixture::new(&Mem::new(1 << 20));
    let mut client = fixture.client();
    for kind in [8, 9, 0x100, u16::MAX] {
        assert_eq!(client.ask(kind, 0, 0, 512).error, EINVAL);
    }
    for (kind, flags) in [(READ, REQ_ONE), (READ, 32), (WRITE, DF), (FLUSH, NO_HOLE), (TRIM, NO_HOLE)] {
        let payload = if kind == WRITE { 512 } else { 0 };
        client.send(&[request(kind, flags, 1, 0, 512), vec![9; payload]].concat());
        assert_eq!(client.outcome(1).error, EINVAL, "kind {kind} flags {flags}");
    }
    assert_eq!(client.ask(FLUSH, 0, 0, 512).error, EINVAL);
    assert_eq!(client.ask(FLUSH, 0, 512, 0).error, EINVAL);
    // A payload that looks like requests, longer than the receive buffer.
    let trap = request(WRITE, 0, 666, 0, 512).repeat(100_000);
    let outcome = client.write(1 << 20, &trap[..trap.len() / 512 * 512]);
    assert_eq!(outcome, ENOSPC);
    // Known flags that mean nothing for a request are ignored.
    assert_eq!(client.ask(READ, FUA, 0, 512).error, 0);
    assert_eq!(client.ask(FLUSH, FUA, 0, 0).error, 0);
    assert_eq!(fixture.simple_client().ask(READ, DF, 0, 512).error, EINVAL);
}

#[test]
fn requests_of_nothing_do_no_harm() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    for mut client in [fixture.client(), fixture.simple_client()] {
        assert_eq!(client.read(0, 0), [0; 0]);
        assert_eq!(client.read(1 << 20, 0), [0; 0]);
        for kind in [WRITE, TRIM, ZEROES, CACHE] {
            assert_eq!(client.ask(kind, 0, 512, 0).error, 0);
        }
        assert_eq!(client.ask(WRITE, FUA, 512, 0).error, 0);
        assert_eq!(client.ask(STATUS, 0, 512, 0).error, EINVAL);
    }
    assert_eq!(device.calls(), [Call::Flush, Call::Flush]);
}

#[test]
fn writes_that_follow_one_another_are_one_call_in_their_order() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let mut burst = write_request(0, 1, 0, &[1; 1024]);
    burst.extend(request(TRIM, 0, 2, 4096, 4096));
    burst.extend(write_request(0, 3, 512, &[3; 512]));
    burst.extend(request(ZEROES, NO_HOLE, 4, 0, 512));
    burst.extend(write_request(0, 5, 1 << 20, &[9; 512]));
    burst.extend(request(ZEROES, FAST_ZERO, 6, 8192, 512));
    burst.extend(request(READ, 0, 7, 0, 1024));
    burst.extend(write_request(0, 8, 0, &[8; 512]));
    client.send(&burst);
    let mut outcomes: Vec<_> = (0..8).map(|_| client.any_outcome().unwrap()).collect();
    outcomes.sort_by_key(|(cookie, _)| *cookie);
    let errors: Vec<u32> = outcomes.iter().map(|(_, outcome)| outcome.error).collect();
    assert_eq!(errors, [0, 0, 0, 0, ENOSPC, 0, 0, 0]);
    assert_eq!(outcomes[6].1.data, [(0, [[0; 512], [3; 512]].concat())]);
    let first = vec![(0, 1024, 'd'), (4096, 4096, 't'), (512, 512, 'd'), (0, 512, 'z'), (8192, 512, 't')];
    let expected = [Call::Write(first), Call::Read(0, 1024), Call::Write(vec![(0, 512, 'd')])];
    assert_eq!(device.calls(), expected);
}

#[test]
fn zeroes_keep_their_space_where_they_must() {
    for (can_trim, kinds) in [(true, ['z', 't']), (false, ['z', 'z'])] {
        let device = shaped(512, false, can_trim);
        let fixture = Fixture::new(&device);
        let mut client = fixture.client();
        assert_eq!(client.ask(ZEROES, NO_HOLE, 0, 512).error, 0);
        assert_eq!(client.ask(ZEROES, 0, 512, 512).error, 0);
        assert_eq!(client.ask(TRIM, 0, 512, 512).error, if can_trim { 0 } else { EINVAL });
        let mut said: Vec<Call> = [0, 1]
            .map(|one| Call::Write(vec![(512 * one, 512, kinds[usize::try_from(one).unwrap()])]))
            .to_vec();
        if can_trim {
            said.push(Call::Write(vec![(512, 512, 't')]));
        }
        assert_eq!(device.calls(), said);
    }
}

#[test]
fn cache_asks_the_device_to_prefetch() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    assert_eq!(fixture.client().ask(CACHE, 0, 4096, 65536).error, 0);
    assert_eq!(device.calls(), [Call::Prefetch(4096, 65536)]);
}

/// Pieces that the device was asked to prefetch.
fn prefetched(device: &Mem) -> Vec<u64> {
    let len = |call: &Call| if let Call::Prefetch(_, len) = call { Some(*len) } else { None };
    device.calls().iter().filter_map(len).collect()
}

#[test]
fn cache_is_done_in_pieces_and_only_up_to_a_bound() {
    let device = Mem::new(256 << 20);
    let fixture = Fixture::new(&device);
    assert_eq!(fixture.client().ask(CACHE, 0, 0, 256 << 20).error, 0);
    let pieces = prefetched(&device);
    assert!(pieces.iter().all(|len| *len <= 4 << 20), "{pieces:?}");
    assert_eq!(pieces.iter().sum::<u64>(), 64 << 20);
}

#[test]
fn cache_ends_with_its_client_and_holds_nobody_up() {
    let device = Mem::new(256 << 20);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_prefetch, move |_| {
        held.pass();
        Ok(())
    });
    let limits = bygone_block::nbd::Limits { readers_max: 2, ..bygone_block::nbd::Limits::default() };
    let fixture = Fixture::limited(&device, limits);
    let mut client = fixture.client();
    // Many at once cost the work of one, and other requests go on.
    let many: Vec<u8> = (0..100).flat_map(|one| request(CACHE, 0, one, 0, 256 << 20)).collect();
    client.send(&many);
    for _ in 1..100 {
        assert_eq!(client.any_outcome().unwrap().1.error, 0);
    }
    client.send(&request(READ, 0, 1000, 0, 512));
    assert_eq!(client.any_outcome().unwrap().0, 1000);
    eventually("the one piece has begun", || prefetched(&device).len() == 1);
    drop(client);
    gate.open();
    eventually("the client is gone", || fixture.server.connections().serving == 0);
    assert_eq!(prefetched(&device).len(), 1, "nothing more is done for it");
}

#[test]
fn fua_is_answered_when_it_is_durable_and_not_before() {
    let device = Mem::new(64 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    let data = pattern(1, 512);
    client.send(&write_request(FUA, 1, 0, &data));
    client.send(&request(ZEROES, FUA, 2, 4096, 512));
    client.send(&write_request(FUA, 3, 8192, &pattern(3, 2 * MIB)));
    client.send(&request(READ, 0, 4, 0, 512));
    let (cookie, outcome) = client.any_outcome().unwrap();
    assert_eq!((cookie, outcome.data), (4, vec![(0, data.clone())]), "only the read is answered");
    assert_eq!(device.durable(0, 512), [0; 512]);
    gate.open();
    let mut cookies: Vec<u64> = (0..3).map(|_| client.any_outcome().unwrap().0).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [1, 2, 3]);
    assert_eq!(device.durable(0, 512), data);
    assert!(device.durable(8192, 2 * MIB) == pattern(3, 2 * MIB));
}

#[test]
fn flushes_that_wait_share_one_flush_of_the_device_and_hold_nobody_up() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    client.send(&request(FLUSH, 0, 1, 0, 0));
    eventually("the first flush is under way", || gate.waiting.load(Ordering::SeqCst) == 1);
    for cookie in 2..50 {
        client.send(&request(FLUSH, 0, cookie, 0, 0));
    }
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.read(0, 512), [1; 512]);
    assert_eq!(fixture.client().read(0, 512), [1; 512]);
    gate.open();
    let mut cookies: Vec<u64> = (1..50).map(|_| client.any_outcome().unwrap().0).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (1..50).collect::<Vec<_>>());
    assert_eq!(device.flushes(), 2);
}

#[test]
fn a_flush_covers_what_was_acknowledged_on_any_connection() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let mut writers: Vec<Client> = (0..4).map(|_| fixture.client()).collect();
    let mut flusher = fixture.simple_client();
    for round in 0..200_u64 {
        let data = pattern(round, 512);
        let offset = round * 512;
        let writer = &mut writers[usize::try_from(round % 4).unwrap()];
        assert_eq!(writer.write(offset, &data), 0);
        flusher.flush();
        assert_eq!(device.durable(offset, 512), data, "round {round}");
    }
}

#[test]
fn block_status_reports_runs_of_what_is_alike() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    client.write(4096, &[1; 8192]);
    client.ask(ZEROES, NO_HOLE, 12288, 4096);
    let (data, zero, hole) = (0, 2, 3);
    let rest = (1 << 20) - 16384;
    let all = vec![(4096, hole), (8192, data), (4096, zero), (rest, hole)];
    assert_eq!(client.ask(STATUS, 0, 0, 1 << 20).extents, all);
    assert_eq!(client.ask(STATUS, REQ_ONE, 0, 1 << 20).extents, [(4096, hole)]);
    assert_eq!(client.ask(STATUS, 0, 8192, 4096).extents, [(4096, data)]);
    assert_eq!(client.ask(STATUS, 0, 8192, 8192).extents, [(4096, data), (4096, zero)]);
}

#[test]
fn block_status_is_cut_short_when_there_are_too_many_extents() {
    let device = Mem::new(16 << 20);
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    for at in (0..16_u64 << 20).step_by(1024) {
        client.send(&write_request(0, at, at, &[1; 512]));
        assert_eq!(client.outcome(at).error, 0);
    }
    let extents = client.ask(STATUS, 0, 0, 16 << 20).extents;
    assert_eq!(extents.len(), 4096);
    assert!(extents.iter().all(|(len, _)| *len == 512));
}

#[test]
fn errors_of_the_device_are_told_in_the_protocols_words() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let store = || IoError::Store(Arc::new(io::Error::other("the log is poisoned")));
    type Make = fn() -> IoError;
    let cases: [(u64, u32, Make); 5] = [
        (0, EPERM, || IoError::ReadOnly),
        (512, EINVAL, || IoError::Invalid { offset: 1, len_bytes: 2 }),
        (1024, ENOSPC, || IoError::Full),
        (1536, ENOSPC, || IoError::Medium(io::ErrorKind::StorageFull.into())),
        (2048, EIO, || IoError::Medium(io::ErrorKind::UnexpectedEof.into())),
    ];
    let fails = move |offset: u64| match cases.iter().find(|(at, ..)| *at == offset) {
        Some((.., make)) => Err(make()),
        None if offset == 4096 => Err(store()),
        None => Ok(()),
    };
    Mem::hook(&device.on_write, fails);
    Mem::hook(&device.on_read, move |(offset, _)| fails(offset));
    let mut client = fixture.client();
    let mut simple = fixture.simple_client();
    for (at, errno, make) in cases {
        for _ in 0..2 {
            assert_eq!(client.write(at, &[1; 512]), errno);
            assert_eq!(simple.write(at, &[1; 512]), errno);
            assert_eq!(simple.ask(READ, 0, at, 512).error, errno);
            let outcome = client.ask(READ, 0, at, 512);
            assert_eq!((outcome.error, outcome.message), (errno, make().to_string()));
            assert_eq!(client.ask(STATUS, 0, at, 512).error, errno);
        }
    }
    let outcome = client.ask(TRIM, 0, 4096, 512);
    assert_eq!((outcome.error, &*outcome.message), (EIO, "the log is poisoned"));
    assert_eq!(client.write(8192, &[1; 512]), 0);
    Mem::hook(&device.on_flush, |()| Err(IoError::Medium(io::Error::other("gone"))));
    assert_eq!(client.ask(FLUSH, 0, 0, 0).error, EIO);
    assert_eq!(simple.write_flagged(FUA, 8192, &[1; 512]), EIO);
}

#[test]
fn of_a_batch_only_the_write_that_fails_is_answered_with_the_error() {
    let device = Mem::new(1 << 20);
    Mem::hook(&device.on_write, |offset| if offset == 1024 { Err(IoError::Full) } else { Ok(()) });
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let burst: Vec<u8> =
        (0..5).flat_map(|one| write_request(0, one, one * 512, &pattern(one, 512))).collect();
    client.send(&burst);
    for cookie in 0..5 {
        let expected = if cookie == 2 { ENOSPC } else { 0 };
        assert_eq!(client.outcome(cookie).error, expected);
        let data = if cookie == 2 { vec![0; 512] } else { pattern(cookie, 512) };
        assert_eq!(device.bytes(cookie * 512, 512), data);
    }
}

#[test]
fn a_large_write_that_fails_in_the_middle_is_answered_once_and_the_stream_goes_on() {
    let device = Mem::new(16 << 20);
    Mem::hook(&device.on_write, |offset| if offset == 2 << 20 { Err(IoError::Full) } else { Ok(()) });
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    assert_eq!(client.write(0, &pattern(1, 5 * MIB)), ENOSPC);
    client.flush();
}

#[test]
fn a_large_read_says_which_part_failed() {
    for cold in [false, true] {
        let device = Mem::new(8 << 20);
        device.preset(&pattern(1, 8 * MIB));
        device.cold.store(cold, Ordering::SeqCst);
        Mem::hook(&device.on_read, |(offset, _)| {
            if (2 << 20..3 << 20).contains(&offset) {
                Err(IoError::Medium(io::Error::other("bad")))
            } else {
                Ok(())
            }
        });
        let fixture = Fixture::new(&device);
        let mut client = fixture.client();
        let outcome = client.ask(READ, 0, 0, 4 << 20);
        assert_eq!((outcome.error, outcome.failed_at), (EIO, vec![2 << 20]));
        let mut good: Vec<u64> = outcome.data.iter().map(|(offset, _)| *offset).collect();
        good.sort_unstable();
        assert_eq!(good, [0, 1 << 20, 3 << 20]);
        let whole = client.ask(READ, DF, 0, 4 << 20);
        let padded = [pattern(1, 2 * MIB), vec![0; 2 * MIB]].concat();
        assert!(whole.error == EIO && whole.data == [(0, padded)], "padded with zeroes");
        assert_eq!(client.ask(READ, DF, 2 << 20, 2 << 20).data, []);
        client.flush();
        // A simple reply cannot report an error once its data began; nothing follows what was read.
        let mut simple = fixture.simple_client();
        simple.send(&request(READ, 0, 1, 0, 4 << 20));
        assert_eq!(simple.reply().unwrap(), Reply::Simple { error: 0, cookie: 1 });
        assert!(simple.bytes(2 * MIB).unwrap() == pattern(1, 2 * MIB));
        simple.assert_closed();
        let mut simple = fixture.simple_client();
        assert_eq!(simple.ask(READ, 0, 2 << 20, 2 << 20).error, EIO);
        simple.flush();
    }
}

#[test]
fn a_closing_device_ends_the_connection_without_an_answer() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    Mem::hook(&device.on_write, |_| Err(IoError::Closing));
    Mem::hook(&device.on_flush, |()| Err(IoError::Closing));
    let mut client = fixture.client();
    client.send(&[request(READ, 0, 1, 0, 512), write_request(0, 2, 0, &[1; 512])].concat());
    assert_eq!(client.outcome(1).error, 0);
    client.assert_closed();
    let mut client = fixture.client();
    client.send(&request(FLUSH, 0, 1, 0, 0));
    client.assert_closed();
    device.cold.store(true, Ordering::SeqCst);
    Mem::hook(&device.on_read, |_| Err(IoError::Closing));
    let mut client = fixture.client();
    client.send(&request(READ, 0, 1, 0, 512));
    client.assert_closed();
}

#[test]
fn a_large_read_is_never_called_done_when_a_part_could_not_be_had() {
    for cold in [false, true] {
        let device = Mem::new(16 << 20);
        device.cold.store(cold, Ordering::SeqCst);
        Mem::hook(
            &device.on_read,
            |(offset, _)| if offset == 3 << 20 { Err(IoError::Closing) } else { Ok(()) },
        );
        let fixture = Fixture::new(&device);
        for flags in [0, DF] {
            let mut client = fixture.client();
            client.send(&request(READ, flags, 1, 0, 8 << 20));
            assert!(client.any_outcome().is_err(), "it was called done");
        }
    }
}

#[test]
fn cold_reads_run_at_the_same_time_and_memory_overtakes_them() {
    let device = Mem::new(1 << 20);
    device.preset(&pattern(1, 1 << 20));
    device.cold.store(true, Ordering::SeqCst);
    let together = Arc::new(Barrier::new(16));
    Mem::hook(&device.on_read, move |(_, len)| {
        if len == 4096 {
            together.wait();
        }
        Ok(())
    });
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    let burst: Vec<u8> = (0..16).flat_map(|one| request(READ, 0, one, one * 4096, 4096)).collect();
    client.send(&burst);
    for _ in 0..16 {
        let (cookie, outcome) = client.any_outcome().unwrap();
        assert_eq!(outcome.data, [(cookie * 4096, device.bytes(cookie * 4096, 4096))]);
    }
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_read, move |(offset, _)| {
        if offset == 0 {
            held.pass();
        }
        Ok(())
    });
    client.send(&request(READ, 0, 100, 0, 512));
    eventually("the cold read is under way", || gate.waiting.load(Ordering::SeqCst) == 1);
    device.cold.store(false, Ordering::SeqCst);
    assert_eq!(client.read(512, 512), device.bytes(512, 512));
    gate.open();
    assert_eq!(client.outcome(100).data, [(0, device.bytes(0, 512))]);
}

#[test]
fn without_a_budget_reads_are_slower_and_no_less_right() {
    let device = Mem::new(8 << 20);
    device.preset(&pattern(2, 8 * MIB));
    device.cold.store(true, Ordering::SeqCst);
    for (budget_bytes, connection_budget_bytes, readers_max) in
        [(0, 1 << 20, 16), (1 << 30, 8192, 1), (1 << 30, 1 << 30, 0)]
    {
        let limits = bygone_block::nbd::Limits {
            budget_bytes,
            connection_budget_bytes,
            readers_max,
            ..Default::default()
        };
        let fixture = Fixture::limited(&device, limits);
        let mut client = fixture.client();
        let burst: Vec<u8> = (0..64).flat_map(|one| request(READ, 0, one, one * 4096, 4096)).collect();
        client.send(&burst);
        for _ in 0..64 {
            let (cookie, outcome) = client.any_outcome().unwrap();
            assert_eq!(outcome.data, [(cookie * 4096, device.bytes(cookie * 4096, 4096))]);
        }
        assert!(client.read(0, 8 << 20) == device.bytes(0, 8 * MIB));
        assert_eq!(client.ask(STATUS, 0, 0, 8 << 20).extents, [(8 << 20, 0)]);
    }
}

#[test]
fn a_device_that_panics_ends_its_connection_and_no_other() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::new(&device);
    let mut other = fixture.client();
    let bad = |offset: u64| if offset == 0 { panic!("this panic is meant") } else { Ok(()) };
    Mem::hook(&device.on_write, bad);
    Mem::hook(&device.on_read, move |(offset, _)| bad(offset));
    for cold in [false, true] {
        device.cold.store(cold, Ordering::SeqCst);
        for kind in [READ, ZEROES, STATUS] {
            let mut client = fixture.client();
            client.send(&request(kind, 0, 1, 0, 512));
            client.assert_closed();
        }
    }
    Mem::hook(&device.on_flush, |()| panic!("this panic is meant"));
    let mut client = fixture.client();
    let _closed_early = client.stream.write_all(&request(FLUSH, 0, 1, 0, 0).repeat(10_000));
    client.assert_closed();
    assert_eq!(other.read(512, 512), [0; 512]);
    eventually("all places are free", || fixture.server.connections().serving == 1);
}

#[test]
fn many_clients_at_once_read_what_they_wrote() {
    let device = Mem::new(8 << 20);
    let fixture = Fixture::new(&device);
    thread::scope(|scope| {
        for one in 0..8_u64 {
            let mut client = if one % 2 == 0 { fixture.client() } else { fixture.simple_client() };
            let device = &device;
            scope.spawn(move || {
                for round in 0..100 {
                    let offset = (one << 20) + (round * 4096) % (1 << 20);
                    let data = pattern(one * 1000 + round, 4096);
                    assert_eq!(client.write_flagged(u16::from(round % 10 == 0), offset, &data), 0);
                    device.cold.store(round % 3 == 0, Ordering::SeqCst);
                    assert!(client.read(offset, 4096) == data, "client {one} round {round}");
                }
            });
        }
    });
    assert_eq!(EXPORT, "web/root");
}
