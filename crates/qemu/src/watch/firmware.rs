//! Tells the firmware's own resets from those of the guest. Pure.
//!
//! SeaBIOS resets a machine a second time when it finds at its start that it has run before, because QEMU does not
//! restore its read-only copy at a reset. It reports that on its debug port, and prints its name whenever it really
//! starts. No guest code runs before that, so whatever a guest writes to the port comes after the name and cannot hide
//! a reset. A firmware without such output (UEFI) makes no second reset.

use crate::spec::FIRMWARE_LOG_BYTES;

const STARTS: &str = "SeaBIOS (version ";
const RESETS: &str = "Attempting a hard reboot\n";

/// Whether the reset was the firmware's own, given its output since the last reset (the answer to `ringbuf-read`,
/// base64).
pub(super) fn reset_itself(said: &str) -> bool {
    let Some(said) = decode(said) else { return false };
    if said.len() >= FIRMWARE_LOG_BYTES as usize {
        // The beginning may have been overwritten.
        return false;
    }
    let said = String::from_utf8_lossy(&said);
    !said.contains(STARTS) && said.ends_with(RESETS)
}

/// Base64, as QEMU writes it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of SeaBIOS 1.16.3 when it finds that it has run before.
    const AGAIN: &str =
        "SW4gcmVzdW1lIChzdGF0dXM9MCkKSW4gMzJiaXQgcmVzdW1lCkF0dGVtcHRpbmcgYSBoYXJkIHJlYm9vdAo=";

    fn encode(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let mut three = [0; 3];
            three[..group.len()].copy_from_slice(group);
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            for at in 0..4 {
                let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
                text.push(if at > group.len() { '=' } else { char::from(letter) });
            }
        }
        text
    }

    #[test]
    fn base64_of_every_length_is_read() {
        assert_eq!(
            decode(AGAIN).unwrap(),
            b"In resume (status=0)\nIn 32bit resume\nAttempting a hard reboot\n"
        );
        for len in 0..70 {
            let bytes: Vec<u8> = (0..len).map(|at: u8| at.wrapping_mul(91)).collect();
            assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }
        assert_eq!(decode("AA\nA"), None);
    }

    #[test]
    fn only_a_reset_before_the_firmware_has_started_is_its_own() {
        assert!(reset_itself(AGAIN));
        let said = |text: &str| reset_itself(&encode(text.as_bytes()));
        // A reset by the guest, through the firmware or not, and firmware without output.
        assert!(!said(
            "SeaBIOS (version 1.16.3)\nBooting from 0000:7c00\nIn resume (status=0)\nAttempting a hard reboot\n"
        ));
        assert!(!said("SeaBIOS (version 1.16.3)\nBooting from 0000:7c00\n"));
        assert!(!said(""));
        assert!(!reset_itself("no base64!"));
    }

    #[test]
    fn a_guest_that_floods_the_port_hides_nothing() {
        let mut said = "x".repeat(FIRMWARE_LOG_BYTES as usize);
        said.replace_range(said.len() - RESETS.len().., RESETS);
        assert!(!reset_itself(&encode(said.as_bytes())));
    }
}
