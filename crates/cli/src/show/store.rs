//! `init`, `verify`, `compact`, `bench`.

use std::path::Path;

use bygone_api::{Compacted, Verified};

use super::{Look, Style, words};

/// A new store, and what to do next.
pub(crate) fn made(store: &Path) -> String {
    let store = words::line(&store.display().to_string());
    format!("A store is in {store}\nProtect something with: bygone target add NAME --disk store:20G\n")
}

/// `verify`.
pub(crate) fn verified(verified: &Verified, look: &Look) -> String {
    let checked = words::bytes(verified.checked_bytes);
    let extent = if verified.complete { "nothing left out" } else { "the rest was not reached" };
    if verified.damaged.is_empty() {
        return format!("{}: {checked} checked, {extent}\n", look.paint.apply(Style::Good, "All is whole"));
    }
    let damaged = words::count(verified.damaged.len(), "damaged place");
    let mut out = format!("{}: {checked} checked, {extent}\n", look.paint.apply(Style::Bad, &damaged));
    for place in &verified.damaged {
        out.push_str(&format!("  {}: {}\n", words::line(&place.place), words::line(&place.detail)));
    }
    out
}

/// `compact`.
pub(crate) fn compacted(compacted: &Compacted, _: &Look) -> String {
    change("Freed", "takes", compacted)
}

/// `compact --dry-run`.
pub(crate) fn would_compact(compacted: &Compacted, _: &Look) -> String {
    change("Would free", "would take", compacted)
}

fn change(freed: &str, takes: &str, compacted: &Compacted) -> String {
    format!(
        "{freed} {}: the store took {} and {takes} {}\n",
        words::bytes(compacted.before_bytes.saturating_sub(compacted.after_bytes)),
        words::bytes(compacted.before_bytes),
        words::bytes(compacted.after_bytes),
    )
}

/// One line of `bench`. It comes as it is measured, so the columns are as wide as they are.
pub(crate) fn measured(name: &str, value: f64, unit: &str, note: &str) -> String {
    let value = if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    let line =
        format!("{:<32} {value:>10} {:<8} {}", words::line(name), words::line(unit), words::line(note),);
    format!("{}\n", line.trim_end())
}
