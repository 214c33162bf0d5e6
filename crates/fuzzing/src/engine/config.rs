//! Descriptions of targets: their files, the settings of `target set`, sizes and names.

use bygone_api::config::{TargetConfig, check_name, parse_bytes, parse_mib};

use crate::{formats::json::comes_back, input::Input};

/// See the module's comment. Input: which of these, then a text.
pub fn config(bytes: &[u8]) {
    let mut input = Input(bytes);
    let which = input.u8();
    let text = String::from_utf8_lossy(input.0);
    match which % 4 {
        0 => {
            if let Ok(config) = serde_json::from_slice::<TargetConfig>(input.0) {
                comes_back(&config);
                for disk in &config.disks {
                    assert!(config.disk(&disk.id).is_some_and(|found| found.id == disk.id));
                }
            }
        }
        1 => set(&text),
        2 => sizes(&text),
        _ => {
            let good = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.');
            let starts = text.starts_with(|c: char| good(c) && !"-_.".contains(c));
            let fits = starts && text.len() <= 64 && text.chars().all(good);
            assert_eq!(check_name(&text).is_ok(), fits);
        }
    }
}

/// `KEY=VALUE`: either it is set and all else stays, or nothing changes.
fn set(text: &str) {
    let Some((key, value)) = text.split_once('=') else { return };
    let before = TargetConfig::new("web");
    let mut after = before.clone();
    let result = after.set(key, value);
    comes_back(&after);
    let keys = [
        "memory",
        "cpus",
        "kernel",
        "initrd",
        "append",
        "firmware",
        "net",
        "autostart",
        "qemu-arg",
        "cdrom",
        "user-data",
        "display",
    ];
    if result.is_err() {
        assert_eq!(after, before);
        return;
    }
    assert!(keys.contains(&key));
    assert!((1..=255).contains(&after.cpus) && after.memory_mib > 0);
    let fields = |config: &TargetConfig| serde_json::to_value(config).unwrap().as_object().unwrap().clone();
    let (old, new) = (fields(&before), fields(&after));
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value)).count();
    assert!(changed <= 1, "{key} changed more than one thing");
}

/// Sizes, by arithmetic that cannot overflow.
fn sizes(text: &str) {
    let bytes = parse_bytes(text);
    if let Some(expected) = plain_bytes(text) {
        assert_eq!(bytes.map(u128::from), expected, "{text:?}");
    }
    if let Some(mib) = parse_mib(text) {
        let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let asked =
            if all_digits { text.parse::<u128>().ok() } else { bytes.map(|bytes| u128::from(bytes >> 20)) };
        assert_eq!(Some(u128::from(mib)), asked, "{text:?}");
    }
}

/// The value of a size without a fraction, or that it is invalid; the outer `None` if there is a fraction.
fn plain_bytes(text: &str) -> Option<Option<u128>> {
    if text.contains('.') {
        return None;
    }
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &text[..text.len() - digits.len()];
    let unit = digits.strip_suffix("ib").or_else(|| digits.strip_suffix('b')).unwrap_or(digits);
    let exponent = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit);
    let value = number.trim_start_matches('0');
    let value = if value.is_empty() && !number.is_empty() { "0" } else { value };
    let value = if value.len() > 25 { None } else { value.parse::<u128>().ok() };
    let size = exponent.zip(value).map(|(exponent, value)| value << (10 * exponent));
    Some(size.filter(|size| *size <= u128::from(u64::MAX)))
}
