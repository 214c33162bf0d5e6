//! LVM2: the logical volumes of a disk, each of which is a volume of its own.
//!
//! - A group is looked into if all its physical volumes are on the disk. Nothing is read of a part of a group.
//! - Of its metadata the newest copy counts, as for LVM; copies that are equally new and differ are not believed.
//! - Linear and striped logical volumes are mapped. Others (thin, cache, RAID, mirrors, snapshots, …) are named, with the
//!   reason why they are not looked into; what only serves another logical volume is not a volume.
//! - No two logical volumes of a group share a byte, so that all together are no longer than the disk.

mod label;
mod map;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, HashMap, HashSet};

use label::{Area, Label, id_of};
use map::Segment;
pub(crate) use map::{Logical, Map};
use text::{Section, Value, parse};

use crate::blocks::{Blocks, ReadError, Window};

/// Logical volumes of a disk.
const LOGICAL_MAX: usize = 1024;
/// Texts of all metadata areas of a disk together.
const TEXTS_BYTES_MAX: usize = 32 << 20;
const TOO_MANY: &str = "there are more logical volumes than are read";
const SECTOR: u64 = 512;

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// The names of its group and its own: `GROUP/NAME`.
    pub(crate) name: String,
    /// Its first byte on the disk; that of its group if it is not known where it lies.
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    /// Where it lies, or why it is not looked into.
    pub(crate) map: Result<Map, String>,
}

/// What is known of a physical volume, each with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Whatever it holds is among the logical volumes.
    Sound(String),
    /// What it holds is not looked into.
    Opaque(String),
    /// It cannot be read where it has to be.
    Unreadable(String),
}

/// What the physical volumes of a disk hold.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// For each physical volume, in the order in which they were given.
    pub(crate) standings: Vec<Standing>,
    pub(crate) volumes: Vec<Volume>,
}

/// A physical volume: where it lies, and its label.
struct Physical {
    start: u64,
    len_bytes: u64,
    label: Label,
}

/// The newest metadata of a group.
struct Newest {
    seqno: u64,
    text: String,
    /// There is another one that is as new.
    is_doubtful: bool,
}

/// Reads the groups of some physical volumes, given by their first bytes on the disk and their lengths.
///
/// # Errors
/// [`ReadError`] if the caller itself ended the reading.
pub(crate) fn groups(disk: &dyn Blocks, places: &[(u64, u64)]) -> Result<Groups, ReadError> {
    let mut standings: Vec<Standing> = Vec::new();
    let mut physical: Vec<Option<Physical>> = Vec::new();
    let mut newest: BTreeMap<[u8; 32], Newest> = BTreeMap::new();
    let mut texts = Texts { seen: HashSet::new(), left_bytes: TEXTS_BYTES_MAX };
    for (start, len_bytes) in places {
        let window = Window::new(disk, *start, *len_bytes);
        let (found, standing) = match physical_volume(&window, &mut texts, &mut newest) {
            Err(error) if error.is_final() => return Err(error),
            Err(error) => (None, Standing::Unreadable(error.to_string())),
            Ok(Err(why)) => (None, Standing::Opaque(why.to_owned())),
            Ok(Ok((label, standing))) => {
                (Some(Physical { start: *start, len_bytes: window.size_bytes(), label }), standing)
            }
        };
        standings.push(standing);
        physical.push(found);
    }
    let mut found = Groups { standings, volumes: Vec::new() };
    let mut by_id: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for (i, one) in physical.iter().enumerate() {
        if let Some(one) = one {
            by_id.entry(one.label.id).or_default().push(i);
        }
    }
    let mut claimed = HashSet::new();
    for copy in newest.values() {
        // It was parsed before.
        let Some(section) = parse(&copy.text) else { continue };
        let Some(group) = Group::of(&section) else { continue };
        let members = group.members(&by_id);
        let name = group.name;
        let opaque =
            |why: &str| (Standing::Opaque(format!("group {name} is not looked into: {why}")), Vec::new());
        let (standing, volumes) = match group.volumes(copy, &members, &physical) {
            Ok(volumes) if found.volumes.len() + volumes.len() > LOGICAL_MAX => opaque(TOO_MANY),
            Ok(volumes) => (
                Standing::Sound(format!("the logical volumes of group {name} are volumes of their own")),
                volumes,
            ),
            Err(why) => opaque(why),
        };
        let mut is_alone = true;
        for i in members.iter().flat_map(|member| &member.found) {
            is_alone &= claimed.insert(*i);
            found.standings[*i] = match is_alone {
                true => standing.clone(),
                false => Standing::Opaque("it is claimed twice".into()),
            };
        }
        if is_alone {
            found.volumes.extend(volumes);
        }
    }
    Ok(found)
}

