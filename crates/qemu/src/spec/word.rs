//! How the command line names networks and displays.

use std::{fmt, str::FromStr};

use super::{Display, Net};
use crate::error::Error;

impl FromStr for Display {
    type Err = Error;

    fn from_str(word: &str) -> Result<Display, Error> {
        match word {
            "none" => Ok(Display::None),
            "gtk" => Ok(Display::Gtk),
            _ => match word.strip_prefix("vnc:").filter(|address| !address.is_empty()) {
                Some(address) => Ok(Display::Vnc(address.to_owned())),
                None => Err(Error::BadWord { word: word.to_owned(), what: "display (none, gtk, vnc:ADDR)" }),
            },
        }
    }
}

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Display::None => f.pad("none"),
            Display::Gtk => f.pad("gtk"),
            Display::Vnc(address) => write!(f, "vnc:{address}"),
        }
    }
}

impl Net {
    /// Parses `user[,hostfwd=…]`, `tap:IFACE` or `none`, which means no card.
    ///
    /// # Errors
    /// [`Error::BadWord`].
    pub fn parse(word: &str) -> Result<Option<Net>, Error> {
        let bad = || Error::BadWord {
            word: word.to_owned(),
            what: "network (user[,hostfwd=…], tap:IFACE, none)",
        };
        if word == "none" {
            return Ok(None);
        }
        if let Some(interface) = word.strip_prefix("tap:") {
            // The kernel's own rule for the names of interfaces.
            let usable = !interface.is_empty()
                && interface.len() < 16
                && !interface.contains(|c: char| c == '/' || c == ',' || c.is_whitespace());
            return if usable { Ok(Some(Net::Tap { interface: interface.to_owned() })) } else { Err(bad()) };
        }
        let mut parts = word.split(',');
        if parts.next() != Some("user") {
            return Err(bad());
        }
        let options: Vec<String> = parts.map(str::to_owned).collect();
        if options.iter().all(|option| option.split_once('=').is_some_and(|(key, _)| !key.is_empty())) {
            Ok(Some(Net::User { options }))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Net::User { options } => {
                f.write_str("user")?;
                options.iter().try_for_each(|option| write!(f, ",{option}"))
            }
            Net::Tap { interface } => write!(f, "tap:{interface}"),
        }
    }
}
