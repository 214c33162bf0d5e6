//! Names: UTF-16 as it stands in long names and in exFAT, and the code page of short ones.

/// The upper half of code page 437, which Linux assumes as well if nobody says another one.
const CODE_PAGE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// UTF-8, in which a surrogate without its other half is three bytes of its own, so that no two names become one.
pub(super) fn from_utf16(units: &[u16]) -> Vec<u8> {
    let mut name = Vec::new();
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let unit = error.unpaired_surrogate();
                name.extend([
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 63) as u8,
                    0x80 | (unit & 63) as u8,
                ]);
            }
        }
    }
    name
}

/// A part of a short name, without the spaces behind it.
pub(super) fn from_code_page(bytes: &[u8], lower: bool) -> String {
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b' ').count();
    let page: Vec<char> = CODE_PAGE.chars().collect();
    let decode = |byte: &u8| match byte {
        0..0x80 => char::from(*byte),
        high => page.get(usize::from(*high) - 0x80).copied().unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    let name = bytes[..used].iter().map(decode);
    if lower { name.flat_map(char::to_lowercase).collect() } else { name.collect() }
}

/// Whether two names differ only in case.
pub(super) fn are_alike(a: &[u8], b: &[u8]) -> bool {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    a == b || (str::from_utf8(a).is_ok() && str::from_utf8(b).is_ok() && lower(a) == lower(b))
}

/// Whether it can be the name of a file.
pub(super) fn is_sound(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
