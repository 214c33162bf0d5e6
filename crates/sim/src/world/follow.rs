//! A follower that lags, dies at any moment, and resumes from the position it saved.

use bygone_model::{BranchId, Lba, SECTOR_BYTES, Sectors, Seq};
use bygone_store::{
    Batch, Cursor, Error, Followed, Follower,
    format::record::{Op, Subject},
};

use super::{Done, Failure, World, check};
use crate::oracle::Rec;

const NAME: &str = "detector";

impl World {
    /// Resumes from the saved position, for a few batches; it may or may not save its position before it dies.
    pub(super) fn follow(&mut self) -> Done {
        let log = self.log()?;
        let kept = match log.kept_cursor(NAME) {
            Ok(cursor) => cursor,
            Err(error) => return self.excuse("kept cursor", &error),
        };
        // Everything before a saved position was handled. A position whose saving failed may or may not be there.
        check!(
            kept.seq == self.followed
                || self.followed_perhaps.contains(&kept.seq)
                // One that cannot be read now costs some records a second time.
                || self.episode > 0 && kept.seq < self.followed,
            "kept {} instead of {} or {:?}",
            kept.seq,
            self.followed,
            self.followed_perhaps
        );
        let from = if self.rng.chance(50) { Seq::ZERO } else { kept.seq };
        let mut follower = match log.follow(Cursor { seq: from, ..kept }) {
            Ok(follower) => follower,
            Err(Error::InTheFuture { .. }) if self.damaged => {
                // Durable records were lost, so new records reuse their positions.
                return self.keep_place(Seq::ZERO);
            }
            Err(error) => return Err(Failure(format!("following from {from}: {error}"))),
        };
        for _ in 0..self.rng.within(1, 4) {
            let begin = follower.cursor().seq;
            match follower.next_batch() {
                Ok(Some(batch)) => self.check_batch(&follower, begin, &batch)?,
                Ok(None) => {
                    check!(begin >= log.durable_seq(), "nothing more at {begin} of {}", log.durable_seq());
                    break;
                }
                Err(error) => {
                    check!(follower.cursor().seq == begin, "a follower moved and failed");
                    self.excuse("follow", &error)?;
                    break;
                }
            }
        }
        let upto = follower.cursor().seq;
        self.say(format!("follows from {from} to {upto}"));
        if self.rng.chance(600) { self.keep_place(upto) } else { Ok(()) }
    }

    fn keep_place(&mut self, seq: Seq) -> Done {
        match self.log()?.keep_cursor(NAME, seq) {
            Ok(()) => {
                self.followed = seq;
                self.followed_perhaps.clear();
            }
            Err(_) if self.medium.is_dead() => self.followed_perhaps.push(seq),
            Err(error) => {
                self.followed_perhaps.push(seq);
                self.excuse("keep cursor", &error)?;
            }
        }
        Ok(())
    }

    fn check_batch(&mut self, follower: &Follower, begin: Seq, batch: &Batch) -> Done {
        check!(batch.upto > begin && batch.upto <= self.oracle.head(), "a batch up to {}", batch.upto);
        // Records that a follower has received are durable.
        self.oracle.durable = self.oracle.durable.max(batch.upto);
        let mut told: Vec<u64> = batch.records.iter().map(|record| record.seq.0).collect();
        for lost in &batch.lost {
            told.extend(lost.start().0..=lost.end().0);
        }
        check!(batch.lost.is_empty() || self.damaged, "lost {:?}", batch.lost);
        told.sort_unstable();
        check!(told.iter().copied().eq(begin.0 + 1..=batch.upto.0), "after {begin}: {told:?}");
        self.stats.damage_errors += batch.lost.len() as u64;
        for record in &batch.records {
            self.check_followed(follower, record)?;
        }
        Ok(())
    }

    fn check_followed(&mut self, follower: &Follower, record: &Followed) -> Done {
        let seq = record.seq;
        let Some((time, known)) = self.oracle.record(seq.0).cloned() else {
            return Err(Failure(format!("a record {seq} from nowhere")));
        };
        // Without its index, a damaged segment does not know the times of its lost records.
        check!(record.time == time || self.damaged, "{seq} at {} instead of {time}", record.time);
        let wrong = || Failure(format!("{record:?} instead of {known:?}"));
        let ok = match &known {
            Rec::Block(block) => {
                let op =
                    if block.content.is_some() { record.op == Op::Write } else { record.op != Op::Write };
                let place = (record.lba, record.sectors) == (Lba(block.lba), Sectors(block.sectors));
                op && record.op.is_block() && place && record.subject == Subject::volume(block.volume)
            }
            Rec::Event(branch, _) => {
                (record.op, record.subject) == (Op::Event, Subject::branch(BranchId(*branch)))
            }
            Rec::Change(_) => (record.op, record.subject) == (Op::Catalog, Subject::LOG),
            Rec::Mark => (record.op, record.subject) == (Op::Flush, Subject::LOG),
        };
        if !ok {
            return Err(wrong());
        }
        if !self.rng.chance(200) {
            return Ok(());
        }
        match &known {
            Rec::Block(block) => {
                let skip = self.rng.below(block.sectors);
                let sectors = self.rng.within(1, block.sectors - skip);
                let mut bytes = vec![0xa5; (sectors * SECTOR_BYTES) as usize];
                if let Err(error) = follower.read(record, Lba(block.lba + skip), &mut bytes) {
                    return self.excuse("read followed", &error);
                }
                let mut expected = vec![0; bytes.len()];
                if let Some(content) = block.content {
                    self.oracle.fill(content, skip, &mut expected);
                }
                self.stats.compared_bytes += bytes.len() as u64;
                self.note(&bytes);
                if bytes == expected { Ok(()) } else { Err(wrong()) }
            }
            Rec::Event(_, event) => match follower.payload(record) {
                Err(error) => self.excuse("payload followed", &error),
                Ok(payload) => {
                    let read: Option<bygone_model::Event> = serde_json::from_slice(&payload).ok();
                    if read.as_ref() == Some(event) { Ok(()) } else { Err(wrong()) }
                }
            },
            Rec::Change(_) | Rec::Mark => match follower.payload(record) {
                Err(error) => self.excuse("payload followed", &error),
                Ok(payload) => {
                    check!(payload.is_empty() == (known == Rec::Mark), "{seq}: {} bytes", payload.len());
                    Ok(())
                }
            },
        }
    }
}
