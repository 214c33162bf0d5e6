//! Times as a FAT has them: a date since 1980 and a time in steps of two seconds, 16 bits each.

use crate::tree::FileTime;

/// Days since 1970 of the first day of a month.
fn days(year: i64, month: i64) -> i64 {
    // Years that begin in March have their leap day at the end ("days from civil").
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 - 719_468
}

/// A moment, as UTC; `hundredths` has up to two seconds. Months and days that are not there count as the first.
pub(super) fn moment(date: u16, time: u16, hundredths: u8) -> FileTime {
    let year = 1980 + i64::from(date >> 9);
    let month = i64::from(date >> 5 & 15).clamp(1, 12);
    let day = i64::from(date & 31).max(1);
    let seconds = i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 63) * 60 + i64::from(time & 31) * 2;
    FileTime {
        seconds: (days(year, month) + day - 1) * 86_400 + seconds + i64::from(hundredths / 100),
        nanos: u32::from(hundredths % 100) * 10_000_000,
    }
}

/// A moment of an exFAT, which may say how far its clock was from UTC, in steps of 15 minutes.
pub(super) fn with_offset(stamp: u32, hundredths: u8, offset: u8) -> FileTime {
    let local = moment((stamp >> 16) as u16, stamp as u16, hundredths);
    // Seven bits with a sign, and one that says that they are meant.
    let quarters = if offset & 0x80 == 0 { 0 } else { i64::from(((offset << 1).cast_signed()) >> 1) };
    FileTime { seconds: local.seconds - quarters * 900, ..local }
}
