use std::sync::Arc;

use proptest::prelude::*;

use super::{
    command::{Command, Span, Terms, understand},
    exports::{ExportInfo, Exports, OpenError},
    fuzzing,
    limits::PAYLOAD_BYTES_MAX,
    wire::{
        option::OptionHeader,
        request::{Cookie, Request},
    },
};
use crate::device::{BlockDevice, Extent, Geometry, IoError, Reading, Writing};

struct Nothing(Geometry);

impl BlockDevice for Nothing {
    fn geometry(&self) -> Geometry {
        self.0
    }
    fn read(&self, _: u64, _: &mut [u8], _: Reading) -> Result<(), IoError> {
        Err(IoError::Full)
    }
    fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
        Err(IoError::Full)
    }
    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
    fn extents(&self, _: u64, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<(), IoError> {
        Ok(())
    }
    fn prefetch(&self, _: u64, _: u64) {}
}

struct Same(Geometry);

impl Exports for Same {
    fn list(&self) -> Vec<ExportInfo> {
        vec![ExportInfo { name: "a".to_owned(), description: String::new() }]
    }
    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        if name == "a" { Ok(Arc::new(Nothing(self.0))) } else { Err(OpenError::Closing) }
    }
}

fn geometries() -> impl Strategy<Value = Geometry> {
    (0_u64..1 << 40, prop::sample::select(vec![512_u32, 4096]), any::<bool>(), any::<bool>()).prop_map(
        |(blocks, block_bytes, read_only, can_trim)| Geometry {
            size_bytes: blocks * u64::from(block_bytes),
            block_bytes,
            read_only,
            can_trim,
        },
    )
}

/// Requests that are likely to be valid, besides arbitrary ones.
fn requests() -> impl Strategy<Value = Request> {
    let offset = prop_oneof![any::<u64>(), (0_u64..4096).prop_map(|block| block * 512)];
    let len = prop_oneof![any::<u32>(), (0_u32..128).prop_map(|block| block * 512)];
    (0_u16..32, 0_u16..10, any::<u64>(), offset, len).prop_map(|(flags, kind, cookie, offset, len_bytes)| {
        Request { flags, kind, cookie: Cookie(cookie), offset, len_bytes }
    })
}

proptest! {
    #[test]
    fn a_command_lies_within_the_device_and_is_allowed(
        request in requests(),
        geometry in geometries(),
        structured: bool,
        aligned: bool,
    ) {
        let terms = Terms { geometry, structured, status: structured, aligned };
        let Ok(command) = understand(&request, &terms) else { return Ok(()) };
        let (span, writes) = match command {
            Command::Read { span, .. } => {
                prop_assert!(span.len_bytes <= PAYLOAD_BYTES_MAX);
                (span, false)
            }
            Command::Write { span, .. } | Command::Clear { span, .. } => (span, true),
            Command::Cache(span) | Command::Status { span, .. } => (span, false),
            Command::Flush | Command::Disconnect => (Span { offset: 0, len_bytes: 0 }, false),
        };
        prop_assert!(!(writes && geometry.read_only));
        prop_assert!(u128::from(span.offset) + u128::from(span.len_bytes) <= u128::from(geometry.size_bytes));
        if aligned {
            prop_assert!(span.offset.is_multiple_of(u64::from(geometry.block_bytes)));
            prop_assert!(span.len_bytes.is_multiple_of(geometry.block_bytes));
        }
    }

    #[test]
    fn any_handshake_is_survived(
        flags in prop_oneof![0_u32..4, any::<u32>()],
        options in prop::collection::vec((prop_oneof![0_u32..13, any::<u32>()], prop::collection::vec(0_u8..4, 0..40)), 0..30),
        cut: prop::sample::Index,
        geometry in geometries(),
    ) {
        let mut bytes = flags.to_be_bytes().to_vec();
        for (kind, data) in options {
            bytes.extend(OptionHeader { kind, len_bytes: u32::try_from(data.len()).unwrap() }.encode());
            bytes.extend(data);
        }
        fuzzing::handshake(&bytes[..cut.index(bytes.len())], &Same(geometry));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), geometry in geometries()) {
        fuzzing::handshake(&bytes, &Same(geometry));
        let terms = Terms { geometry, structured: true, status: true, aligned: true };
        fuzzing::transmission(&bytes, &terms, &mut |_, _| {});
    }
}

#[test]
fn the_fuzzing_entry_points_reach_their_ends() {
    let geometry = Geometry { size_bytes: 4096, block_bytes: 512, read_only: false, can_trim: true };
    let go = OptionHeader { kind: 7, len_bytes: 7 }.encode();
    let bytes = [&3_u32.to_be_bytes()[..], &go, &[0, 0, 0, 1, b'a', 0, 0]].concat();
    let terms = Terms { geometry, structured: false, status: false, aligned: false };
    assert_eq!(fuzzing::handshake(&bytes, &Same(geometry)).1, Some(terms));
    let request =
        |offset, len_bytes| Request { flags: 0, kind: 1, cookie: Cookie(1), offset, len_bytes }.encode();
    let bytes = [&request(0, 512)[..], &[0; 512], &request(8192, 512), &[0; 512], &[0; 28]].concat();
    let (mut done, mut refused) = (0, 0);
    fuzzing::transmission(&bytes, &terms, &mut |_, understood| match understood {
        Ok(_) => done += 1,
        Err(_) => refused += 1,
    });
    assert_eq!((done, refused), (1, 1));
}
