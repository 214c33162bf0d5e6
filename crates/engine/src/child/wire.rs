//! What a child and its manager say to each other: frames of a kind (1 byte), a length (u32, little-endian) and so many
//! bytes. Questions and answers are JSON, reading is binary.

use std::{
    error, fmt,
    io::{self, Read},
    sync::Arc,
};

use bygone_files::{Cause, Glanced, Note, ReadError, Software, Survey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most that is read at once, in bytes.
pub(super) const PIECE_MAX: u32 = 1 << 20;
/// No frame is longer. An answer about 1024 partitions takes about 300 KiB.
const FRAME_MAX: u32 = 4 << 20;
/// No disk has more partitions, volumes or notes: `files` stops at 1024 partitions, logical ones included.
const COUNT_MAX: usize = 2048;
/// No text is longer, in characters.
const TEXT_MAX: usize = 512;
/// No answer has more packages: they would not fit into a frame.
const PACKAGES_MAX: usize = 100_000;

const REQUEST: u8 = 1;
const DATA: u8 = 2;
const REFUSAL: u8 = 3;
const READY: u8 = 16;
const NOT_CONFINED: u8 = 17;
const READ: u8 = 18;
const ANSWER: u8 = 19;

/// What a child can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// What is on the disk.
    Survey,
    /// What its volumes say at a glance of the software on them.
    Glances,
    /// Which software is on its volumes.
    Software,
    /// What no honest child does.
    #[cfg(test)]
    Misbehave(super::tests::Misdeed),
}

/// A question about a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) question: Question,
    pub(super) size_bytes: u64,
    pub(super) sector_bytes: u32,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Survey(Survey),
    Glances(Vec<Glanced>),
    Software(Vec<Software>),
    Failed(String),
}

impl Answer {
    /// This answer, if an intact child may have given it, with texts that are short and plain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn checked(self) -> Result<Answer, &'static str> {
        match self {
            Answer::Failed(text) => Ok(Answer::Failed(clipped(&text))),
            Answer::Survey(survey) => checked_survey(survey).map(Answer::Survey),
            Answer::Glances(found) if found.len() <= COUNT_MAX => Ok(Answer::Glances(found)),
            Answer::Software(found) => checked_software(found).map(Answer::Software),
            Answer::Glances(_) => Err(TOO_MUCH),
        }
    }
}

const TOO_MUCH: &str = "it found more than there can be";

fn checked_survey(mut survey: Survey) -> Result<Survey, &'static str> {
    let table = &mut survey.table;
    if survey.volumes.len() > COUNT_MAX || table.partitions.len() > COUNT_MAX || table.notes.len() > COUNT_MAX
    {
        return Err(TOO_MUCH);
    }
    for text in table.partitions.iter_mut().map(|partition| &mut partition.name) {
        *text = clipped(text);
    }
    for note in &mut table.notes {
        if let Note::DamagedGpt { what, .. } = note {
            *what = clipped(what).into();
        }
    }
    for text in survey.volumes.iter_mut().map(|volume| &mut volume.evidence) {
        *text = clipped(text);
    }
    Ok(survey)
}

fn checked_software(mut found: Vec<Software>) -> Result<Vec<Software>, &'static str> {
    let packages = |software: &Software| {
        let databases = software.databases.iter().flatten();
        databases.map(|database| database.packages.len()).sum::<usize>()
    };
    if found.len() > COUNT_MAX || found.iter().map(packages).sum::<usize>() > PACKAGES_MAX {
        return Err(TOO_MUCH);
    }
    for database in found.iter_mut().filter_map(|software| software.databases.as_mut()).flatten() {
        for package in &mut database.packages {
            for text in [&mut package.name, &mut package.arch, &mut package.version] {
                *text = clipped(text);
            }
        }
        // What relies on their order does not rely on the child's.
        database.packages.sort_unstable();
    }
    Ok(found)
}

/// A text of a child, without control characters, and not longer than an intact one's.
pub(super) fn clipped(text: &str) -> String {
    text.chars()
        .take(TEXT_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// Why a read failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
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

impl Refusal {
    pub(super) fn of(error: &ReadError) -> Refusal {
        let why = match &error.cause {
            Cause::Outside => Why::Outside,
            Cause::Cancelled => Why::Cancelled,
            Cause::TooMuch => Why::TooMuch,
            Cause::Failed(error) => Why::Failed(error.to_string()),
        };
        Refusal { offset: error.offset, len_bytes: error.len_bytes, why }
    }

    pub(super) fn into_error(self) -> ReadError {
        let cause = match self.why {
            Why::Outside => Cause::Outside,
            Why::Cancelled => Cause::Cancelled,
            Why::TooMuch => Cause::TooMuch,
            Why::Failed(text) => Cause::Failed(Arc::new(RemoteError(text))),
        };
        ReadError { offset: self.offset, len_bytes: self.len_bytes, cause }
    }
}

/// An error of which only the text is known here.
#[derive(Debug)]
struct RemoteError(String);

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for RemoteError {}

/// One thing said.
#[derive(Debug)]
pub(super) enum Frame {
    // The manager says:
    Request(Request),
    Data(Vec<u8>),
    Refusal(Refusal),
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
            Frame::Request(request) => json(&mut bytes, REQUEST, request)?,
            Frame::Data(data) => {
                bytes.extend(data);
                DATA
            }
            Frame::Refusal(refused) => json(&mut bytes, REFUSAL, refused)?,
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
            REQUEST => Frame::Request(parsed(&bytes)?),
            DATA => Frame::Data(bytes),
            REFUSAL => Frame::Refusal(parsed(&bytes)?),
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
