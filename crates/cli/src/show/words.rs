//! Sizes, times and texts of others, in words.

use bygone_api::{LostRecords, MomentInfo};
use bygone_model::{Micros, Truth, when::describe};
use jiff::Timestamp;

use super::Look;

/// What stands for a character that would drive a terminal.
const HARMLESS: char = '\u{fffd}';

/// A text of somebody else as one line that cannot drive a terminal.
pub(crate) fn line(text: &str) -> String {
    text.trim().chars().map(|c| if matches!(c, '\n' | '\t' | '\r') { ' ' } else { harmless(c) }).collect()
}

/// The same with its lines kept.
pub(crate) fn lines(text: &str) -> String {
    text.trim_end().chars().map(|c| if matches!(c, '\n' | '\t') { c } else { harmless(c) }).collect()
}

/// Control characters begin escape sequences; the directional ones show a text as another one.
fn harmless(c: char) -> char {
    let directional = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || directional { HARMLESS } else { c }
}

/// `20 GiB`, `1.5 TiB`, `512 B`: three digits at most, except of bytes.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024 of a unit is 1 of the next one.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{} {}", digits.strip_suffix(".0").unwrap_or(&digits), UNITS[unit])
}

/// A time in RFC 3339 in the words of the grammar of moments; as it is, if it is no time.
pub(crate) fn time(text: &str, look: &Look) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => describe(Micros(time.as_microsecond()), &look.now),
        Err(_) => line(text),
    }
}

/// A time on the reader's clock, to the second: `15:04:05`, with the date if it is not today's.
pub(crate) fn clock(text: &str, look: &Look) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return line(text) };
    let here = time.to_zoned(look.now.time_zone().clone());
    let is_today = here.date() == look.now.date();
    here.strftime(if is_today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

/// The text that names a moment for good: `seq:812345`, `id:1@seq:812345`.
pub(crate) fn name(moment: &MomentInfo) -> String {
    if moment.when.is_empty() { format!("seq:{}", moment.seq) } else { line(&moment.when) }
}

/// `yesterday 14:59 (seq:812345)`.
pub(crate) fn moment(moment: &MomentInfo, look: &Look) -> String {
    format!("{} ({})", time(&moment.time, look), name(moment))
}

/// `yesterday 14:59 (seq:812345, grade stopped): shut down in order`.
pub(crate) fn moment_in_full(moment: &MomentInfo, look: &Look) -> String {
    let label = label(moment);
    let label = if label.is_empty() { label } else { format!(": {label}") };
    let (time, name, branch) = (time(&moment.time, look), name(moment), line(&moment.branch));
    format!("{time} ({name}, branch {branch}, grade {}){label}", moment.grade)
}

/// What happened, and whether only the target says so.
pub(crate) fn label(moment: &MomentInfo) -> String {
    let label = line(&moment.label);
    match moment.truth {
        Truth::Observed => label,
        Truth::Claimed => format!("{label} (so it says)").trim_start().to_owned(),
    }
}

/// Which records are lost before what an answer is about, and what stands in their place; nothing if none are.
pub(crate) fn lost(lost: &[LostRecords], look: &Look) -> String {
    /// Of more stretches than this only the number is said.
    const SHOWN_MAX: usize = 8;
    if lost.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "Records before it are lost, and no index knows what they wrote: where they did, older content stands.\n",
    );
    for lost in lost.iter().take(SHOWN_MAX) {
        let (from, to) = (time(&lost.from, look), time(&lost.to, look));
        let doubt = if lost.in_doubt { "; they may have made another branch the present" } else { "" };
        let (first, last) = (lost.first_seq, lost.last_seq);
        out.push_str(&format!("  seq:{first} to seq:{last}, from {from} to {to}{doubt}\n"));
    }
    if lost.len() > SHOWN_MAX {
        out.push_str(&format!("  and {} more stretches (--json lists them)\n", lost.len() - SHOWN_MAX));
    }
    out
}

/// `1 disk`, `2 disks`.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_at_most_three_digits() {
        for (count, words) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (20 << 30, "20 GiB"),
            (3 << 39, "1.5 TiB"),
            ((1 << 20) - 1, "1 MiB"),
            (1023 << 20, "1023 MiB"),
            (999 << 10, "999 KiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(count), words, "{count}");
        }
    }

    #[test]
    fn texts_of_others_cannot_drive_a_terminal() {
        assert_eq!(
            line("a\u{1b}[31mb\nc\u{9b}d\u{202e}e\u{7}"),
            "a\u{fffd}[31mb c\u{fffd}d\u{fffd}e\u{fffd}"
        );
        assert_eq!(lines("a\r\n\tb\u{1b}\n"), "a\u{fffd}\n\tb\u{fffd}");
        assert_eq!(line("nginx 1.22 → 1.24, 日本"), "nginx 1.22 → 1.24, 日本");
    }
}