/// Which texts were met, and how much more of them is read.
struct Texts {
    seen: HashSet<String>,
    left_bytes: usize,
}

/// The label of a physical volume and how it stands, as far as it knows itself; its metadata go to `newest`.
fn physical_volume(
    volume: &dyn Blocks,
    texts: &mut Texts,
    newest: &mut BTreeMap<[u8; 32], Newest>,
) -> Result<Result<(Label, Standing), &'static str>, ReadError> {
    let label = match Label::read(volume)? {
        Ok(label) => label,
        Err(why) => return Ok(Err(why)),
    };
    let opaque = |why: &str| Standing::Opaque(why.to_owned());
    const ELSEWHERE: &str = "its group is described on other disks";
    let mut standing = match label.is_used {
        true => opaque(ELSEWHERE),
        false => Standing::Sound("it belongs to no group".into()),
    };
    for area in label.areas(volume)? {
        match area {
            Area::Empty => {}
            Area::Ignored => standing = opaque(ELSEWHERE),
            Area::Damaged(why) => standing = opaque(why),
            Area::Text(text) => {
                let added = texts.add(text, newest);
                standing = opaque(added.err().unwrap_or("its group does not know it"));
            }
        }
    }
    Ok(Ok((label, standing)))
}

impl Texts {
    /// Keeps a text if it is the newest of its group.
    fn add(&mut self, text: String, newest: &mut BTreeMap<[u8; 32], Newest>) -> Result<(), &'static str> {
        if self.seen.contains(&text) {
            return Ok(());
        }
        let left = self.left_bytes.checked_sub(text.len());
        self.left_bytes = left.ok_or("there is more metadata on the disk than is read")?;
        let section = parse(&text).ok_or("its metadata is not understood")?;
        let group = Group::of(&section).ok_or("its metadata is not understood")?;
        let (id, seqno) = (group.id, group.seqno);
        self.seen.insert(text.clone());
        match newest.get_mut(&id) {
            Some(other) if other.seqno > seqno => {}
            Some(other) if other.seqno == seqno => other.is_doubtful = true,
            _ => {
                newest.insert(id, Newest { seqno, text, is_doubtful: false });
            }
        }
        Ok(())
    }
}

/// A physical volume as its group describes it.
struct Member<'a> {
    name: &'a str,
    section: &'a Section<'a>,
    /// Those on the disk that have its identity.
    found: Vec<usize>,
}

/// A physical volume on the disk, as a logical volume uses it: in bytes.
struct Extents {
    /// Where the first extent begins on the disk.
    start: u64,
    len_bytes: u64,
}

/// The text of a group, in parts.
struct Group<'a> {
    name: &'a str,
    id: [u8; 32],
    seqno: u64,
    extent_bytes: u64,
    section: &'a Section<'a>,
}

