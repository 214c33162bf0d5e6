use std::{
    io::Write,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use bygone_block::nbd::{Ending, Limits};

use crate::{
    EXPORT, Fixture,
    client::*,
    device::{Call, Gate, Mem},
    eventually,
    lifecycle::Diary,
    pattern,
};

const MIB: u64 = 1 << 20;

fn reads(device: &Mem) -> usize {
    device.calls().iter().filter(|call| matches!(call, Call::Read(..))).count()
}

/// Waits until the number of reads stops growing.
fn settled_reads(device: &Mem) -> usize {
    let mut last = usize::MAX;
    eventually("reading stops", || {
        thread::sleep(Duration::from_millis(150));
        let now = reads(device);
        std::mem::replace(&mut last, now) == now
    });
    last
}

#[test]
fn a_client_that_does_not_read_holds_a_bounded_amount_and_nobody_up() {
    for cold in [false, true] {
        let device = Mem::new(64 * MIB);
        device.preset(&pattern(5, 64 << 20));
        device.cold.store(cold, Ordering::SeqCst);
        let limits = Limits { connection_budget_bytes: 8 << 20, budget_bytes: 16 << 20, ..Limits::default() };
        let fixture = Fixture::limited(&device, limits);
        // More of them than fit into the budget.
        let mut lazy: Vec<Client> = (0..4).map(|_| fixture.client()).collect();
        for client in &mut lazy {
            let burst: Vec<u8> = (0..64).flat_map(|one| request(READ, 0, one, one * MIB, 1 << 20)).collect();
            client.send(&burst);
        }
        let read = settled_reads(&device);
        // Budget, and for each connection two pieces of its own and the kernel's buffer.
        assert!(read <= 16 + 4 * 5, "{read} MiB were read for clients that take nothing");
        let mut busy = fixture.client();
        for round in 0..50 {
            assert!(busy.read(round * MIB, 4096) == device.bytes(round * MIB, 4096));
            assert_eq!(busy.write(63 * MIB, &[1; 4096]), 0);
        }
        assert!(busy.read(0, 4 << 20) == device.bytes(0, 4 << 20));
        busy.flush();
        for client in &mut lazy {
            let mut cookies: Vec<u64> = (0..64)
                .map(|_| {
                    let (cookie, outcome) = client.any_outcome().unwrap();
                    let wanted = device.bytes(cookie * MIB, 1 << 20);
                    assert!(cookie == 63 || outcome.data == [(cookie * MIB, wanted)]);
                    cookie
                })
                .collect();
            cookies.sort_unstable();
            assert_eq!(cookies, (0..64).collect::<Vec<_>>(), "all of it comes in the end");
        }
    }
}

#[test]
fn a_client_that_never_reads_is_disconnected_in_the_end() {
    for cold in [false, true] {
        let device = Mem::new(64 * MIB);
        device.cold.store(cold, Ordering::SeqCst);
        let limits = Limits { send_stall: Duration::from_millis(300), ..Limits::default() };
        let diary = Arc::new(Diary::default());
        let fixture =
            Fixture::with(vec![(EXPORT.to_owned(), Arc::clone(&device))], limits, Some(diary.clone()));
        let mut lazy = fixture.client();
        lazy.send(&request(READ, 0, 1, 0, 1 << 20).repeat(64));
        eventually("it is gone", || diary.endings() == [Ending::Stalled]);
    }
}

#[test]
fn a_slow_client_is_served_at_its_own_pace() {
    let device = Mem::new(8 * MIB);
    device.preset(&pattern(6, 8 << 20));
    let limits = Limits { send_stall: Duration::from_millis(500), ..Limits::default() };
    let fixture = Fixture::limited(&device, limits);
    let mut client = fixture.client();
    client.send(&request(READ, DF, 1, 0, 8 << 20));
    let mut got = Vec::new();
    while got.len() < (8 << 20) + 48 {
        let more = (256 << 10).min((8 << 20) + 48 - got.len());
        got.extend(client.bytes(more).unwrap());
        thread::sleep(Duration::from_millis(40));
    }
    assert!(got[28..28 + (8 << 20)] == pattern(6, 8 << 20));
}

#[test]
fn a_flood_of_flushes_waits_in_line() {
    let device = Mem::new(MIB);
    let fixture = Fixture::new(&device);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    let mut client = fixture.client();
    let mut sender = client.stream.try_clone().unwrap();
    let flood = thread::spawn(move || {
        for part in 0..20_u64 {
            let burst: Vec<u8> =
                (0..1000).flat_map(|one| request(FLUSH, 0, part * 1000 + one, 0, 0)).collect();
            sender.write_all(&burst).unwrap();
        }
    });
    eventually("the first flush is under way", || gate.waiting.load(Ordering::SeqCst) == 1);
    assert_eq!(fixture.client().read(0, 512), [0; 512], "another client is served");
    gate.open();
    let mut cookies: Vec<u64> = (0..20_000).map(|_| client.any_outcome().unwrap().0).collect();
    flood.join().unwrap();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..20_000).collect::<Vec<_>>());
    assert!(device.flushes() < 2000, "{} flushes of the device", device.flushes());
}
