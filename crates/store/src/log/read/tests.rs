use std::sync::Arc;

use bygone_model::{BranchId, Lba, Sectors, Seq};

use crate::{
    Below, BlockWrite, Content, Log, LogOptions, Wait,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
};

#[test]
fn a_chain_of_branches_is_asked_only_where_something_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = Arc::new(RealDir::new(folder.path()));
    let log = Log::make(dir, Arc::new(SystemClock::new()), LogOptions::default(), [1; 16]).unwrap();
    let (name, sectors) = ("vda".to_owned(), Sectors(64));
    let mut volume =
        log.add_disk(&Disk { name, sectors, block_bytes: 512, keeping: Keeping::Store }).unwrap();
    let write = |volume, lba, mark: u8| {
        let content = Content::Data(&[mark; 512]);
        log.append(&[BlockWrite { volume, lba: Lba(lba), content, base: false }]).unwrap();
    };
    write(volume, 0, 1);
    let mut branch = BranchId(0);
    for i in 1..=60_u32 {
        branch = log.add_branch(&format!("b{i}"), branch, log.head_seq()).unwrap();
        volume = log.catalog().volume_of(branch, "vda").unwrap().id;
        if i % 20 == 0 {
            write(volume, u64::from(i), i as u8);
        }
    }
    let view = log.view(volume, log.head_seq()).unwrap();
    // The volume itself, and of its sixty ancestors those of branches 0, 20 and 40.
    assert_eq!(view.layers.len(), 4);
    let marks = [(0, 1), (20, 20), (40, 40), (60, 60), (1, 0)];
    let mut bytes = [0; 512];
    for (lba, mark) in marks {
        view.read(Lba(lba), &mut bytes, Wait::Yes).unwrap();
        assert_eq!(bytes, [mark; 512], "sector {lba}");
    }
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    assert_eq!(log.heads().live[&volume].parents.len(), 3);
}

#[test]
fn the_catalog_is_shared_and_never_changes_under_whoever_looks_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = Arc::new(RealDir::new(folder.path()));
    let log = Log::make(dir, Arc::new(SystemClock::new()), LogOptions::default(), [1; 16]).unwrap();
    let before = log.catalog();
    assert!(Arc::ptr_eq(&before, &log.catalog()));
    log.add_branch("b", BranchId(0), log.head_seq()).unwrap();
    assert_eq!((before.branches.len(), log.catalog().branches.len()), (1, 2));
}
