//! The file: how a backup is written down, and read again without trusting it.
//!
//! Eight bytes say what it is, and in which version of this format. Then come frames: a letter for the kind, the length of the
//! content (4 bytes, big-endian), the content, and the CRC-32 of all that. The first is the header, the last the trailer, which
//! counts. Behind it is the SHA-256 of everything before, 32 bytes: by it a file that was cut off or changed anywhere is known.
//! The CRCs say where.

use std::io::Read;

use bytes::Bytes;
use postrider_proto::store as records;
use prost::Message;
use sha2::{Digest as _, Sha256};

use self::Kind::{Changes, DataKeys, Header, Rows, Trailer};

/// What every backup begins with; the last digit is the version of the format.
const MAGIC: &[u8; 8] = b"PRBKUP-1";
/// Bytes of the SHA-256 at its end.
const DIGEST: usize = 32;
/// The kind and the length before a content, and the checksum behind it.
const HEAD: usize = 5;
const CRC: usize = 4;
/// The most that a frame holds: beyond any that is written, and little enough to be read at once.
const MAX_CONTENT: usize = 64 * 1024 * 1024;
/// The content of a frame of rows, about.
pub(in crate::store) const FRAME: usize = 256 * 1024;

/// A row, or, without a value, that it was removed.
pub(in crate::store) type Change = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header = b'H' as isize,
    Rows = b'R' as isize,
    Changes = b'C' as isize,
    DataKeys = b'K' as isize,
    Trailer = b'T' as isize,
}

/// Why a file is no backup that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else.
    #[error("this is not a backup of Postrider; name a file that `postrider backup` wrote")]
    Foreign,
    /// A later version wrote it.
    #[error("a newer version of Postrider wrote this backup ({0}); restore it with that version")]
    Newer(String),
    /// An earlier version wrote it.
    #[error(
        "the backup has schema version {found}, and this program makes {known}; restore it with the version that wrote it, {product}"
    )]
    Older {
        /// In the file.
        found: u64,
        /// In the program.
        known: u64,
        /// Which wrote it.
        product: String,
    },
    /// Its end is missing.
    #[error("the file is cut off after {0} bytes; copy it again, or restore another backup")]
    Cut(u64),
    /// It is not what was written.
    #[error("the file is damaged at byte {at}: {problem}; copy it again, or restore another backup")]
    Damaged {
        /// Where.
        at: u64,
        /// How.
        problem: String,
    },
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] std::io::Error),
}

/// Writes the frames, and remembers what the end says.
pub(in crate::store) struct Encoder {
    digest: Sha256,
    count: records::BackupTrailer,
}

impl Encoder {
    /// The beginning.
    pub(in crate::store) fn begin(header: &records::BackupHeader) -> (Self, Bytes) {
        let mut encoder = Self { digest: Sha256::new(), count: records::BackupTrailer::default() };
        encoder.digest.update(MAGIC);
        let header = encoder.frame(Header, header);
        (encoder, [MAGIC, header.as_ref()].concat().into())
    }

    /// Rows as they were found.
    pub(in crate::store) fn rows(&mut self, rows: Vec<Change>) -> Bytes {
        self.count.rows += rows.len() as u64;
        self.frame(Rows, &list(rows))
    }

    /// What was changed, in order.
    pub(in crate::store) fn changes(&mut self, changes: Vec<Change>) -> Bytes {
        self.count.changes += changes.len() as u64;
        self.frame(Changes, &list(changes))
    }

    /// The wrapped data keys.
    pub(in crate::store) fn data_keys(&mut self, keys: &records::DataKeysRecord) -> Bytes {
        self.frame(DataKeys, keys)
    }

    /// The end.
    pub(in crate::store) fn finish(mut self) -> Bytes {
        let trailer = self.count;
        let trailer = self.frame(Trailer, &trailer);
        [trailer.as_ref(), self.digest.finalize().as_slice()].concat().into()
    }

    fn frame(&mut self, kind: Kind, content: &impl Message) -> Bytes {
        let length = content.encoded_len();
        let mut frame = Vec::with_capacity(HEAD + length + CRC);
        frame.push(kind as u8);
        frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        content.encode(&mut frame).expect("a vector takes any length");
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        self.digest.update(&frame);
        frame.into()
    }
}

fn list(rows: Vec<Change>) -> records::BackupRows {
    let row = |(key, value): Change| records::BackupRow { key: key.into(), value: value.map(Bytes::from) };
    records::BackupRows { rows: rows.into_iter().map(row).collect() }
}

/// What is between the header and the trailer.
pub(in crate::store) enum Part {
    Rows(Vec<records::BackupRow>),
    Changes(Vec<records::BackupRow>),
    DataKeys(records::DataKeysRecord),
}

/// Reads a file once, and checks it on the way.
pub(in crate::store) struct Reader<R> {
    from: R,
    digest: Sha256,
    /// How far it is read.
    at: u64,
    count: records::BackupTrailer,
    data_keys: bool,
}

