//! Values of options, read from text. Pure; what cannot be read is refused with what would be right.

use std::path::{Path, PathBuf};

use bygone_api::{
    call::{ExportTo, NewSource},
    config::{Display, absolute, check_name, parse_bytes, parse_display, parse_mib},
};
use bygone_model::when::{ParseError, parse_duration};

/// Why a value cannot be read. Each says what would be right, for clap shows no hint of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misread {
    /// What stands before the `=` is no name.
    #[error(
        "{0:?} cannot be a disk's id: ids have letters, digits, '-', '_' and '.'; \
         write ./ before a path that has a '='"
    )]
    DiskId(String),
    /// No source.
    #[error("no source: write PATH, store:SIZE or import:PATH")]
    NoSource,
    /// No size.
    #[error("{0:?} is no size: write 20G, 512M, 1.5T, …")]
    Size(String),
    /// No path.
    #[error("write a path")]
    NoPath,
    /// No number of processors.
    #[error("write a number from 1 to 255")]
    Cpus,
    /// No number of seconds.
    #[error("write a number of seconds, such as 300")]
    Seconds,
    /// No block size.
    #[error("write 512 or 4096")]
    BlockSize,
    /// No NBD address.
    #[error("write unix:PATH or HOST:PORT")]
    NbdAddress,
    /// No TCP address.
    #[error("write HOST:PORT, such as 127.0.0.1:10809")]
    TcpAddress,
    /// No display.
    #[error("write none, gtk or vnc:ADDRESS, such as vnc:127.0.0.1:0")]
    Display,
    /// No network.
    #[error("write user[,hostfwd=…], tap:INTERFACE or none")]
    Net,
    /// No setting.
    #[error("write KEY=VALUE; KEY= clears a setting")]
    Setting,
    /// No stretch of time.
    #[error("{source}; {}", .source.hint())]
    Duration {
        /// Why not.
        source: ParseError,
    },
}

/// A disk as `--disk` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskArg {
    /// Its id, if it was named.
    pub(crate) id: Option<String>,
    /// Where it comes from.
    pub(crate) source: NewSource,
}

/// Reads `[ID=]SOURCE`. What stands before the first `=` is an id unless it has a `/` or a `:`, for those belong to
/// paths and sources and never to ids.
pub(crate) fn disk(text: &str) -> Result<DiskArg, Misread> {
    let (id, source) = match text.split_once('=') {
        Some((id, _)) if id.contains(['/', ':']) => (None, text),
        Some((id, _)) if check_name(id).is_err() => return Err(Misread::DiskId(id.to_owned())),
        Some((id, source)) => (Some(id.to_owned()), source),
        None => (None, text),
    };
    let source = if let Some(size) = source.strip_prefix("store:") {
        let size_bytes = parse_bytes(size).filter(|bytes| *bytes > 0);
        NewSource::Store(size_bytes.ok_or_else(|| Misread::Size(size.to_owned()))?)
    } else if let Some(path) = source.strip_prefix("import:raw:") {
        NewSource::ImportRaw(path_of(path)?)
    } else if let Some(path) = source.strip_prefix("import:") {
        NewSource::Import(path_of(path)?)
    } else if let Some(path) = source.strip_prefix("raw:") {
        NewSource::TapRaw(path_of(path)?)
    } else {
        NewSource::Tap(path_of(source)?)
    };
    Ok(DiskArg { id, source })
}

fn path_of(text: &str) -> Result<PathBuf, Misread> {
    if text.is_empty() { Err(Misread::NoSource) } else { Ok(absolute(Path::new(text))) }
}

/// Reads a path. Paths of others go through JSON and are told to people, so they are text.
pub(crate) fn path(text: &str) -> Result<PathBuf, Misread> {
    if text.is_empty() { Err(Misread::NoPath) } else { Ok(PathBuf::from(text)) }
}

/// Reads a number of processors.
pub(crate) fn cpus(text: &str) -> Result<u32, Misread> {
    text.parse().ok().filter(|n| (1..=255).contains(n)).ok_or(Misread::Cpus)
}

/// Reads a number of seconds.
pub(crate) fn whole_seconds(text: &str) -> Result<u32, Misread> {
    text.parse().map_err(|_| Misread::Seconds)
}

/// Reads `512` or `4096`.
pub(crate) fn block_bytes(text: &str) -> Result<u32, Misread> {
    match text {
        "512" => Ok(512),
        "4096" | "4K" | "4k" => Ok(4096),
        _ => Err(Misread::BlockSize),
    }
}

/// Reads `1G`, `512M`, `2048`, in MiB.
pub(crate) fn memory_mib(text: &str) -> Result<u32, Misread> {
    parse_mib(text).ok_or_else(|| Misread::Size(text.to_owned()))
}

/// Reads `user[,…]`, `tap:INTERFACE`, `none`.
pub(crate) fn net(text: &str) -> Result<String, Misread> {
    let fits = match text.split_once([':', ',']) {
        None => matches!(text, "user" | "none"),
        Some(("user", rest)) => text.starts_with("user,") && !rest.is_empty(),
        Some(("tap", rest)) => text.starts_with("tap:") && !rest.is_empty(),
        Some(_) => false,
    };
    if fits { Ok(text.to_owned()) } else { Err(Misread::Net) }
}

/// Reads `unix:PATH` or `HOST:PORT`.
pub(crate) fn nbd(text: &str) -> Result<ExportTo, Misread> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path_of(path).map(ExportTo::NbdUnix).map_err(|_| Misread::NbdAddress);
    }
    listen(text).map(ExportTo::NbdTcp).map_err(|_| Misread::NbdAddress)
}

/// Reads `HOST:PORT`.
pub(crate) fn listen(text: &str) -> Result<String, Misread> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(Misread::TcpAddress),
    }
}

