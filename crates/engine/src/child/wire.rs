//! What a child and its manager say to each other: frames of a kind (1 byte), a length (u32, little-endian) and so many
//! bytes. Questions and answers are JSON, reading is binary.

use std::{
    error, fmt,
    io::{self, Read},
    sync::Arc,
};

use bygone_files::{Cause, ReadError, Survey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most that is read at once, in bytes.
pub(super) const PIECE_MAX: u32 = 1 << 20;
/// No frame is longer. An answer about 1024 partitions takes about 300 KiB.
const FRAME_MAX: u32 = 4 << 20;

const QUESTION: u8 = 1;
const DATA: u8 = 2;
const REFUSED: u8 = 3;
const READY: u8 = 16;
const NOT_CONFINED: u8 = 17;
const READ: u8 = 18;
const ANSWER: u8 = 19;

/// What a child can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// What is on the disk.
    Survey,
    /// What no honest child does.
    #[cfg(test)]
    Misbehave(super::tests::Misdeed),
}

/// A question about a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) size_bytes: u64,
    pub(super) sector_bytes: u32,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Survey(Survey),
    Failed(String),
}

/// Why a read failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    offset: u64,
    len_bytes: usize,
    why: Why,
}

#[derive(Debug, Serialize, Deserialize)]
enum Why {
    Outside,
    Cancelled,
    TooMuch,
    Failed(String),
}

impl Refused {
    pub(super) fn of(error: &ReadError) -> Refused {
        let why = match &error.cause {
            Cause::Outside => Why::Outside,
            Cause::Cancelled => Why::Cancelled,
            Cause::TooMuch => Why::TooMuch,
            Cause::Failed(error) => Why::Failed(error.to_string()),
        };
        Refused { offset: error.offset, len_bytes: error.len_bytes, why }
    }

    pub(super) fn into_error(self) -> ReadError {
        let cause = match self.why {
            Why::Outside => Cause::Outside,
            Why::Cancelled => Cause::Cancelled,
            Why::TooMuch => Cause::TooMuch,
            Why::Failed(text) => Cause::Failed(Arc::new(Told(text))),
        };
        ReadError { offset: self.offset, len_bytes: self.len_bytes, cause }
    }
}

/// An error of which only the text has come.
#[derive(Debug)]
struct Told(String);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Told {}

/// One thing said.
#[derive(Debug)]
pub(super) enum Frame {
    // The manager says:
    Question(Asked),
    Data(Vec<u8>),
    Refused(Refused),
    // The child says:
    Ready,
    NotConfined(String),
    Read { offset: u64, len_bytes: u32 },
    Answer(Answer),
}

impl Frame {
    /// The bytes of this frame.
    ///
    /// # Errors
    /// `InvalidData` if it is too long.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 5];
        let kind = match self {
            Frame::Question(asked) => json(&mut bytes, QUESTION, asked)?,
            Frame::Data(data) => {
                bytes.extend(data);
                DATA
            }
            Frame::Refused(refused) => json(&mut bytes, REFUSED, refused)?,
            Frame::Ready => READY,
            Frame::NotConfined(why) => json(&mut bytes, NOT_CONFINED, why)?,
            Frame::Read { offset, len_bytes } => {
                bytes.extend(offset.to_le_bytes());
                bytes.extend(len_bytes.to_le_bytes());
                READ
            }
            Frame::Answer(answer) => json(&mut bytes, ANSWER, answer)?,
        };
        let len =
            u32::try_from(bytes.len() - 5).ok().filter(|len| *len <= FRAME_MAX).ok_or_else(senseless)?;
        bytes[0] = kind;
        bytes[1..5].copy_from_slice(&len.to_le_bytes());
        Ok(bytes)
    }

    /// The next frame; `None` if the other side has closed before it.
    ///
    /// # Errors
    /// `InvalidData` if it is none; those of `from`.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        if from.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..])?;
        let [kind, len @ ..] = head;
        let len = u32::from_le_bytes(len);
        if len > FRAME_MAX {
            return Err(senseless());
        }
        let mut bytes = vec![0; len as usize];
        from.read_exact(&mut bytes)?;
        Ok(Some(match kind {
            QUESTION => Frame::Question(parsed(&bytes)?),
            DATA => Frame::Data(bytes),
            REFUSED => Frame::Refused(parsed(&bytes)?),
            READY if bytes.is_empty() => Frame::Ready,
            NOT_CONFINED => Frame::NotConfined(parsed(&bytes)?),
            READ => {
                let (offset, len) = bytes.split_first_chunk::<8>().ok_or_else(senseless)?;
                let len_bytes = u32::from_le_bytes(len.try_into().map_err(|_| senseless())?);
                if len_bytes > PIECE_MAX {
                    return Err(senseless());
                }
                Frame::Read { offset: u64::from_le_bytes(*offset), len_bytes }
            }
            ANSWER => Frame::Answer(parsed(&bytes)?),
            _ => return Err(senseless()),
        }))
    }
}

fn json(bytes: &mut Vec<u8>, kind: u8, value: &impl Serialize) -> io::Result<u8> {
    serde_json::to_writer(bytes, value)?;
    Ok(kind)
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|_| senseless())
}

fn senseless() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
