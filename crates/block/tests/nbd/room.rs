//! Writes that find no room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bygone_block::{
    IoError,
    nbd::{Ending, Limits},
};

use crate::{
    EXPORT, Fixture,
    client::*,
    device::{Call, Mem},
    eventually,
    lifecycle::Diary,
    pattern,
};

/// A device whose writes find no room while the switch is on.
fn full() -> (Arc<Mem>, Arc<AtomicBool>) {
    let device = Mem::new(8 << 20);
    let full = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&full);
    Mem::hook(
        &device.on_write,
        move |_| {
            if switch.load(Ordering::SeqCst) { Err(IoError::Paused) } else { Ok(()) }
        },
    );
    (device, full)
}

fn writes(device: &Mem) -> usize {
    device.calls().iter().filter(|call| matches!(call, Call::Write(_))).count()
}

#[test]
fn a_write_without_room_waits_and_is_answered_once_there_is_some() {
    let (device, full) = full();
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    // Two small writes, and one that is applied as it arrives.
    let mut burst = request(READ, 0, 1, 0, 512);
    burst.extend(write_request(0, 2, 0, &pattern(2, 4096)));
    burst.extend(write_request(FUA, 3, 4096, &pattern(3, 4096)));
    burst.extend(write_request(0, 4, 1 << 20, &pattern(4, 5 << 20)));
    let mut sender = client.stream.try_clone().unwrap();
    let sending = thread::spawn(move || std::io::Write::write_all(&mut sender, &burst).unwrap());
    assert_eq!(client.outcome(1).error, 0, "what came before is answered");
    eventually("it is tried again", || writes(&device) > 2);
    assert_eq!(fixture.client().read(0, 512), [0; 512], "another client is served");
    full.store(false, Ordering::SeqCst);
    // In any order, because one of them also waits for a flush.
    let mut answered: Vec<_> =
        (2..5).map(|_| client.any_outcome().unwrap()).map(|(cookie, o)| (cookie, o.error)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [(2, 0), (3, 0), (4, 0)]);
    sending.join().unwrap();
    assert_eq!(device.bytes(0, 4096), pattern(2, 4096));
    assert_eq!(device.durable(4096, 4096), pattern(3, 4096));
    assert_eq!(device.bytes(1 << 20, 5 << 20), pattern(4, 5 << 20));
}

#[test]
fn a_write_that_waits_for_room_is_forgotten_with_its_client() {
    let (device, full) = full();
    let diary = Arc::new(Diary::default());
    let table = vec![(EXPORT.to_owned(), Arc::clone(&device))];
    let fixture = Fixture::with(table, Limits::default(), Some(diary.clone()));
    let mut client = fixture.client();
    client.send(&write_request(0, 1, 0, &pattern(1, 4096)));
    eventually("it waits", || writes(&device) > 0);
    drop(client);
    eventually("it is gone", || diary.endings() == [Ending::Vanished]);
    full.store(false, Ordering::SeqCst);
    // The same write again, from the client that came back, and then a newer one.
    let mut back = fixture.client();
    assert_eq!(back.write(0, &pattern(1, 4096)), 0);
    assert_eq!(back.write(0, &pattern(2, 4096)), 0);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(device.bytes(0, 4096), pattern(2, 4096), "an old write came late");
}

#[test]
fn a_write_that_waits_for_room_does_not_hold_up_the_end() {
    let (device, _full) = full();
    let fixture = Fixture::new(&device);
    let mut client = fixture.client();
    client.send(&write_request(0, 1, 0, &pattern(1, 4096)));
    eventually("it waits", || writes(&device) > 0);
    let stopped = fixture.serving.stop(Duration::from_secs(5));
    assert_eq!((stopped.finished, stopped.cut, stopped.hanging), (1, 0, 0));
    assert!(client.any_outcome().is_err(), "it is not answered, so that it is made again elsewhere");
}
