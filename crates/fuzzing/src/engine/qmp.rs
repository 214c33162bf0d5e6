//! Messages of a QEMU: lines do not depend on how the stream is divided, and each message says what its JSON says.

use bygone_qemu::{
    fuzzing::{Said, qmp as take},
    qmp::LINE_BYTES_MAX,
};
use serde_json::Value;

use crate::input::Input;

/// See the module's comment. Input: how the stream is divided, then the stream.
pub fn qmp(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (first, step) = (usize::from(input.u8()), usize::from(input.u8()) + 1);
    let stream = input.0;
    let (said, failed) = take(&[stream]);
    let (front, rest) = stream.split_at(first.min(stream.len()));
    let pieces: Vec<&[u8]> = [front].into_iter().chain(rest.chunks(step)).collect();
    assert_eq!(take(&pieces), (said.clone(), failed), "in pieces it is something else");

    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let unfinished = lines.pop().unwrap_or_default();
    let mut lines = lines.into_iter().map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    for said in &said {
        let line = lines.next().unwrap();
        // Parts that are skipped need not even be text.
        if let Ok(value) = serde_json::from_slice(line) {
            compare(said, &value);
        }
    }
    match lines.next() {
        // A well-formed message without duplicate keys is accepted.
        Some(line) => {
            assert!(failed);
            let value = serde_json::from_slice(line).ok();
            assert!(!value.is_some_and(|value| is_plain_event(line, &value)), "not understood");
        }
        None => assert_eq!(failed, unfinished.len() > LINE_BYTES_MAX),
    }
}

fn compare(said: &Said, value: &Value) {
    match said {
        // serde also accepts a list for a structure; its fields are not compared.
        _ if value.is_array() => {}
        Said::Greeting(version) => {
            let qemu = &value["QMP"]["version"]["qemu"];
            for (name, number) in
                [("major", version.major), ("minor", version.minor), ("micro", version.micro)]
            {
                assert!(!qemu.is_object() || qemu[name] == number);
            }
        }
        Said::Event(event) => {
            assert_eq!(value["event"], event.name);
            assert!(value.get("QMP").is_none_or(Value::is_null));
            let data = value.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
            assert_eq!(event.data, data);
            let at = |name| value["timestamp"].get(name).and_then(Value::as_i64);
            match (at("seconds"), at("microseconds")) {
                (Some(seconds @ 0..=4_000_000_000), Some(micros @ 0..=999_999)) => {
                    assert_eq!(event.time.0, seconds * 1_000_000 + micros);
                }
                _ => assert!(event.time.0 >= 0),
            }
        }
        Said::Answer(id, verdict) => {
            assert_eq!(*id, value.get("id").and_then(Value::as_u64));
            match verdict {
                Ok(answer) => assert_eq!(answer, &value["return"]),
                Err((class, words)) => {
                    let error = &value["error"];
                    let text = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
                    assert!(!error.is_object() || (text("class"), text("desc")) == (class, words));
                }
            }
        }
    }
}

/// Whether a line is an event in the form in which QEMU sends them.
fn is_plain_event(line: &[u8], value: &Value) -> bool {
    let Some(object) = value.as_object() else { return false };
    // A duplicate key is refused; here only the last one is visible.
    let once = serde_json::to_vec(value).is_ok_and(|text| text.len() == line.len());
    once && object.keys().all(|key| key == "event" || key == "data")
        && value["event"].is_string()
        && value.get("data").is_none_or(Value::is_object)
}
