//! `restore`.

use bygone_api::Restored;

use super::{Cell, Column, Look, Table, words};

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
    if let Some(branch) = &restored.branch {
        out.push_str(&format!("The present is branch {} now.\n", words::line(branch)));
    }
    out
}
