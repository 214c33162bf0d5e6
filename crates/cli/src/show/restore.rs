//! `restore`.

use bygone_api::Restored;

use super::{Cell, Column, Look, Table, words};

/// Of more damaged places than this only the number is said.
const SHOWN_MAX: usize = 20;

/// What was brought back, and where it is.
pub(crate) fn restored(restored: &Restored, look: &Look) -> String {
    let mut out = format!("Restored as of {}\n", words::moment_in_full(&restored.moment, look));
    let columns = [Column::left(""), Column::right(""), Column::left(""), Column::left("")];
    let mut table = Table::untitled(columns, 4);
    for disk in &restored.disks {
        table.row([
            Cell::new(&disk.id),
            Cell::new(words::bytes(disk.size_bytes)),
            Cell::new(format!("{} written", words::bytes(disk.written_bytes))),
            Cell::new(disk.to.display().to_string()),
        ]);
    }
    out.push_str(&table.render(look));
    for disk in restored.disks.iter().filter(|disk| !disk.unreadable.is_empty()) {
        let ranges = &disk.unreadable;
        let damaged = words::bytes(ranges.iter().map(|range| range.len_bytes).sum());
        out.push_str(&format!("Of {} {damaged} could not be read; zeroes stand there instead:\n", disk.id));
        for range in ranges.iter().take(SHOWN_MAX) {
            out.push_str(&format!("  {} bytes from byte {} on\n", range.len_bytes, range.first_byte));
        }
        if ranges.len() > SHOWN_MAX {
            out.push_str(&format!("  and {} more places (--json lists them)\n", ranges.len() - SHOWN_MAX));
        }
    }
    out.push_str(&words::lost(&restored.moment.lost, look));
    for disk in restored.disks.iter().filter(|disk| disk.uncertain_bytes > 0) {
        let uncertain = words::bytes(disk.uncertain_bytes);
        out.push_str(&format!("  {uncertain} of {} may be older than this moment\n", disk.id));
    }
    if let Some(branch) = &restored.branch {
        out.push_str(&format!("The present is branch {} now.\n", words::line(branch)));
    }
    out
}
