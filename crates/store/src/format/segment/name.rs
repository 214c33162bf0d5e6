//! The names of segments' files: a number, and the term of the holder that made the file.
//!
//! No two holders of a log have a term in common, so none ever writes, renames or removes a file that another one made.

use super::{FOLDER, is_number};

/// How long the number is in a name, in decimal digits.
const NUMBER_DIGITS: usize = 10;
/// How long the term is in a name, in hexadecimal digits.
const TERM_DIGITS: usize = 8;

/// The name of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The segment's number.
    pub number: u32,
    /// The term of the holder that made the file. That of the segment's header is lower if this holder copied what
    /// another one had begun.
    pub term: u32,
}

impl Name {
    /// The file's name, with its folder.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{FOLDER}/{:0NUMBER_DIGITS$}-{:0TERM_DIGITS$x}.seg", self.number, self.term)
    }

    /// The name under which this holder writes a file for this segment until it is whole.
    #[must_use]
    pub fn part_name(self) -> String {
        format!("{}.part", self.file_name())
    }

    /// Whether the holder that made this file had taken the log over from the one that made the other, with that
    /// file's segment.
    #[must_use]
    pub fn supersedes(self, other: Name) -> bool {
        self.term > other.term && self.number <= other.number
    }

    /// Parses a file name (without its folder).
    #[must_use]
    pub fn parse(name: &str) -> Option<Name> {
        let (number, term) = name.strip_suffix(".seg")?.split_once('-')?;
        let parsed = Name { number: number.parse().ok()?, term: u32::from_str_radix(term, 16).ok()? };
        // Files are opened by the name that `file_name` makes, so any other spelling is refused.
        let counts = is_number(parsed.number) && parsed.term > 0;
        (counts && parsed.file_name().strip_prefix(FOLDER)?.strip_prefix('/')? == name).then_some(parsed)
    }

    /// Parses the name of a file that was being written (without its folder).
    #[must_use]
    pub fn parse_part(name: &str) -> Option<Name> {
        Name::parse(name.strip_suffix(".part")?)
    }
}

/// What a segment is called where it does not matter which file it is in: what the names of its files begin with.
#[must_use]
pub fn label(number: u32) -> String {
    format!("{FOLDER}/{number:0NUMBER_DIGITS$}")
}

/// Which of these files belong to the log, in order of number, and which are *superseded*, for a holder in `term`.
///
/// A file is superseded when there is one of a later term with the same or a lower number: whoever made that one had
/// taken the log over, with all that counted from there on. What is superseded was left by a holder that did not know it
/// yet. Files of terms that are still to come concern nobody who holds the log in this one.
#[must_use]
pub fn counted(mut names: Vec<Name>, term: u32) -> (Vec<Name>, Vec<Name>) {
    names.retain(|name| name.term <= term);
    names.sort_unstable();
    let mut newest = 0;
    let (mut counted, mut superseded) = (Vec::new(), Vec::new());
    for same in names.chunk_by(|one, next| one.number == next.number) {
        newest = same.iter().map(|name| name.term).fold(newest, u32::max);
        for &name in same {
            if name.term == newest { counted.push(name) } else { superseded.push(name) }
        }
    }
    (counted, superseded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_and_no_other_spelling_is_one() {
        let name = Name { number: 12, term: 0x1f };
        assert_eq!(name.file_name(), "log/0000000012-0000001f.seg");
        assert_eq!(Name::parse("0000000012-0000001f.seg"), Some(name));
        assert_eq!(Name::parse_part("0000000012-0000001f.seg.part"), Some(name));
        assert!(name.file_name().starts_with(&label(12)));
        for other in [
            "0000000012.seg",
            "+000000012-0000001f.seg",
            "0000000012-0000001F.seg",
            "0000000012-1f.seg",
            "0000000012-00000000.seg",
            "0000000000-00000001.seg",
            "4294967295-00000001.seg",
            "0000000012-0000001f.seg.part",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_later_term_supersedes_what_earlier_ones_have_from_its_number_on() {
        let of = |names: &[(u32, u32)]| -> Vec<Name> {
            names.iter().map(|&(number, term)| Name { number, term }).collect()
        };
        for (there, count) in [
            (&[(1, 1), (2, 1), (3, 1)][..], &[(1, 1), (2, 1), (3, 1)][..]),
            // The second holder copied segment 2 and went on.
            (&[(1, 1), (2, 1), (2, 2), (3, 2)], &[(1, 1), (2, 2), (3, 2)]),
            // The first one went on as well.
            (&[(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)], &[(1, 1), (2, 2)]),
            // Copied from the last one on, and not all of it yet.
            (&[(1, 1), (2, 1), (3, 1), (3, 2)], &[(1, 1), (2, 1), (3, 2)]),
            (&[(1, 2), (2, 1), (2, 3), (3, 2)], &[(1, 2), (2, 3)]),
            // Of a holder that is still to come.
            (&[(1, 1), (1, 9), (2, 3)], &[(1, 1), (2, 3)]),
        ] {
            let mut shuffled = of(there);
            shuffled.reverse();
            let (counted, superseded) = counted(shuffled, 3);
            assert_eq!(counted, of(count), "{there:?}");
            let later = there.iter().filter(|name| name.1 > 3).count();
            assert_eq!(counted.len() + superseded.len() + later, there.len());
        }
    }
}
