//! The text in which LVM keeps what it knows of a volume group: sections, and keys with strings, numbers and lists.
//!
//! It borrows from the text, and has a bound on its depth and on the number of its parts.

/// Sections within each other; LVM writes four.
const DEPTH_MAX: usize = 16;
/// Keys, sections and values in all; a logical volume takes about thirty.
const PARTS_MAX: usize = 400_000;

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(u64),
    /// A number that is negative or not whole; nothing that is read here has one.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node<'a> {
    Section(Section<'a>),
    Values(Vec<Value<'a>>),
}

/// What stands between two braces, or the whole text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section<'a>(Vec<(&'a str, Node<'a>)>);

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, node)| node)
    }

    /// The section of a name.
    pub(super) fn section(&self, key: &str) -> Option<&Section<'a>> {
        match self.get(key)? {
            Node::Section(section) => Some(section),
            Node::Values(_) => None,
        }
    }

    /// All sections in it, with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((*name, section)),
            Node::Values(_) => None,
        })
    }

    /// The values of a key: one, or those of a list.
    pub(super) fn values(&self, key: &str) -> Option<&[Value<'a>]> {
        match self.get(key)? {
            Node::Values(values) => Some(values),
            Node::Section(_) => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        match self.values(key)? {
            [Value::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.values(key)? {
            [Value::Number(number)] => Some(*number),
            _ => None,
        }
    }

    /// Whether the list of a key has this text; a key that is not there has none.
    pub(super) fn lists(&self, key: &str, text: &str) -> bool {
        self.values(key).is_some_and(|values| values.contains(&Value::Text(text)))
    }
}

/// Parses a whole text; `None` if it is not one.
pub(super) fn parse(text: &str) -> Option<Section<'_>> {
    let mut parser = Parser { rest: text, parts: 0 };
    let section = parser.section(0)?;
    parser.rest.is_empty().then_some(section)
}

struct Parser<'a> {
    rest: &'a str,
    parts: usize,
}

impl<'a> Parser<'a> {
    /// Goes over blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\0']);
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
        }
    }

    /// Goes over a sign, if it is next.
    fn takes(&mut self, sign: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> Option<&'a str> {
        self.skip();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-+.".contains(c);
        let (word, rest) = self.rest.split_at(self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len()));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn count(&mut self) -> Option<()> {
        self.parts += 1;
        (self.parts <= PARTS_MAX).then_some(())
    }

    /// Up to a brace or the end, which are left for the caller.
    fn section(&mut self, depth: usize) -> Option<Section<'a>> {
        let mut section = Section::default();
        loop {
            self.skip();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Some(section);
            }
            self.count()?;
            let name = self.word()?;
            let node = if self.takes('{') {
                if depth == DEPTH_MAX {
                    return None;
                }
                let below = self.section(depth + 1)?;
                self.takes('}').then_some(Node::Section(below))?
            } else {
                self.takes('=').then(|| self.list())?.map(Node::Values)?
            };
            section.0.push((name, node));
        }
    }

    fn list(&mut self) -> Option<Vec<Value<'a>>> {
        if !self.takes('[') {
            return Some(vec![self.value()?]);
        }
        let mut values = Vec::new();
        while !self.takes(']') {
            values.push(self.value()?);
            // LVM writes a comma between two values; one behind the last does no harm.
            if !self.takes(',') {
                return self.takes(']').then_some(values);
            }
        }
        Some(values)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.count()?;
        if self.takes('"') {
            let end = self.end_of_text()?;
            let text = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            return Some(Value::Text(text));
        }
        let word = self.word()?;
        Some(word.parse().map_or(Value::Other, Value::Number))
    }

    /// Where the quotation mark is that ends a text. Escapes are not resolved: what is read here has none.
    fn end_of_text(&self) -> Option<usize> {
        let mut escaped = false;
        self.rest.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })
    }
}
