//! One file of the journal: a header block, then records, in space that is reserved when the file is made.
//!
//! A segment never grows: a file that is shorter than its header says was cut off.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::record::{self, Reader};
use crate::store::digest::Total;

/// Bytes before the first record.
pub(super) const BLOCK: usize = 4096;
/// Where the header block says which segment continues this one.
const NEXT: usize = BLOCK - record::MARK;
/// Bytes of zeros that are written and synced before records overwrite them.
const AHEAD: u64 = 1024 * 1024;
const MAGIC: [u8; 8] = *b"PRJRNL1\n";
/// Not `.log`: tools that tidy logs must not take it for one.
const SUFFIX: &str = ".segment";

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The position of its first record.
    pub(super) first: u64,
    /// The crc of the record before.
    pub(super) previous: u32,
    /// Bytes of the file.
    pub(super) capacity: u64,
    /// The totals of all kinds of rows before the first record.
    pub(super) totals: Vec<(u8, Total)>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.first.to_le_bytes());
        body.extend_from_slice(&self.previous.to_le_bytes());
        body.extend_from_slice(&self.capacity.to_le_bytes());
        record::push_totals(&mut body, &self.totals);
        let length = u32::try_from(body.len()).expect("a header fits into its block");
        let crc = crc32fast::hash(&body);
        let mut block = [&MAGIC[..], &length.to_le_bytes(), &crc.to_le_bytes(), &body].concat();
        assert!(block.len() <= NEXT, "a header fits into its block");
        block.resize(BLOCK, 0);
        block
    }

    pub(super) fn decode(segment: &[u8]) -> Option<Self> {
        let mut reader = Reader(segment.get(..NEXT)?);
        if reader.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let (length, crc) = (reader.u32()?, reader.u32()?);
        let body = reader.take(usize::try_from(length).ok()?)?;
        if crc32fast::hash(body) != crc {
            return None;
        }
        let mut reader = Reader(body);
        let (first, previous, capacity) = (reader.u64()?, reader.u32()?, reader.u64()?);
        Some(Self { first, previous, capacity, totals: reader.totals()? })
    }
}

/// The segment that is being written.
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    capacity: u64,
    /// Where the next record goes.
    end: u64,
    /// Up to here zeros are on disk: a record that overwrites them changes nothing of the file but its content.
    zeroed: u64,
}

impl Segment {
    /// Makes a segment. When this returns, the file, its space and its name are on disk.
    pub(super) fn create(folder: &Path, serial: u64, header: &Header) -> io::Result<Self> {
        let path = path(folder, serial);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let made = reserve(&file, header.capacity)
            .and_then(|()| file.write_all_at(&header.encode(), 0))
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_folder(folder));
        if let Err(error) = made {
            // An incomplete file is ignored by the next start. It is removed because it takes space.
            let _left = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { file, path, capacity: header.capacity, end: BLOCK as u64, zeroed: BLOCK as u64 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of records that it holds.
    pub(super) fn used(&self) -> u64 {
        self.end - BLOCK as u64
    }

    pub(super) fn has_room(&self, record: &[u8]) -> bool {
        self.end + needed(record) <= self.capacity
    }

    /// Writes a record and waits until it is on disk.
    ///
    /// # Errors
    /// When it is not known whether the record is on disk: nothing may be written to this segment any more.
    pub(super) fn append(&mut self, record: &[u8], position: u64) -> io::Result<()> {
        self.zero_up_to(self.end + needed(record))?;
        self.file.write_all_at(record, self.end)?;
        self.file.sync_data()?;
        self.end += record.len() as u64;
        // Not synced: it proves after a killed process, not after a power cut, that this record was acknowledged. Without it
        // only a damaged last record cannot be told from one that was never completed.
        let _only_evidence = self.file.write_all_at(&record::mark(position), self.end);
        Ok(())
    }

    /// Writes zeros and waits until they are on disk, so that the sync of a record needs nothing of the file system's own journal:
    /// it is faster, and its success does not depend on what becomes of that journal.
    fn zero_up_to(&mut self, end: u64) -> io::Result<()> {
        if end <= self.zeroed {
            return Ok(());
        }
        let end = end.next_multiple_of(AHEAD).min(self.capacity);
        let zeros = vec![0; usize::try_from(end - self.zeroed).map_err(io::Error::other)?];
        self.file.write_all_at(&zeros, self.zeroed)?;
        self.file.sync_data()?;
        self.zeroed = end;
        Ok(())
    }
}

/// Notes in a segment that another one goes on with this position.
pub(super) fn note_next(path: &Path, first: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&record::mark(first), NEXT as u64)?;
    file.sync_data()
}

/// The position that the segment which continues this one begins with, if one does.
pub(super) fn next(segment: &[u8]) -> Option<u64> {
    record::marked(segment, NEXT)
}

/// Bytes that a record takes, together with the mark behind it.
pub(super) fn needed(record: &[u8]) -> u64 {
    (record.len() + record::MARK) as u64
}

pub(super) fn path(folder: &Path, serial: u64) -> PathBuf {
    folder.join(format!("{serial:020}{SUFFIX}"))
}

/// The segments in a folder, oldest first.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let serial =
            name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|name| name.parse().ok());
        found.extend(serial.map(|serial| (serial, folder.join(name))));
    }
    found.sort();
    Ok(found)
}

/// Waits until names in a folder are on disk.
pub(in crate::store) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reserves space, so that an append does not fail for want of it. Where the file system cannot do that, the file only gets its
/// length.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let totals = (0..40).map(|kind| (kind, Total { rows: 3, sum: 4 })).collect();
        Header { first: 12, previous: 99, capacity: 1 << 16, totals }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_not_when_a_bit_differs() {
        let block = header().encode();
        assert_eq!(Header::decode(&block), Some(header()));
        let length = 16 + 20 + 1 + 40 * 17;
        for bit in 0..length * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&block[..100]), None);
        assert_eq!(Header::decode(&[0; BLOCK]), None);
    }

    #[test]
    fn a_segment_has_its_length_at_once_and_says_what_continues_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(folder.path(), 3, &header()).unwrap();
        let (record, _) = record::encode(12, 99, &[], &[]);
        segment.append(&record, 12).unwrap();
        note_next(segment.path(), 13).unwrap();
        let bytes = std::fs::read(segment.path()).unwrap();
        assert_eq!(bytes.len(), 1 << 16);
        assert_eq!(record::frame(&bytes, BLOCK).map(|frame| frame.position), Some(12));
        assert_eq!(record::marked(&bytes, BLOCK + record.len()), Some(12));
        assert_eq!(next(&bytes), Some(13));
        assert_eq!(Header::decode(&bytes), Some(header()));
        assert_eq!(list(folder.path()).unwrap(), [(3, segment.path().to_owned())]);
        assert!(!segment.has_room(&vec![0; 1 << 16]));
    }
}
