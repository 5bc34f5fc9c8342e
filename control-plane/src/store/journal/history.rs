//! What the journal holds when a store is opened: which commits, which of them were acknowledged, and what is damaged.
//!
//! Reading changes nothing. What follows from the findings is decided by the caller, who knows what the engine has.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{self, Payload};
use super::segment::{self, BLOCK, Header};
use crate::store::digest::Digest;

/// How far apart positions in one segment can be, and the greatest position that a store can reach.
const NEAR: u64 = 1 << 24;
const GREATEST: u64 = 1 << 48;

/// All segments, as they were found.
#[derive(Default)]
pub(in crate::store) struct History {
    segments: Vec<Scanned>,
    /// Where the commits are: segment and offset.
    commits: BTreeMap<u64, Place>,
    /// The greatest position of which something shows that its commit was on disk and may have been acknowledged.
    pub(in crate::store) acknowledged: u64,
    /// Whether something shows that there were more commits, and nothing shows how many.
    pub(in crate::store) cut_off: bool,
    /// What is damaged, in words.
    pub(in crate::store) problems: Vec<String>,
}

#[derive(Clone, Copy)]
struct Place {
    segment: usize,
    offset: usize,
    crc: u32,
}

struct Scanned {
    serial: u64,
    path: PathBuf,
    header: Option<Header>,
    bytes: Vec<u8>,
}

impl History {
    /// Reads the segments in a folder. Without the folder there are none.
    pub(in crate::store) fn read(folder: &Path) -> io::Result<Self> {
        let mut history = Self::default();
        let found = match segment::list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(history),
            found => found?,
        };
        for (serial, path) in found {
            let bytes = std::fs::read(&path)?;
            let header = Header::decode(&bytes);
            history.add(Scanned { serial, path, header, bytes });
        }
        history.look_for_a_missing_segment();
        Ok(history)
    }

    fn add(&mut self, scanned: Scanned) {
        let index = self.segments.len();
        let found = scan(&scanned);
        if scanned.header.is_none() && !found.commits.is_empty() {
            self.problems.push(format!("the header of {} is damaged", scanned.path.display()));
        }
        // A segment takes the place of what others say from its first position on: that is a commit that failed.
        if let Some(header) = &scanned.header {
            self.commits.split_off(&header.first);
            self.acknowledged = header.first - 1;
            self.cut_off = false;
        }
        self.acknowledged = self.acknowledged.max(found.acknowledged);
        self.cut_off |= found.cut_off;
        self.problems.extend(found.problem.map(|problem| format!("{}: {problem}", scanned.path.display())));
        for (position, offset, crc) in found.commits {
            self.commits.insert(position, Place { segment: index, offset, crc });
        }
        self.segments.push(scanned);
    }

    fn look_for_a_missing_segment(&mut self) {
        let last = self.segments.iter().rfind(|segment| segment.header.is_some());
        let Some(next) = last.and_then(|last| segment::next(&last.bytes)) else { return };
        self.acknowledged = self.acknowledged.max(next - 1);
        self.cut_off = true;
        self.problems.push(format!("the segment that begins with commit {next} is missing or empty"));
    }

    /// Whether no segment was ever completed: the journal is new.
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.segments.iter().all(|segment| segment.header.is_none())
    }

    /// The position of the last commit that is there.
    pub(in crate::store) fn last(&self) -> Option<u64> {
        let before =
            self.segments.iter().filter_map(|segment| Some(segment.header.as_ref()?.first - 1)).max();
        self.commits.keys().next_back().copied().max(before).filter(|last| *last > 0)
    }

    /// Whether every commit from the very first one on is there.
    pub(in crate::store) fn reaches_back_to_the_beginning(&self) -> bool {
        let begins = |segment: &Scanned| {
            segment.header.as_ref().is_some_and(|header| {
                let mut before = Digest::default();
                before.set(&header.totals);
                header.first == 1 && before.is_empty()
            })
        };
        !self.cut_off && self.segments.first().is_some_and(begins) && self.follows(0).is_ok()
    }

    /// Whether every commit behind this position is there up to the last one that is; otherwise the first that is missing.
    pub(in crate::store) fn follows(&self, position: u64) -> Result<(), u64> {
        let mut expected = position + 1;
        for found in self.commits.range(expected..).map(|(found, _)| *found) {
            if found != expected {
                return Err(expected);
            }
            expected += 1;
        }
        if expected <= self.acknowledged { Err(expected) } else { Ok(()) }
    }

    /// The commits behind a position, in order.
    pub(in crate::store) fn commits_after(
        &self,
        position: u64,
    ) -> impl Iterator<Item = io::Result<(u64, Vec<super::Row>)>> + '_ {
        let places = self.commits.range(position + 1..);
        places.map(|(position, place)| Ok((*position, self.payload(*place)?.rows)))
    }

    fn payload(&self, place: Place) -> io::Result<Payload> {
        let unknown =
            || io::Error::other("a record of the journal is in a form that this version does not know");
        let bytes = &self.segments[place.segment].bytes;
        let frame = record::frame(bytes, place.offset).ok_or_else(unknown)?;
        record::payload(frame.payload).ok_or_else(unknown)
    }

    /// The digest of all rows after the commit at a position, if the journal knows it.
    pub(in crate::store) fn digest_at(&self, position: u64) -> io::Result<Option<Digest>> {
        let begins =
            |segment: &&Scanned| segment.header.as_ref().is_some_and(|header| header.first <= position + 1);
        let Some(header) = self.segments.iter().rfind(begins).and_then(|segment| segment.header.as_ref())
        else {
            return Ok(None);
        };
        let mut digest = Digest::default();
        digest.set(&header.totals);
        for expected in header.first..=position {
            let Some(place) = self.commits.get(&expected) else { return Ok(None) };
            digest.set(&self.payload(*place)?.totals);
        }
        Ok(Some(digest))
    }

    /// The crc of the commit at a position, to which the next one is linked.
    pub(super) fn crc_at(&self, position: u64) -> u32 {
        let of_header = |segment: &Scanned| {
            segment
                .header
                .as_ref()
                .filter(|header| header.first == position + 1)
                .map(|header| header.previous)
        };
        let place = self.commits.get(&position);
        place.map(|place| place.crc).or_else(|| self.segments.iter().find_map(of_header)).unwrap_or_default()
    }

    /// The greatest serial number of a segment; 0 for none.
    pub(super) fn serial(&self) -> u64 {
        self.segments.iter().map(|segment| segment.serial).max().unwrap_or_default()
    }

    /// The paths of the segments, oldest first: those that were never completed, and the others.
    pub(super) fn files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (complete, incomplete): (Vec<_>, Vec<_>) =
            self.segments.iter().partition(|segment| segment.header.is_some());
        let paths = |segments: Vec<&Scanned>| segments.into_iter().map(|one| one.path.clone()).collect();
        (paths(incomplete), paths(complete))
    }
}

