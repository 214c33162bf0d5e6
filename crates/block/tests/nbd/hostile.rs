use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{EXPORT, Fixture, client::*, device::Mem, eventually, pattern};

/// A client that keeps working while others misbehave.
fn bystander(fixture: &Fixture, enough: &AtomicBool) {
    let mut client = fixture.client();
    // At least one round, however soon the others finish.
    for round in 0.. {
        let data = pattern(round, 4096);
        assert_eq!(client.write(512 << 10, &data), 0);
        assert!(client.read(512 << 10, 4096) == data);
        if enough.load(Ordering::SeqCst) {
            break;
        }
    }
}

/// Tells the bystander to stop.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `misbehave` next to a bystander; afterwards nobody else is connected.
fn beside_a_bystander(misbehave: impl FnOnce(&Fixture)) {
    beside_a_bystander_with(1 << 20, misbehave);
}

fn beside_a_bystander_with(size_bytes: u64, misbehave: impl FnOnce(&Fixture)) {
    let fixture = Fixture::new(&Mem::new(size_bytes));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| bystander(&fixture, &enough));
        let _also_when_this_panics = Enough(&enough);
        misbehave(&fixture);
        eventually("only the bystander is left", || {
            let counts = fixture.server.connections();
            counts.greeting == 0 && counts.serving == 1
        });
        enough.store(true, Ordering::SeqCst);
        working.join().unwrap();
    });
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Sends, reads whatever comes, and leaves.
fn throw(fixture: &Fixture, behind_handshake: bool, bytes: &[u8]) {
    let mut client = if behind_handshake { fixture.client() } else { Client::silent(&fixture.path()) };
    client.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let _closed_early = client.stream.write_all(bytes);
    let _closed_early = client.stream.shutdown(std::net::Shutdown::Write);
    let mut rest = Vec::new();
    let _whatever = client.stream.read_to_end(&mut rest);
}

fn good_session() -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(option(OPT_STRUCTURED, b""));
    bytes.extend(option(OPT_LIST, b""));
    bytes.extend(option(OPT_SET_CONTEXTS, &context_data(EXPORT, &["base:allocation"])));
    bytes.extend(option(OPT_INFO, &info_data(EXPORT, &[1, 2, 3])));
    bytes.extend(option(OPT_GO, &info_data(EXPORT, &[3])));
    bytes
}

fn good_requests() -> Vec<u8> {
    let mut bytes = write_request(0, 1, 0, &[1; 512]);
    bytes.extend(request(READ, 0, 2, 0, 4096));
    bytes.extend(request(ZEROES, NO_HOLE, 3, 4096, 512));
    bytes.extend(request(TRIM, FUA, 4, 8192, 512));
    bytes.extend(request(STATUS, REQ_ONE, 5, 0, 65536));
    bytes.extend(request(CACHE, 0, 6, 0, 65536));
    bytes.extend(request(FLUSH, 0, 7, 0, 0));
    bytes.extend(write_request(FUA, 8, 512, &[1; 1024]));
    bytes.extend(request(DISC, 0, 9, 0, 0));
    bytes
}

#[test]
fn a_session_may_break_off_anywhere() {
    beside_a_bystander(|fixture| {
        let session = good_session();
        for len in 0..session.len() {
            throw(fixture, false, &session[..len]);
        }
        let requests = good_requests();
        for len in (0..requests.len()).step_by(3) {
            throw(fixture, true, &requests[..len]);
        }
    });
}

#[test]
fn clients_may_vanish_without_a_word_in_the_middle_of_a_request() {
    beside_a_bystander(|fixture| {
        for round in 0..50 {
            let mut client = fixture.client();
            client.send(&request(WRITE, 0, 1, 0, 32 << 20));
            client.send(&vec![7; 100_000 * (round % 7)]);
            let mut client = fixture.client();
            client.send(&request(READ, 0, 1, 0, 1 << 20).repeat(10));
            let mut client = fixture.client();
            client.send(&request(WRITE, 0, 1, 512 << 10, 4096)[..27]);
        }
    });
}

#[test]
fn wrong_magic_closes_after_what_came_before_was_done() {
    beside_a_bystander(|fixture| {
        for bad in [[0; 28], [0xff; 28]] {
            let mut client = fixture.client();
            client.send(&[write_request(0, 1, 0, &[9; 512]), bad.to_vec()].concat());
            assert_eq!(client.outcome(1).error, 0);
            client.assert_closed();
        }
        let mut client = Client::connect(&fixture.path());
        client.send(&[0; 16]);
        client.assert_closed();
    });
}

#[test]
fn absurd_lengths_cost_nothing() {
    beside_a_bystander_with(64 << 20, |fixture| {
        let mut client = fixture.client();
        for kind in [READ, TRIM, CACHE, STATUS, ZEROES] {
            let error = client.ask(kind, 0, 0, u32::MAX).error;
            assert!(error == EINVAL || error == ENOSPC);
        }
        // Many clients that send only part of a large payload.
        let half = vec![1; 16 << 20];
        let idle: Vec<Client> = (0..100)
            .map(|_| {
                let mut client = fixture.client();
                client.send(&request(WRITE, 0, 1, 32 << 20, 32 << 20));
                client.send(&half);
                client
            })
            .collect();
        let pages: u64 = std::fs::read_to_string("/proc/self/statm")
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        assert!(pages * 4096 < 1 << 30, "resident memory is {} MiB", (pages * 4096) >> 20);
        drop(idle);
    });
}

#[test]
fn garbage_of_every_kind_hurts_nobody_else() {
    beside_a_bystander(|fixture| {
        for seed in 1..400_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let behind_handshake = seed % 2 == 0;
            let mut bytes = if behind_handshake { good_requests() } else { good_session() };
            match seed % 5 {
                // Pure noise.
                0 => bytes = pattern(seed, usize::try_from(random(&mut state) % 5000).unwrap()),
                // Some bytes of a good session replaced.
                1..=3 => {
                    for _ in 0..=random(&mut state) % 4 {
                        let at = usize::try_from(random(&mut state)).unwrap_or(0) % bytes.len();
                        bytes[at] = random(&mut state).to_le_bytes()[0];
                    }
                }
                // Some bytes missing or doubled.
                _ => {
                    let at = usize::try_from(random(&mut state)).unwrap_or(0) % bytes.len();
                    let len = usize::try_from(random(&mut state) % 20).unwrap().min(bytes.len() - at);
                    let piece: Vec<u8> = bytes.drain(at..at + len).collect();
                    if random(&mut state).is_multiple_of(2) {
                        bytes.splice(at..at, piece.repeat(2));
                    }
                }
            }
            throw(fixture, behind_handshake, &bytes);
        }
    });
}
