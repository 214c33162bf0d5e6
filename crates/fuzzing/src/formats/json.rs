//! The store's JSON: catalog records, events, the footers of checkpoints.

use bygone_model::{BranchId, Event, Micros, Seq, VolumeId};
use bygone_store::{
    catalog::{Catalog, Change},
    format::checkpoint::{Footer, StoredEvent},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Checks that the text of a value parses back to the same value.
pub(crate) fn comes_back<T: Serialize + DeserializeOwned + PartialEq>(value: &T) {
    let text = serde_json::to_vec(value).unwrap();
    assert!(serde_json::from_slice::<T>(&text).unwrap() == *value, "{}", String::from_utf8_lossy(&text));
}

/// Numbers with a fraction may lose their last bit.
pub(crate) fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(values) => values.values().all(is_exact),
        _ => true,
    }
}

/// Applies lines, each a change: every question to the catalog can still be answered.
pub(super) fn changes(bytes: &[u8]) {
    let mut catalog = Catalog::new(Micros(5));
    let mut seq = Seq(0);
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let Ok(change) = serde_json::from_slice::<Change>(line) else { continue };
        if serde_json::from_slice(line).is_ok_and(|value| is_exact(&value)) {
            comes_back(&change);
        }
        seq = seq.next();
        let before = catalog.clone();
        catalog.apply(seq, Micros(7), &change);
        assert!(catalog.volumes.starts_with(&before.volumes), "what there is stays");
        assert!(catalog.disks.starts_with(&before.disks) && catalog.eras.starts_with(&before.eras));
        assert!(catalog.branches.len() >= before.branches.len());
        ask(&catalog, seq);
    }
    if seq > Seq(0) && serde_json::to_value(&catalog).is_ok_and(|value| is_exact(&value)) {
        comes_back(&catalog);
    }
}

fn ask(catalog: &Catalog, seq: Seq) {
    for (i, volume) in catalog.volumes.iter().enumerate() {
        assert_eq!(volume.id.0 as usize, i);
        assert!(volume.parent.is_none_or(|(parent, _)| parent < volume.id));
        assert!(catalog.disk_of(volume.id).is_ok());
        assert!(catalog.branch(volume.branch).is_some() || volume.parent.is_none());
        let _ = catalog.is_exact(volume.id, seq);
    }
    for (i, branch) in catalog.branches.iter().enumerate() {
        assert_eq!(branch.id.0 as usize, i);
        let _ = catalog.branch_named(&branch.name);
        for disk in &catalog.disks {
            let _ = catalog.volume_of(branch.id, &disk.name);
        }
        let _ = catalog.volumes_of(branch.id, seq).count();
    }
    let beyond = VolumeId(catalog.volumes.len() as u32);
    assert!(catalog.volume(beyond).is_err() && catalog.disk_of(beyond).is_err());
    assert!(catalog.branch(BranchId(catalog.branches.len() as u32)).is_none());
    let _ = catalog.era_of(seq);
}

pub(super) fn event(bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event>(bytes) else { return };
    if serde_json::to_value(&event).is_ok_and(|value| is_exact(&value)) {
        comes_back(&event);
        comes_back(&StoredEvent { seq: Seq(3), time: Micros(-4), branch: BranchId(5), event });
    }
}

pub(super) fn footer(bytes: &[u8]) {
    let Ok(footer) = serde_json::from_slice::<Footer>(bytes) else { return };
    if serde_json::to_value(&footer).is_ok_and(|value| is_exact(&value)) {
        comes_back(&footer);
    }
    // A catalog in a footer is trusted; queries may find nothing, but must end.
    for volume in footer.catalog.volumes.iter().map(|volume| volume.id) {
        let _ = (footer.catalog.is_exact(volume, footer.end), footer.catalog.disk_of(volume));
    }
}
