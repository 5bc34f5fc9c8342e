//! Chooses a place below a folder and damages it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;

/// Bytes of a block that counts as used or not.
const BLOCK: usize = 512;

/// How a file is damaged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// One bit of it is flipped.
    Flip,
    /// Its end is cut off.
    Cut,
    /// It has no content any more.
    Empty,
    /// It is gone.
    Delete,
}

impl Damage {
    /// How many of the wanted places there are: emptied and deleted is each file once.
    pub(crate) fn rounds(self, wanted: usize, folder: &Path) -> Result<usize> {
        match self {
            Self::Flip | Self::Cut => Ok(wanted),
            Self::Empty | Self::Delete => Ok(files(&folder.join("store"))?.len().min(wanted)),
        }
    }
}

/// Damages the place of this number, and says what was done.
pub(crate) fn damage(folder: &Path, how: Damage, number: usize, random: &mut StdRng) -> Result<String> {
    let files = files(folder)?;
    let (file, size) = match how {
        Damage::Empty | Damage::Delete => files.get(number).cloned().context("there is no such file")?,
        Damage::Flip | Damage::Cut => choose(files, number, random)?,
    };
    let name = file.strip_prefix(folder)?.display().to_string();
    match how {
        Damage::Flip => {
            let mut bytes = std::fs::read(&file)?;
            let blocks = used_blocks(&bytes);
            let block = blocks[random.random_range(0..blocks.len())];
            let at = random.random_range(block * BLOCK..size.min((block + 1) * BLOCK));
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            std::fs::write(&file, bytes)?;
            Ok(format!("bit {bit} of byte {at} of {size} of {name} is flipped"))
        }
        Damage::Cut => {
            let blocks = used_blocks(&std::fs::read(&file)?);
            let used = blocks.last().map_or(0, |block| size.min((block + 1) * BLOCK));
            let left = random.random_range(0..used);
            std::fs::File::options().write(true).open(&file)?.set_len(left as u64)?;
            Ok(format!("{name} is cut from {size} bytes, {used} of them in use, to {left} bytes"))
        }
        Damage::Empty => {
            std::fs::write(&file, "")?;
            Ok(format!("{name} ({size} bytes) is emptied"))
        }
        Damage::Delete => {
            std::fs::remove_file(&file)?;
            Ok(format!("{name} ({size} bytes) is deleted"))
        }
    }
}

/// A file with content: of every two, one by how much it has, one like any other.
fn choose(files: Vec<(PathBuf, usize)>, number: usize, random: &mut StdRng) -> Result<(PathBuf, usize)> {
    let mut used = Vec::new();
    for (file, size) in files {
        let blocks = used_blocks(&std::fs::read(&file)?).len();
        if blocks > 0 {
            used.push((file, size, if number.is_multiple_of(2) { blocks } else { 1 }));
        }
    }
    let total: usize = used.iter().map(|(_, _, weight)| weight).sum();
    ensure!(total > 0, "there is no file with content");
    let mut at = random.random_range(0..total);
    for (file, size, weight) in used {
        if at < weight {
            return Ok((file, size));
        }
        at -= weight;
    }
    unreachable!("the weights add up to the total")
}

/// The blocks that are not only zeros: stores reserve space for what comes later, whose damage harms nobody.
fn used_blocks(bytes: &[u8]) -> Vec<usize> {
    let blocks = bytes.chunks(BLOCK).enumerate();
    blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)).map(|(number, _)| number).collect()
}

/// Every file below a folder with its size, in a fixed order.
pub(crate) fn files(folder: &Path) -> Result<Vec<(PathBuf, usize)>> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let kind = entry.metadata()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push((entry.path(), usize::try_from(kind.len())?));
            }
        }
    }
    found.sort();
    Ok(found)
}