impl<R: Read> Reader<R> {
    pub(in crate::store) fn open(from: R) -> Result<(Self, records::BackupHeader), FileError> {
        let mut reader = Self {
            from,
            digest: Sha256::new(),
            at: 0,
            count: records::BackupTrailer::default(),
            data_keys: false,
        };
        let mut magic = [0; MAGIC.len()];
        reader.exact(&mut magic)?;
        if magic != *MAGIC {
            let known = magic[..MAGIC.len() - 1] == MAGIC[..MAGIC.len() - 1];
            return Err(if known {
                FileError::Newer("of another format".to_owned())
            } else {
                FileError::Foreign
            });
        }
        let (kind, content) = reader.frame()?;
        if kind != Header {
            return Err(reader.damaged("its header is missing"));
        }
        let header: records::BackupHeader = reader.decode(content)?;
        let known = crate::store::sled::SCHEMA;
        match header.schema {
            found if found > known => Err(FileError::Newer(header.product)),
            found if found < crate::store::sled::OLDEST => {
                Err(FileError::Older { found, known, product: header.product })
            }
            _ => Ok((reader, header)),
        }
    }

    /// The next part. `None` at the end, when all of the file is what was written.
    pub(in crate::store) fn next(&mut self) -> Result<Option<Part>, FileError> {
        let (kind, content) = self.frame()?;
        match kind {
            Rows => {
                let list: records::BackupRows = self.decode(content)?;
                self.count.rows += list.rows.len() as u64;
                Ok(Some(Part::Rows(list.rows)))
            }
            Changes => {
                let list: records::BackupRows = self.decode(content)?;
                self.count.changes += list.rows.len() as u64;
                Ok(Some(Part::Changes(list.rows)))
            }
            DataKeys if !self.data_keys => {
                self.data_keys = true;
                Ok(Some(Part::DataKeys(self.decode(content)?)))
            }
            Trailer => self.finish(content).map(|()| None),
            Header | DataKeys => Err(self.damaged("a part is there twice")),
        }
    }

    /// What it counted, and how long it is. To be asked at the end.
    pub(in crate::store) fn end(&self) -> (records::BackupTrailer, u64) {
        (self.count, self.at)
    }

    fn finish(&mut self, content: Bytes) -> Result<(), FileError> {
        let trailer: records::BackupTrailer = self.decode(content)?;
        if trailer != self.count || !self.data_keys {
            return Err(self.damaged("parts are missing, or there are too many"));
        }
        let expected: [u8; DIGEST] = self.digest.clone().finalize().into();
        let mut digest = [0; DIGEST];
        self.exact(&mut digest)?;
        if digest != expected {
            return Err(self.damaged("its digest does not match"));
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something follows its end")),
            Err(error) => Err(FileError::Io(error)),
        }
    }

    fn frame(&mut self) -> Result<(Kind, Bytes), FileError> {
        let mut head = [0; HEAD];
        self.exact(&mut head)?;
        let [kind, length @ ..] = head;
        let kind = [Header, Rows, Changes, DataKeys, Trailer].into_iter().find(|known| *known as u8 == kind);
        let length = u32::from_be_bytes(length) as usize;
        let Some(kind) = kind.filter(|_| length <= MAX_CONTENT) else {
            return Err(self.damaged("no part begins there"));
        };
        let mut content = Vec::new();
        let read = self.from.by_ref().take(length as u64).read_to_end(&mut content).map_err(FileError::Io)?;
        self.at += read as u64;
        if read < length {
            return Err(FileError::Cut(self.at));
        }
        self.digest.update(&content);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&content);
        let mut found = [0; CRC];
        self.exact(&mut found)?;
        if u32::from_be_bytes(found) != crc.finalize() {
            return Err(self.damaged("a checksum does not match"));
        }
        Ok((kind, content.into()))
    }

    fn exact(&mut self, to: &mut [u8]) -> Result<(), FileError> {
        let mut filled = 0;
        while filled < to.len() {
            match self.from.read(&mut to[filled..]) {
                Ok(0) => return Err(FileError::Cut(self.at + filled as u64)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::Io(error)),
            }
        }
        self.at += filled as u64;
        self.digest.update(&to);
        Ok(())
    }

    fn decode<M: Message + Default>(&self, content: Bytes) -> Result<M, FileError> {
        M::decode(content).map_err(|error| self.damaged(&error.to_string()))
    }

    fn damaged(&self, problem: &str) -> FileError {
        FileError::Damaged { at: self.at, problem: problem.to_owned() }
    }
}

/// Looks at a backup as it passes by: whether its last bytes are the digest of all before them.
#[derive(Default)]
pub struct Seal {
    digest: Sha256,
    last: Vec<u8>,
}

impl Seal {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.last.extend_from_slice(bytes);
        let passed = self.last.len().saturating_sub(DIGEST);
        self.digest.update(&self.last[..passed]);
        self.last.drain(..passed);
    }

    /// Whether it was whole.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.digest.finalize().as_slice() == self.last
    }
}

#[cfg(test)]
mod tests;
