//! The program is the child of its own manager.

use std::{
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    time::Duration,
};

use crate::world::World;

#[test]
fn the_program_is_its_own_child() {
    let world = World::empty();
    let (mut ours, its) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = world.command();
    command.env_clear().arg("looks-at-disks").stdin(OwnedFd::from(its)).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    // "It is confined", in its own words: kind 16, no more bytes.
    let mut frame = [0; 5];
    ours.read_exact(&mut frame).unwrap();
    assert_eq!(frame, [16, 0, 0, 0, 0]);

    // A disk of one sector, which it wants to read: kind 18, with an offset and a length.
    let request = br#"{"question":"Survey","size_bytes":512,"sector_bytes":512}"#;
    let say = |mut ours: &UnixStream, kind: u8, bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        ours.write_all(&[&[kind][..], &len, bytes].concat()).unwrap();
    };
    say(&ours, 1, request);
    let answer = loop {
        ours.read_exact(&mut frame).unwrap();
        let mut bytes = vec![0; u32::from_le_bytes(frame[1..].try_into().unwrap()) as usize];
        ours.read_exact(&mut bytes).unwrap();
        match frame[0] {
            18 => say(&ours, 2, &vec![0; u32::from_le_bytes(bytes[8..].try_into().unwrap()) as usize]),
            kind => break (kind, String::from_utf8(bytes).unwrap()),
        }
    };
    assert!(answer.0 == 19 && answer.1.starts_with(r#"{"Survey":{"#), "{answer:?}");
    drop(ours);
    assert!(child.wait().unwrap().success());
}

#[test]
fn whoever_starts_the_child_by_hand_is_told_what_it_is() {
    let world = World::empty();
    let output = world.command().arg("looks-at-disks").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
}
