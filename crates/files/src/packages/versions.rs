//! Which of two versions is the higher one, by the rules of each package manager.

use std::cmp::Ordering;

use super::PackageManager;

/// Compares two versions.
pub(super) fn compare(manager: PackageManager, a: &str, b: &str) -> Ordering {
    match manager {
        PackageManager::Dpkg => by_parts(a, b, debian),
        PackageManager::Rpm | PackageManager::Pacman => by_parts(a, b, rpm),
        PackageManager::Apk => alpine(a.as_bytes(), b.as_bytes()),
    }
}

/// `[EPOCH:]VERSION[-RELEASE]`, each part by a rule.
fn by_parts(a: &str, b: &str, rule: fn(&[u8], &[u8]) -> Ordering) -> Ordering {
    let ((a_epoch, a), (b_epoch, b)) = (epoch(a), epoch(b));
    let ((a, a_release), (b, b_release)) = (release(a), release(b));
    rule(a_epoch.as_bytes(), b_epoch.as_bytes())
        .then_with(|| rule(a.as_bytes(), b.as_bytes()))
        .then_with(|| rule(a_release.as_bytes(), b_release.as_bytes()))
}

fn epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("0", version))
}

fn release(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Takes the digits from the front of a text, without leading zeroes.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    let zeroes = number.iter().position(|digit| *digit != b'0').unwrap_or(number.len());
    &number[zeroes..]
}

/// Numbers of any length, without leading zeroes.
fn by_number(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// `deb-version(7)`: texts and numbers take turns; in texts `~` comes before the end, and letters before all else.
fn debian(mut a: &[u8], mut b: &[u8]) -> Ordering {
    fn rank(text: &[u8]) -> i32 {
        match text.first() {
            Some(b'~') => -1,
            None => 0,
            Some(byte) if byte.is_ascii_digit() => 0,
            Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
            Some(byte) => i32::from(*byte) + 256,
        }
    }
    fn in_text(text: &[u8]) -> bool {
        text.first().is_some_and(|byte| !byte.is_ascii_digit())
    }
    while !a.is_empty() || !b.is_empty() {
        while in_text(a) || in_text(b) {
            match rank(a).cmp(&rank(b)) {
                Ordering::Equal => (a, b) = (&a[1..], &b[1..]),
                other => return other,
            }
        }
        match by_number(digits(&mut a), digits(&mut b)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    Ordering::Equal
}

/// rpm's comparison, which pacman has as well: pieces of digits or of letters, a number above a text; `~` comes before
/// the end, `^` after it but before all else.
fn rpm(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"~^".contains(byte);
    let skip = |text: &mut &[u8]| {
        let from = text.iter().position(counts).unwrap_or(text.len());
        *text = &text[from..];
    };
    loop {
        skip(&mut a);
        skip(&mut b);
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), Some(_)) => return Ordering::Less,
            (Some(_), Some(b'^')) => return Ordering::Greater,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                match by_number(digits(&mut a), digits(&mut b)) {
                    Ordering::Equal => continue,
                    other => return other,
                }
            }
            (Some(x), Some(_)) if x.is_ascii_digit() => return Ordering::Greater,
            (Some(_), Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(_), Some(_)) => match letters(&mut a).cmp(letters(&mut b)) {
                Ordering::Equal => {}
                other => return other,
            },
        }
    }
}

fn letters<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    *text = rest;
    word
}

/// `apk-package(5)`: `NUMBER{.NUMBER}[LETTER]{_SUFFIX[NUMBER]}[-rNUMBER]`. A number after the first that begins with a
/// zero is compared as a fraction.
fn alpine(mut a: &[u8], mut b: &[u8]) -> Ordering {
    /// What comes next, the lower the less the version is.
    fn next(text: &[u8]) -> u8 {
        match text {
            [b'_', rest @ ..] if rest.starts_with(b"alpha") => 0,
            [b'_', rest @ ..] if rest.starts_with(b"beta") => 1,
            [b'_', rest @ ..] if rest.starts_with(b"pre") && !rest.starts_with(b"prefix") => 2,
            [b'_', rest @ ..] if rest.starts_with(b"rc") => 3,
            [] => 4,
            [b'-', ..] => 5,
            [b'_', rest @ ..] if rest.starts_with(b"cvs") => 6,
            [b'_', rest @ ..] if rest.starts_with(b"svn") => 7,
            [b'_', rest @ ..] if rest.starts_with(b"git") => 8,
            [b'_', rest @ ..] if rest.starts_with(b"hg") => 9,
            [b'_', ..] => 10,
            [byte, ..] if byte.is_ascii_alphabetic() => 11,
            [b'.', ..] => 12,
            _ => 13,
        }
    }
    let mut is_first = true;
    loop {
        let (x, y) = (a, b);
        let fraction = |text: &[u8]| text.first() == Some(&b'0');
        let by_digits = if !is_first && (fraction(a) || fraction(b)) {
            let _ = (digits(&mut a), digits(&mut b));
            x[..x.len() - a.len()].cmp(&y[..y.len() - b.len()])
        } else {
            by_number(digits(&mut a), digits(&mut b))
        };
        is_first = false;
        match by_digits.then_with(|| next(a).cmp(&next(b))) {
            Ordering::Equal if a.is_empty() || b.is_empty() => return a.len().cmp(&b.len()),
            Ordering::Equal => {}
            other => return other,
        }
        if !a[0].is_ascii_alphabetic() {
            (a, b) = (&a[1..], &b[1..]);
        }
        match letters(&mut a).cmp(letters(&mut b)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
}
