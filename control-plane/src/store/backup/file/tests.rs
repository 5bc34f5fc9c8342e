//! What is written is read, and nothing else is.

use proptest::prelude::*;

use super::*;

fn header() -> records::BackupHeader {
    records::BackupHeader {
        schema: crate::store::sled::SCHEMA,
        product: "0.1.0".to_owned(),
        begin_time_ms: 1_770_000_000_000,
        store: Bytes::from_static(&[7; 16]),
        epoch: 3,
    }
}

fn with_header(header: &records::BackupHeader, rows: &[Change], changes: &[Change]) -> Vec<u8> {
    let (mut encoder, mut file) = {
        let (encoder, begin) = Encoder::begin(header);
        (encoder, begin.to_vec())
    };
    for (row, change) in rows.chunks(3).zip(changes.chunks(2).map(Some).chain(std::iter::repeat(None))) {
        file.extend(encoder.rows(row.to_vec()));
        file.extend(change.map(|change| encoder.changes(change.to_vec())).unwrap_or_default());
    }
    let told = rows.len().div_ceil(3) * 2;
    file.extend(encoder.changes(changes.get(told..).unwrap_or_default().to_vec()));
    file.extend(encoder.data_keys(&records::DataKeysRecord::default()));
    file.extend(encoder.finish());
    file
}

fn whole(rows: &[Change], changes: &[Change]) -> Vec<u8> {
    with_header(&header(), rows, changes)
}

/// The rows and the changes in a file.
fn read(file: &[u8]) -> Result<(Vec<Change>, Vec<Change>), FileError> {
    let (mut reader, found) = Reader::open(file)?;
    assert_eq!(found, header());
    let (mut rows, mut changes) = (Vec::new(), Vec::new());
    let plain = |row: records::BackupRow| (row.key.to_vec(), row.value.map(|value| value.to_vec()));
    while let Some(part) = reader.next()? {
        match part {
            Part::Rows(found) => rows.extend(found.into_iter().map(plain)),
            Part::Changes(found) => changes.extend(found.into_iter().map(plain)),
            Part::DataKeys(_) => {}
        }
    }
    assert_eq!(reader.end().1, file.len() as u64);
    Ok((rows, changes))
}

fn some() -> Vec<u8> {
    let row = |number: u8| (vec![b'E', number], Some(vec![number; 20]));
    let rows: Vec<Change> = (0..7).map(row).collect();
    whole(&rows, &[row(9), (vec![b'E', 1], None)])
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..20), any::<Vec<u8>>().prop_map(Some)), 0..30),
        changes in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..20), any::<Option<Vec<u8>>>()), 0..30),
    ) {
        prop_assert_eq!(read(&whole(&rows, &changes)).unwrap(), (rows, changes));
    }

    #[test]
    fn nothing_that_is_read_panics(bytes in any::<Vec<u8>>(), at in 0_usize..200) {
        prop_assert!(read(&bytes).is_err());
        let mut file = some();
        let at = at % file.len();
        file.truncate(at);
        file.extend(bytes);
        let _any = read(&file);
    }
}

#[test]
fn a_cut_anywhere_is_known() {
    let file = some();
    for end in 0..file.len() {
        assert!(matches!(read(&file[..end]), Err(FileError::Cut(at)) if at == end as u64), "{end}");
        let mut seal = Seal::default();
        file[..end].chunks(5).for_each(|bytes| seal.push(bytes));
        assert!(!seal.is_whole(), "{end}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_known() {
    let file = some();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "{at} {bit}");
        }
        let mut seal = Seal::default();
        seal.push(&file[..at]);
        seal.push(&[!file[at]]);
        seal.push(&file[at + 1..]);
        assert!(!seal.is_whole(), "{at}");
    }
    let mut seal = Seal::default();
    file.chunks(7).for_each(|bytes| seal.push(bytes));
    assert!(seal.is_whole());
}

#[test]
fn more_behind_the_end_is_known() {
    let mut file = some();
    file.push(0);
    assert!(matches!(read(&file), Err(FileError::Damaged { problem, .. }) if problem.contains("follows")));
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert!(matches!(read(b"#!/bin/sh\nexit 0"), Err(FileError::Foreign)));
    assert!(matches!(read(b"PRBKUP-2 and more"), Err(FileError::Newer(_))));
    let of = |schema| {
        Reader::open(with_header(&records::BackupHeader { schema, ..header() }, &[], &[]).as_slice()).err()
    };
    let known = crate::store::sled::SCHEMA;
    assert!(matches!(of(known + 1), Some(FileError::Newer(product)) if product == "0.1.0"));
    let oldest = crate::store::sled::OLDEST;
    assert!(of(oldest).is_none());
    assert!(matches!(of(oldest - 1), Some(FileError::Older { .. })));
}
