//! Transactions: the operations of the records, put together. One may be spread over many records, several may be mixed,
//! and what began before the tail of the log is left out.

use std::collections::HashMap;

use super::{damaged, records::Records, unsupported};
use crate::{
    bytes::{be32, byte, le16, le32},
    tree::TreeError,
};

const OPERATION_BYTES: usize = 12;
const START: u8 = 1;
const COMMIT: u8 = 2;
const CONTINUE: u8 = 4;
const WAS_CONTINUED: u8 = 8;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
/// "TRAN", in the byte order of the machine that wrote it.
const HEADER_MAGIC: u32 = 0x5452_414e;
const HEADER_BYTES: usize = 16;
/// Of all transactions that are open at one time.
const OPEN_BYTES_MAX: usize = 512 << 20;
const OPEN_MAX: usize = 4096;

/// Something that a transaction changes: the first region says what and how many regions there are.
#[derive(Default)]
pub(super) struct Item {
    pub regions: Vec<Vec<u8>>,
    wanted: usize,
}

impl Item {
    pub(super) fn kind(&self) -> u16 {
        self.regions.first().map_or(0, |region| le16(region, 0))
    }

    /// A region; empty if there is none.
    pub(super) fn region(&self, index: usize) -> &[u8] {
        self.regions.get(index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.regions.len() == self.wanted && self.wanted > 0
    }
}

/// Is given the place of the record in which a transaction was completed, and its items.
pub(super) type EachTransaction<'a> = dyn FnMut(u64, &[Item]) -> Result<(), TreeError> + 'a;

#[derive(Default)]
struct Transaction {
    header_bytes: usize,
    items: Vec<Item>,
    bytes: usize,
}

impl Transaction {
    fn add(&mut self, data: &[u8]) -> Result<(), TreeError> {
        let wrong = Err(damaged(0, "a transaction of its log makes no sense"));
        if data.is_empty() {
            return Ok(());
        }
        if self.header_bytes == 0 {
            if le32(data, 0) != HEADER_MAGIC || data.len() > HEADER_BYTES {
                return wrong;
            }
            self.header_bytes = data.len();
            return Ok(());
        }
        if self.header_bytes < HEADER_BYTES {
            return wrong;
        }
        if self.items.last().is_none_or(Item::is_whole) {
            let wanted = usize::from(le16(data, 2));
            if data.len() < 4 || wanted == 0 {
                return wrong;
            }
            self.items.push(Item { regions: Vec::new(), wanted });
        }
        if let Some(item) = self.items.last_mut() {
            item.regions.push(data.to_vec());
        }
        self.bytes += data.len();
        Ok(())
    }

    /// Adds to the region before, or to the header of the transaction.
    fn extend(&mut self, data: &[u8]) -> Result<(), TreeError> {
        if self.header_bytes < HEADER_BYTES {
            self.header_bytes += data.len();
            if self.header_bytes > HEADER_BYTES {
                return Err(damaged(0, "a transaction of its log makes no sense"));
            }
            return Ok(());
        }
        let region = self.items.last_mut().and_then(|item| item.regions.last_mut());
        region.ok_or(damaged(0, "a transaction of its log makes no sense"))?.extend_from_slice(data);
        self.bytes += data.len();
        Ok(())
    }
}

/// Calls `each` with the complete transactions, in the order in which they were completed.
pub(super) fn each(records: &Records<'_>, each: &mut EachTransaction<'_>) -> Result<(), TreeError> {
    let mut open: HashMap<u32, Transaction> = HashMap::new();
    let mut open_bytes = 0;
    records.each(&mut |lsn, operations, data| {
        let wrong = || damaged(0, "an operation of its log makes no sense");
        let mut at = 0;
        // What comes behind the last one is only there to fill a block.
        for _ in 0..operations {
            if at + OPERATION_BYTES > data.len() {
                break;
            }
            let (number, len) = (be32(data, at), be32(data, at + 4) as usize);
            let flags = byte(data, at + 9);
            at += OPERATION_BYTES;
            let payload = data.get(at..at + len).ok_or(wrong())?;
            at += len;
            let Some(transaction) = open.get_mut(&number) else {
                if flags & START != 0 {
                    open.insert(number, Transaction::default());
                }
                if open.len() > OPEN_MAX {
                    return Err(unsupported("an XFS whose log has so many transactions at once"));
                }
                continue;
            };
            let before = transaction.bytes;
            let flags = flags & !END;
            let flags = if flags & WAS_CONTINUED != 0 { flags & !CONTINUE } else { flags };
            match flags {
                0 | CONTINUE => transaction.add(payload)?,
                WAS_CONTINUED => transaction.extend(payload)?,
                COMMIT => {
                    if let Some(transaction) = open.remove(&number) {
                        open_bytes -= before;
                        if !transaction.items.iter().all(Item::is_whole) {
                            return Err(wrong());
                        }
                        each(lsn, &transaction.items)?;
                    }
                    continue;
                }
                UNMOUNT => {
                    open.remove(&number);
                    open_bytes -= before;
                    continue;
                }
                _ => return Err(wrong()),
            }
            open_bytes += transaction.bytes - before;
            if open_bytes > OPEN_BYTES_MAX {
                return Err(unsupported("an XFS whose log has such long transactions"));
            }
        }
        Ok(())
    })
}