impl<'a> Group<'a> {
    fn of(whole: &'a Section<'a>) -> Option<Group<'a>> {
        let is_ours =
            whole.text("contents") == Some("Text Format Volume Group") && whole.number("version") == Some(1);
        let mut sections = whole.sections();
        let (name, section) = sections.next().filter(|_| is_ours)?;
        let is_alone = sections.next().is_none() && section.text("format").is_none_or(|f| f == "lvm2");
        let extent_bytes = section.number("extent_size")?.checked_mul(SECTOR).filter(|bytes| *bytes > 0)?;
        let id = id_of(section.text("id")?)?;
        is_alone.then_some(Group { name, id, seqno: section.number("seqno")?, extent_bytes, section })
    }

    fn members(&self, by_id: &HashMap<[u8; 32], Vec<usize>>) -> Vec<Member<'a>> {
        let all = self.section.section("physical_volumes").into_iter().flat_map(Section::sections);
        all.map(|(name, section)| {
            let found = section.text("id").and_then(id_of).and_then(|id| by_id.get(&id));
            Member { name, section, found: found.cloned().unwrap_or_default() }
        })
        .collect()
    }

    /// Its logical volumes, or why none is looked into.
    fn volumes(
        &self,
        copy: &Newest,
        members: &[Member<'a>],
        physical: &[Option<Physical>],
    ) -> Result<Vec<Volume>, &'static str> {
        if copy.is_doubtful {
            return Err("it has two copies of its metadata that are equally new and differ");
        }
        let mut extents = HashMap::new();
        let mut first = u64::MAX;
        for member in members {
            if member.section.lists("flags", "MISSING") {
                return Err("one of its physical volumes is marked as missing");
            }
            let [found] = member.found[..] else {
                return Err(match member.found[..] {
                    [] => "it is on other disks as well, or a part of it is missing",
                    _ => "two physical volumes have the same identity",
                });
            };
            let Some(physical) = &physical[found] else { continue };
            let usable = self.extents(member.section, physical);
            let usable = usable.ok_or("one of its physical volumes is shorter than it was")?;
            first = first.min(physical.start);
            if extents.insert(member.name, usable).is_some() {
                return Err("two physical volumes have the same name");
            }
        }
        let volumes = self.mapped(&extents, first)?;
        if overlap(&volumes) {
            return Err("its logical volumes overlap");
        }
        Ok(volumes)
    }

    fn extents(&self, section: &Section<'_>, physical: &Physical) -> Option<Extents> {
        let start = section.number("pe_start")?.checked_mul(SECTOR)?;
        let len_bytes = section.number("pe_count")?.checked_mul(self.extent_bytes)?;
        let ends = start.checked_add(len_bytes)?;
        (ends <= physical.len_bytes).then_some(Extents { start: physical.start + start, len_bytes })
    }

    fn mapped(&self, extents: &HashMap<&str, Extents>, first: u64) -> Result<Vec<Volume>, &'static str> {
        let all = || self.section.section("logical_volumes").into_iter().flat_map(Section::sections);
        let segments = || all().flat_map(|(_, logical)| logical.sections());
        let named = |key| segments().filter_map(move |(_, segment)| segment.text(key));
        let stores: HashSet<&str> = named("cow_store").chain(named("merging_store")).collect();
        let merging = segments().filter(|(_, segment)| segment.values("merging_store").is_some());
        let merging: HashSet<&str> = merging.filter_map(|(_, segment)| segment.text("origin")).collect();
        let mut volumes = Vec::new();
        for (name, logical) in all() {
            let is_link = logical.sections().any(|(_, segment)| segment.text("type") == Some("snapshot"));
            if is_link || !logical.lists("status", "VISIBLE") {
                continue;
            }
            if volumes.len() == LOGICAL_MAX {
                return Err(TOO_MANY);
            }
            let map = if stores.contains(name) {
                Err("it is a snapshot".to_owned())
            } else if merging.contains(name) {
                Err("a snapshot is being merged into it".to_owned())
            } else {
                self.map(logical, extents)
            };
            let count: u64 = logical
                .sections()
                .filter_map(|(_, segment)| segment.number("extent_count"))
                .fold(0, u64::saturating_add);
            volumes.push(Volume {
                name: format!("{}/{name}", self.name),
                start: map.as_ref().ok().and_then(Map::first).unwrap_or(first),
                len_bytes: count.saturating_mul(self.extent_bytes),
                map,
            });
        }
        Ok(volumes)
    }

    /// Where a logical volume lies, or why this is not known.
    fn map(&self, logical: &Section<'_>, extents: &HashMap<&str, Extents>) -> Result<Map, String> {
        let senseless = || "its segments make no sense".to_owned();
        let mut segments = Vec::new();
        for (_, segment) in logical.sections() {
            segments.push(self.segment(segment, extents)?);
        }
        if segments.is_empty() || logical.number("segment_count") != Some(segments.len() as u64) {
            return Err(senseless());
        }
        segments.sort_by_key(|segment| segment.start);
        let mut len_bytes = 0;
        for segment in &segments {
            if segment.start != len_bytes {
                return Err(senseless());
            }
            len_bytes = segment.start.checked_add(segment.len_bytes).ok_or_else(senseless)?;
        }
        Ok(Map { segments, len_bytes })
    }

    fn segment(&self, segment: &Section<'_>, extents: &HashMap<&str, Extents>) -> Result<Segment, String> {
        let senseless = || "its segments make no sense".to_owned();
        let kind = segment.text("type").ok_or_else(senseless)?;
        if !matches!(kind, "striped" | "linear") {
            let shown: String = kind.chars().take(40).collect();
            return Err(format!("it is of type {shown}"));
        }
        let in_bytes = |key| segment.number(key).and_then(|n| n.checked_mul(self.extent_bytes));
        let start = in_bytes("start_extent").ok_or_else(senseless)?;
        let len_bytes = in_bytes("extent_count").filter(|len| *len > 0).ok_or_else(senseless)?;
        let pairs = segment.values("stripes").unwrap_or_default();
        let count = pairs.len() as u64 / 2;
        let is_plain = count > 0
            && pairs.len().is_multiple_of(2)
            && segment.number("stripe_count") == Some(count)
            && (len_bytes / self.extent_bytes).is_multiple_of(count);
        if !is_plain {
            return Err(senseless());
        }
        let run_bytes = len_bytes / count;
        let stripe_bytes = match count {
            1 => run_bytes,
            _ => segment.number("stripe_size").and_then(|n| n.checked_mul(SECTOR)).ok_or_else(senseless)?,
        };
        if stripe_bytes == 0 || !run_bytes.is_multiple_of(stripe_bytes) {
            return Err(senseless());
        }
        let mut runs = Vec::new();
        for pair in pairs.chunks(2) {
            let [Value::Text(name), Value::Number(extent)] = pair else { return Err(senseless()) };
            // What is moved at this moment, for one, lies on another logical volume.
            let on = extents.get(name).ok_or("it lies on another logical volume")?;
            let at = extent.checked_mul(self.extent_bytes).ok_or_else(senseless)?;
            if at.checked_add(run_bytes).is_none_or(|end| end > on.len_bytes) {
                return Err("it reaches beyond the end of a physical volume".into());
            }
            runs.push(on.start + at);
        }
        Ok(Segment { start, len_bytes, stripe_bytes, runs })
    }
}

/// Whether two runs share a byte.
fn overlap(volumes: &[Volume]) -> bool {
    let maps = volumes.iter().filter_map(|volume| volume.map.as_ref().ok());
    let segments = maps.flat_map(|map| &map.segments);
    let mut runs: Vec<(u64, u64)> = segments
        .flat_map(|one| one.runs.iter().map(|run| (*run, run + one.len_bytes / one.runs.len() as u64)))
        .collect();
    runs.sort_unstable();
    runs.windows(2).any(|pair| pair[1].0 < pair[0].1)
}
