//! Events that QEMU sent while no client was connected, from the monitor's log.

use crate::{
    places::{Places, tail},
    qmp::{Event, Message},
};

/// A stop is the last event before a machine is paused, so it is near the end.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// The event that paused the machine, unless it was resumed since.
pub(super) fn stop(places: &Places) -> Option<Event> {
    last_stop(&tail(&places.qmp_log(), LOG_BYTES_MAX).ok()?)
}

fn last_stop(log: &[u8]) -> Option<Event> {
    for line in log.split(|&byte| byte == b'\n').rev() {
        // The first line may be incomplete, and answers do not matter here.
        let Ok(Message::Event(event)) = Message::parse(line.trim_ascii()) else { continue };
        match event.name.as_str() {
            "SHUTDOWN" => return Some(event),
            "RESET" | "RESUME" => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUTDOWN: &str = r#"{"timestamp": {"seconds": 5, "microseconds": 7}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
    const RESUME: &str = r#"{"timestamp": {"seconds": 6, "microseconds": 0}, "event": "RESUME"}"#;
    const STOP: &str = r#"{"timestamp": {"seconds": 5, "microseconds": 8}, "event": "STOP"}"#;

    #[test]
    fn the_last_stop_is_found_behind_answers_and_greetings_and_none_that_is_over() {
        let answer = r#"{"return": {"status": "shutdown", "running": false}}"#;
        let found = |lines: &[&str]| last_stop(lines.join("\r\n").as_bytes());
        let event = found(&["half a line\"}", RESUME, SHUTDOWN, STOP, answer, ""]).unwrap();
        assert_eq!((event.name.as_str(), event.time.0), ("SHUTDOWN", 5_000_007));
        assert_eq!(event.data["reason"], "guest-reset");
        assert_eq!(found(&[SHUTDOWN, STOP, RESUME]), None);
        assert_eq!(found(&[answer, STOP]), None);
        assert_eq!(found(&[]), None);
    }
}
