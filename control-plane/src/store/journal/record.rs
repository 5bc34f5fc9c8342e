//! How commits stand in a segment: one record each, which carries its own checksum, position and link to the record before.
//!
//! Pure: bytes in, bytes out. All numbers are little-endian.
//!
//! ```text
//! record  = length of payload: u32 | crc: u32 | position: u64 | crc of the record before: u32 | payload
//! payload = kinds: u8 | (kind: u8 | rows: u64 | sum: u64)* | (length of key: u32 | key | length of value: u32 | value)*
//! mark    = "SYNC": 4 bytes | position: u64 | crc: u32
//! ```
//!
//! A value of length 2^32 - 1 stands for a removed row. The crc (CRC-32) of a record covers everything behind itself; a mark
//! stands behind the last record and says that the record of this position was synced.

use super::Row;
use crate::store::digest::Total;

/// Bytes before a record's payload.
pub(super) const HEAD: usize = 20;
/// Bytes of a mark.
pub(super) const MARK: usize = 16;
/// The largest payload that a record may state: far above the largest group of commits.
pub(super) const MAX_PAYLOAD: usize = 1 << 30;

const SYNC: [u8; 4] = *b"SYNC";
const REMOVED: u32 = u32::MAX;

/// A record in the bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) position: u64,
    pub(super) crc: u32,
    /// The crc of the record before it.
    pub(super) previous: u32,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole record.
    pub(super) fn len(&self) -> usize {
        HEAD + self.payload.len()
    }
}

/// What a commit consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    /// The totals, after the commit, of the kinds of rows that it changes.
    pub(super) totals: Vec<(u8, Total)>,
    pub(super) rows: Vec<Row>,
}

/// Encodes a record; returns its bytes and its crc.
pub(super) fn encode(position: u64, previous: u32, totals: &[(u8, Total)], rows: &[Row]) -> (Vec<u8>, u32) {
    let size: usize =
        rows.iter().map(|(key, value)| 8 + key.len() + value.as_ref().map_or(0, Vec::len)).sum();
    let mut record = Vec::with_capacity(HEAD + 1 + totals.len() * 17 + size);
    record.extend_from_slice(&[0; 8]);
    record.extend_from_slice(&position.to_le_bytes());
    record.extend_from_slice(&previous.to_le_bytes());
    push_totals(&mut record, totals);
    for (key, value) in rows {
        push(&mut record, key);
        match value {
            Some(value) => push(&mut record, value),
            None => record.extend_from_slice(&REMOVED.to_le_bytes()),
        }
    }
    let length = u32::try_from(record.len() - HEAD).expect("a commit is far smaller than 4 GiB");
    record[..4].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    (record, crc)
}

/// Encodes totals behind their number.
pub(super) fn push_totals(to: &mut Vec<u8>, totals: &[(u8, Total)]) {
    to.push(u8::try_from(totals.len()).expect("there are fewer than 256 kinds of rows"));
    for (kind, total) in totals {
        to.push(*kind);
        to.extend_from_slice(&total.rows.to_le_bytes());
        to.extend_from_slice(&total.sum.to_le_bytes());
    }
}

fn push(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).expect("a row is far smaller than 4 GiB").to_le_bytes());
    to.extend_from_slice(bytes);
}

/// The valid record that begins at an offset, if there is one.
pub(super) fn frame(segment: &[u8], offset: usize) -> Option<Frame<'_>> {
    let bytes = segment.get(offset..)?;
    let mut reader = Reader(bytes);
    let length = usize::try_from(reader.u32()?).ok().filter(|length| (1..=MAX_PAYLOAD).contains(length))?;
    let crc = reader.u32()?;
    let covered = bytes.get(8..HEAD + length)?;
    if crc32fast::hash(covered) != crc {
        return None;
    }
    let (position, previous) = (reader.u64()?, reader.u32()?);
    Some(Frame { position, crc, previous, payload: reader.take(length)? })
}

/// What a record holds; `None` when its checksum is right and its content is not, which only another program writes.
pub(super) fn payload(bytes: &[u8]) -> Option<Payload> {
    let mut reader = Reader(bytes);
    let totals = reader.totals()?;
    let mut rows = Vec::new();
    while !reader.0.is_empty() {
        let key = reader.sized()?.to_vec();
        let value = match reader.u32()? {
            REMOVED => None,
            length => Some(reader.take(usize::try_from(length).ok()?)?.to_vec()),
        };
        rows.push((key, value));
    }
    Some(Payload { totals, rows })
}

/// Encodes the mark that stands behind the last record.
pub(super) fn mark(position: u64) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark[..4].copy_from_slice(&SYNC);
    mark[4..12].copy_from_slice(&position.to_le_bytes());
    let crc = crc32fast::hash(&mark[..12]);
    mark[12..].copy_from_slice(&crc.to_le_bytes());
    mark
}

/// The position of the mark at an offset, if there is one.
pub(super) fn marked(segment: &[u8], offset: usize) -> Option<u64> {
    let bytes: &[u8; MARK] = segment.get(offset..)?.first_chunk()?;
    if !bytes.starts_with(&SYNC) {
        return None;
    }
    let position = u64::from_le_bytes(bytes[4..12].try_into().ok()?);
    (mark(position) == *bytes).then_some(position)
}

/// Reads numbers and texts from the beginning of what is left.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn totals(&mut self) -> Option<Vec<(u8, Total)>> {
        let count = self.take(1)?[0];
        let mut totals = Vec::with_capacity(count.into());
        for _ in 0..count {
            let kind = self.take(1)?[0];
            totals.push((kind, Total { rows: self.u64()?, sum: self.u64()? }));
        }
        Some(totals)
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            (b"Da".to_vec(), Some(b"value".to_vec())),
            (b"Wb".to_vec(), None),
            (b"Wc".to_vec(), Some(vec![])),
        ]
    }

    const TOTALS: [(u8, Total); 2] = [(b'D', Total { rows: 7, sum: 9 }), (b'W', Total { rows: 0, sum: 0 })];

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (record, crc) = encode(42, 17, &TOTALS, &rows());
        let found = frame(&record, 0).unwrap();
        assert_eq!((found.position, found.previous, found.crc, found.len()), (42, 17, crc, record.len()));
        assert_eq!(payload(found.payload).unwrap(), Payload { totals: TOTALS.to_vec(), rows: rows() });
        let behind = [&[0; 5], record.as_slice(), &[1; 9]].concat();
        assert_eq!(frame(&behind, 5).unwrap().position, 42);
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let (record, _) = encode(42, 17, &TOTALS, &rows());
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frame(&flipped, 0), None, "bit {bit}");
        }
        for length in 0..record.len() {
            assert_eq!(frame(&record[..length], 0), None, "{length} bytes");
        }
        assert_eq!(frame(&[0; 4096], 0), None);
        assert_eq!(frame(&[0xff; 4096], 0), None);
    }

    #[test]
    fn a_mark_is_a_mark_only_when_it_is_whole() {
        let bytes = mark(7);
        assert_eq!(marked(&bytes, 0), Some(7));
        for bit in 0..MARK * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(marked(&flipped, 0), None, "bit {bit}");
        }
        assert_eq!(marked(&bytes[..15], 0), None);
        assert_eq!(frame(&bytes, 0), None);
    }
}
