//! What the emitter and the sink write down of each event, as rows of fixed size in a file: they keep it in memory
//! while they work and hand it over at the end.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::clock::Moment;

/// Bytes of an id that are kept; ids made by the server are shorter.
const ID: usize = 32;
/// Bytes of a row: an id and two numbers.
const ROW: usize = ID + 16;

/// An event's id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Id([u8; ID]);

impl Id {
    /// Takes the id's first bytes.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; ID];
        let length = text.len().min(ID);
        bytes[..length].copy_from_slice(&text[..length]);
        Self(bytes)
    }
}

/// An event that was accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Emitted {
    /// Which.
    pub(crate) id: Id,
    /// When the call began.
    pub(crate) begun: Moment,
    /// When its answer was there.
    pub(crate) answered: Moment,
}

/// A delivery that arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Arrived {
    /// Of which event.
    pub(crate) id: Id,
    /// At which of the sink's endpoints.
    pub(crate) endpoint: u64,
    /// When it was there in full.
    pub(crate) at: Moment,
}

/// Something that is a row.
pub(crate) trait Row: Sized {
    /// Its id and two numbers.
    fn parts(&self) -> (Id, u64, u64);
    /// The reverse.
    fn from_parts(id: Id, first: u64, second: u64) -> Self;
}

impl Row for Emitted {
    fn parts(&self) -> (Id, u64, u64) {
        (self.id, self.begun.0, self.answered.0)
    }

    fn from_parts(id: Id, first: u64, second: u64) -> Self {
        Self { id, begun: Moment(first), answered: Moment(second) }
    }
}

impl Row for Arrived {
    fn parts(&self) -> (Id, u64, u64) {
        (self.id, self.endpoint, self.at.0)
    }

    fn from_parts(id: Id, first: u64, second: u64) -> Self {
        Self { id, endpoint: first, at: Moment(second) }
    }
}

/// Writes rows to a file.
pub(crate) fn save<T: Row>(path: &Path, rows: &[T]) -> anyhow::Result<()> {
    let mut bytes = Vec::with_capacity(rows.len() * ROW);
    for row in rows {
        let (id, first, second) = row.parts();
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&second.to_le_bytes());
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads the rows of a file, and removes it.
pub(crate) fn take<T: Row>(path: &Path) -> anyhow::Result<Vec<T>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    let (rows, rest) = bytes.as_chunks::<ROW>();
    ensure!(rest.is_empty(), "{} ends within a row", path.display());
    let number = |row: &[u8; ROW], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&row[at..at + 8]);
        u64::from_le_bytes(number)
    };
    Ok(rows
        .iter()
        .map(|row| T::from_parts(Id::new(&row[..ID]), number(row, ID), number(row, ID + 8)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let rows = [
            Arrived { id: Id::new(b"evt_1"), endpoint: 3, at: Moment(u64::MAX) },
            Arrived { id: Id::new(&[b'x'; 40]), endpoint: 0, at: Moment(1) },
        ];
        save(&path, &rows).unwrap();
        assert_eq!(take::<Arrived>(&path).unwrap(), rows);
        assert!(!path.exists());
    }

    #[test]
    fn half_a_row_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, [0; ROW + 1]).unwrap();
        assert!(take::<Emitted>(&path).is_err());
    }
}