/// Reads `none`, `gtk`, `vnc:ADDRESS`.
pub(crate) fn display(text: &str) -> Result<Display, Misread> {
    parse_display(text).ok_or(Misread::Display)
}

/// Reads `KEY=VALUE` of `target set`. Files are told to the manager by absolute path, for it runs in a folder of its
/// own.
pub(crate) fn setting(text: &str) -> Result<(String, String), Misread> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or(Misread::Setting)?;
    let is_file = matches!(key, "kernel" | "initrd" | "cdrom" | "user-data") && !value.is_empty();
    let value =
        if is_file { absolute(Path::new(value)).to_string_lossy().into_owned() } else { value.to_owned() };
    Ok((key.to_owned(), value))
}

/// Reads `10m`, `an hour`, in seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, Misread> {
    parse_duration(text)
        .map(|span| span.to_duration().as_secs())
        .map_err(|source| Misread::Duration { source })
}

/// Reads `30d` and leaves it as it is: the manager counts by the calendar.
pub(crate) fn hold(text: &str) -> Result<String, Misread> {
    parse_duration(text).map(|_| text.to_owned()).map_err(|source| Misread::Duration { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(path: &str) -> NewSource {
        NewSource::Tap(PathBuf::from(path))
    }

    #[test]
    fn disks_are_read_with_and_without_an_id() {
        let read = |text: &str| disk(text).map(|disk| (disk.id, disk.source)).unwrap();
        assert_eq!(read("/dev/sdb"), (None, tap("/dev/sdb")));
        assert_eq!(read("vdb=/dev/sdb"), (Some("vdb".to_owned()), tap("/dev/sdb")));
        assert_eq!(read("store:20G"), (None, NewSource::Store(20 << 30)));
        assert_eq!(read("root=store:1.5T"), (Some("root".to_owned()), NewSource::Store(3 << 39)));
        assert_eq!(read("import:/a.qcow2"), (None, NewSource::Import(PathBuf::from("/a.qcow2"))));
        assert_eq!(read("raw:/dev/sdb"), (None, NewSource::TapRaw(PathBuf::from("/dev/sdb"))));
        assert_eq!(
            read("d=import:raw:/a"),
            (Some("d".to_owned()), NewSource::ImportRaw(PathBuf::from("/a")))
        );
    }

    #[test]
    fn a_path_with_an_equals_sign_is_a_path_where_it_cannot_be_an_id() {
        assert_eq!(disk("/srv/a=b.img").unwrap(), DiskArg { id: None, source: tap("/srv/a=b.img") });
        let import = disk("import:/srv/a=b").unwrap();
        assert_eq!(import, DiskArg { id: None, source: NewSource::Import(PathBuf::from("/srv/a=b")) });
        let named = disk("vda=/srv/a=b.img").unwrap();
        assert_eq!(named, DiskArg { id: Some("vda".to_owned()), source: tap("/srv/a=b.img") });
        let here = disk("./a=b.img").unwrap();
        assert_eq!(here.id, None);
        assert!(
            matches!(here.source, NewSource::Tap(path) if path.is_absolute() && path.ends_with("a=b.img"))
        );
    }

    #[test]
    fn disks_that_make_no_sense_are_refused_with_what_would() {
        for (text, says) in [
            ("my disk=store:1G", "cannot be a disk's id"),
            ("=store:1G", "cannot be a disk's id"),
            ("", "no source"),
            ("vda=", "no source"),
            ("import:", "no source"),
            ("store:", "no size"),
            ("store:0", "no size"),
            ("store:20 GB", "no size"),
        ] {
            let refused = disk(text).unwrap_err().to_string();
            assert!(refused.contains(says), "{text:?}: {refused}");
        }
    }

    #[test]
    fn nbd_addresses_are_read() {
        assert_eq!(nbd("unix:/run/x.sock").unwrap(), ExportTo::NbdUnix(PathBuf::from("/run/x.sock")));
        assert_eq!(nbd("127.0.0.1:10809").unwrap(), ExportTo::NbdTcp("127.0.0.1:10809".to_owned()));
        assert_eq!(nbd("[::1]:10809").unwrap(), ExportTo::NbdTcp("[::1]:10809".to_owned()));
        for bad in ["", "unix:", "localhost", ":10809", "localhost:", "localhost:nbd", "localhost:99999"] {
            assert!(nbd(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_and_displays_are_read() {
        for good in ["user", "none", "user,hostfwd=tcp::2222-:22", "tap:tap0"] {
            assert_eq!(net(good).unwrap(), good);
        }
        for bad in ["", "usr", "user:x", "user,", "tap", "tap:", "tap,x"] {
            assert!(net(bad).is_err(), "{bad:?}");
        }
        assert_eq!(display("gtk").unwrap(), Display::Gtk);
        assert_eq!(display("vnc:127.0.0.1:0").unwrap(), Display::Vnc("127.0.0.1:0".to_owned()));
        assert!(display("vnc:").is_err() && display("sdl").is_err());
    }

    #[test]
    fn settings_keep_what_is_after_the_first_equals_sign() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(setting("append=root=/dev/vda").unwrap(), pair("append", "root=/dev/vda"));
        assert_eq!(setting("kernel=").unwrap(), pair("kernel", ""));
        assert!(Path::new(&setting("kernel=vmlinuz").unwrap().1).is_absolute());
        assert!(setting("memory").is_err() && setting("=1").is_err());
    }

    #[test]
    fn stretches_of_time_are_read() {
        assert_eq!(seconds("10m").unwrap(), 600);
        assert_eq!(seconds("an hour").unwrap(), 3600);
        assert_eq!(hold("30d").unwrap(), "30d");
        assert!(seconds("10").is_err() && hold("soon").is_err());
    }
}