#[derive(Default)]
struct Found {
    commits: Vec<(u64, usize, u32)>,
    acknowledged: u64,
    cut_off: bool,
    problem: Option<String>,
}

/// Finds the records of a segment: first one behind the other, then, if that ends early, whatever is whole behind the damage.
fn scan(segment: &Scanned) -> Found {
    let bytes = segment.bytes.as_slice();
    let mut found = Found::default();
    let (mut offset, mut next) =
        (BLOCK, segment.header.as_ref().map(|header| (header.first, header.previous)));
    while let Some((position, previous)) = next {
        let frame = record::frame(bytes, offset);
        let Some(frame) = frame.filter(|one| one.position == position && one.previous == previous) else {
            break;
        };
        found.commits.push((position, offset, frame.crc));
        offset += frame.len();
        next = Some((position + 1, frame.crc));
    }
    let last = next.map_or(0, |(position, _)| position - 1);
    let is_whole = segment.header.as_ref().is_some_and(|header| bytes.len() as u64 >= header.capacity);
    if record::marked(bytes, offset) == Some(last) && !found.commits.is_empty() {
        found.acknowledged = last;
        return found;
    }
    let behind = bytes.get(offset..).unwrap_or_default();
    let is_blank = behind.iter().all(|byte| *byte == 0);
    if !is_blank {
        salvage(bytes, offset, last, &mut found);
    }
    found.acknowledged = found.acknowledged.max(last.saturating_sub(1));
    if found.acknowledged > last && segment.header.is_some() {
        found.problem = Some(format!("commit {} is damaged", last + 1));
    }
    found.cut_off = segment.header.is_some() && !is_whole && (is_blank || found.acknowledged <= last);
    if found.cut_off {
        found.problem = Some("the file was cut off".to_owned());
    }
    found
}

/// Finds whole records and marks behind a damaged record.
fn salvage(bytes: &[u8], from: usize, last: u64, found: &mut Found) {
    let near = last + 1..=if last == 0 { GREATEST } else { last.saturating_add(NEAR) };
    let mut offset = from;
    while offset + record::MARK <= bytes.len() {
        if let Some(position) = record::marked(bytes, offset).filter(|position| near.contains(position)) {
            found.acknowledged = found.acknowledged.max(position);
        }
        // The position first: to compute a checksum at every offset would take as long as the segment is squared.
        let position = bytes.get(offset + 8..offset + 16).and_then(|bytes| bytes.try_into().ok());
        let is_near = position.is_some_and(|bytes| near.contains(&u64::from_le_bytes(bytes)));
        match is_near.then(|| record::frame(bytes, offset)).flatten() {
            Some(frame) => {
                found.commits.push((frame.position, offset, frame.crc));
                found.acknowledged = found.acknowledged.max(frame.position - 1);
                offset += frame.len();
            }
            None => offset += 1,
        }
    }
}
