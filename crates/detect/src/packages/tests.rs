use std::{cell::Cell, slice::from_ref};

use bygone_files::Package;

use super::*;

/// What a glance says, and the packages; `None` while the volume cannot be read.
type State = Option<(u64, Vec<Package>)>;

/// A disk whose database changes at some seqs; all else is other writes.
struct Fake {
    /// From when on.
    states: Vec<(u64, State)>,
    glances: Cell<u32>,
}

fn package(name: &str, version: &str, state: PackageState) -> Package {
    Package { name: name.to_owned(), arch: "all".to_owned(), version: version.to_owned(), state }
}

fn whole(name: &str, version: &str) -> Package {
    package(name, version, PackageState::Installed)
}

fn vda() -> VolumePlace {
    ("vda".to_owned(), 0)
}

impl Fake {
    fn new(states: &[(u64, u64, &[Package])]) -> Fake {
        let states = states.iter().map(|(seq, glance, packages)| {
            let mut packages = packages.to_vec();
            packages.sort();
            (*seq, Some((*glance, packages)))
        });
        Fake { states: states.collect(), glances: Cell::new(0) }
    }

    fn at(&self, at: Seq) -> Option<&(u64, Vec<Package>)> {
        let state = self.states.iter().rev().find(|(seq, _)| *seq <= at.0);
        state.and_then(|(_, state)| state.as_ref())
    }
}

impl Past for Fake {
    type Error = ();

    fn glance(&mut self, at: Seq) -> Result<Sight, ()> {
        self.glances.set(self.glances.get() + 1);
        Ok(self.at(at).map(|(glance, _)| (vda(), *glance)).into_iter().collect())
    }

    fn software(&mut self, at: Seq) -> Result<BTreeMap<VolumePlace, Vec<Database>>, ()> {
        let database =
            |packages: &[Package]| Database { manager: PackageManager::Dpkg, packages: packages.to_vec() };
        Ok(self.at(at).map(|(_, packages)| (vda(), vec![database(packages)])).into_iter().collect())
    }
}

/// Looks every `step` seqs, of which one passes each millisecond, and returns what was found with when it was.
fn watch(fake: &mut Fake, step: u64, upto: u64) -> Vec<(u64, Transaction)> {
    let mut watcher = Watcher::begin(fake, Seq(0)).unwrap();
    let mut found = Vec::new();
    for at in (step..=upto).step_by(step as usize) {
        let time = Micros(i64::try_from(at).unwrap() * 1000);
        let is_last = at + step > upto;
        let over = watcher.look(fake, (Seq(at), time), is_last).unwrap();
        found.extend(over.into_iter().map(|transaction| (at, transaction)));
    }
    found
}

#[test]
fn an_install_is_one_transaction_that_begins_before_its_first_write() {
    let libc = whole("libc", "1");
    let half = package("nginx", "2", PackageState::Incomplete);
    for step in [1, 7, 100, 1000, 1999] {
        let mut fake = Fake::new(&[
            (0, 1, from_ref(&libc)),
            // The folder is touched, then the package is half installed, for longer than the quiet time, then whole.
            (1234, 2, from_ref(&libc)),
            (1300, 3, &[libc.clone(), half.clone()]),
            (9000, 4, &[libc.clone(), whole("nginx", "2")]),
        ]);
        let found = watch(&mut fake, step, 20_000);
        assert_eq!(found.len(), 1, "every {step}: {found:?}");
        let (at, transaction) = &found[0];
        assert_eq!(transaction.before, Seq(1233), "every {step}");
        assert!((12_000..15_000).contains(at), "every {step}: {at}");
        assert!(transaction.is_complete());
        assert_eq!(transaction.label(), "install nginx 2");
        if step == 1000 {
            // One a look, and those of one search.
            assert!(fake.glances.get() < 20 + 12, "{}", fake.glances.get());
        }
    }
}

#[test]
fn what_is_given_up_half_way_is_told_after_a_while_or_at_the_end() {
    let half = package("nginx", "2", PackageState::Incomplete);
    let states: &[(u64, u64, &[Package])] = &[(0, 1, &[]), (5000, 2, &[half])];
    let found = watch(&mut Fake::new(states), 500, 300_000);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.label(), "install nginx 2 (not completed)");
    assert!((125_000..127_000).contains(&found[0].0), "{}", found[0].0);
    let found = watch(&mut Fake::new(states), 500, 6000);
    assert_eq!((found.len(), found[0].0, found[0].1.before), (1, 6000, Seq(4999)));
}

#[test]
fn transactions_one_after_the_other_are_told_apart_and_nothing_is_told_of_other_changes() {
    let mut fake = Fake::new(&[
        (0, 1, &[whole("a", "1")]),
        (3000, 2, &[whole("a", "1")]),
        (20_000, 3, &[whole("a", "2")]),
        (40_000, 4, &[]),
    ]);
    let found = watch(&mut fake, 300, 60_000);
    let labels: Vec<_> = found.iter().map(|(_, found)| (found.before.0, found.label())).collect();
    assert_eq!(labels, [(19_999, "upgrade a 1 to 2".to_owned()), (39_999, "remove a".to_owned())]);
}

#[test]
fn a_volume_that_cannot_be_read_for_a_while_is_compared_with_what_it_was() {
    let mut fake = Fake::new(&[(0, 1, &[whole("a", "1")])]);
    fake.states.push((5000, None));
    fake.states.push((9000, Some((2, vec![whole("a", "2")]))));
    let found = watch(&mut fake, 100, 20_000);
    assert_eq!(found.len(), 1);
    // Where in the time without a sight it happened is not known.
    assert_eq!(found[0].1.before, Seq(4999));

    // One that cannot be read when the transaction comes to rest is waited for.
    let mut fake = Fake::new(&[(0, 1, from_ref(&whole("a", "1"))), (5000, 2, from_ref(&whole("a", "2")))]);
    fake.states.push((6000, None));
    fake.states.push((15_000, Some((2, vec![whole("a", "2")]))));
    let found = watch(&mut fake, 100, 20_000);
    assert_eq!((found.len(), found[0].0, found[0].1.before), (1, 15_000, Seq(4999)));

    // One that is new brings its software along and installs nothing.
    let mut fake =
        Fake { states: vec![(0, None), (5000, Some((2, vec![whole("a", "2")])))], glances: Cell::new(0) };
    assert!(watch(&mut fake, 100, 20_000).is_empty());
}

#[test]
fn an_event_names_what_changed_and_stays_small() {
    let change = |at: usize| Change {
        action: if at == 7 { Action::Installed } else { Action::Upgraded },
        name: format!("package-{at}-{}", "x".repeat(300)),
        arch: "all".to_owned(),
        before: (at != 7).then(|| "1".repeat(400)),
        after: Some("2".repeat(400)),
        state: PackageState::Installed,
    };
    let changes = (0..5000).map(change).collect();
    let manager = PackageManager::Dpkg;
    let transaction = Transaction { before: Seq(5), after: Seq(9), volume: vda(), manager, changes };
    let event = transaction.event(Micros(1));
    assert!(event.label.starts_with("install package-7-"), "{}", event.label);
    assert!(event.label.ends_with("and 4997 more"), "{}", event.label);
    assert!(event.label.chars().count() < 500);
    assert_eq!(event.at, Some(At::exactly(Seq(5), Micros(1))));
    assert_eq!(event.details["packages"], 5000);
    assert_eq!(event.details["changes"].as_array().unwrap().len(), NAMED_MAX);
    assert!(serde_json::to_vec(&event).unwrap().len() < 256 << 10);
}
