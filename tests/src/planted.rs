//! Secrets that a test plants, and the search for them: in files, logs and answers, in every form that a program could
//! have written them in.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Fewer bytes stand anywhere by chance.
const MIN: usize = 8;

/// Something secret, by a name for people.
#[derive(Clone, Debug)]
pub struct Planted {
    name: String,
    forms: Vec<Vec<u8>>,
}

impl Planted {
    /// A secret that is a text.
    #[must_use]
    pub fn text(name: &str, text: &str) -> Self {
        Self::bytes(name, text.as_bytes())
    }

    /// A signing secret: the bytes that `whsec_` and base64 stand for, and that text; of a `whsk_` the seed, for its other
    /// half is public.
    ///
    /// # Errors
    /// When it is none.
    pub fn signing_secret(name: &str, text: &str) -> Result<Self> {
        let standard = base64::engine::general_purpose::STANDARD;
        if let Some(coded) = text.strip_prefix("whsk_") {
            let pair = standard.decode(coded)?;
            return Ok(Self::bytes(name, pair.get(..32).context("it is shorter than a seed")?));
        }
        let coded = text.strip_prefix("whsec_").context("it does not begin with whsec_ or whsk_")?;
        let raw = standard.decode(coded)?;
        let mut planted = Self::bytes(name, &raw);
        planted.forms.extend(Self::text(name, coded).forms);
        Ok(planted)
    }

    /// A secret that is bytes.
    #[must_use]
    pub fn bytes(name: &str, bytes: &[u8]) -> Self {
        let mut forms = vec![bytes.to_vec(), hex::encode(bytes).into(), hex::encode_upper(bytes).into()];
        for offset in 0..3 {
            forms.extend(within_base64(bytes, offset));
        }
        forms.retain(|form| form.len() >= MIN);
        Self { name: name.to_owned(), forms }
    }

    /// Whether it is in there.
    #[must_use]
    pub fn is_in(&self, content: &[u8]) -> bool {
        self.forms.iter().any(|form| content.windows(form.len()).any(|window| window == form))
    }
}

/// How bytes look in the base64 of something longer that holds them, so many bytes after a group's begin.
fn within_base64(bytes: &[u8], offset: usize) -> [Vec<u8>; 2] {
    let padded = [&[0; 2][..offset], bytes].concat();
    // The first and the last character are of the neighbours too.
    let first = (offset * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|engine| engine.encode(&padded).as_bytes()[first..last].to_vec())
}

/// Every file below a folder, with its content. The zeros at the end of a file are left out: space that is reserved and not
/// written.
///
/// # Errors
/// When one cannot be read.
pub fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mut content = std::fs::read(&path)?;
                content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
                found.push((path.display().to_string(), content));
            }
        }
    }
    Ok(found)
}

/// Says which secret is where; empty when none is anywhere.
#[must_use]
pub fn search(planted: &[Planted], places: &[(String, Vec<u8>)]) -> Vec<String> {
    let found = places.iter().flat_map(|(place, content)| {
        let here = planted.iter().filter(|planted| planted.is_in(content));
        here.map(move |planted| format!("{} is in {place}", planted.name))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form_and_a_stranger_is_not() {
        let secret = b"planted-secret-\xff\x00\xfe".as_slice();
        let planted = Planted::bytes("it", secret);
        let standard = base64::engine::general_purpose::STANDARD;
        for before in ["", "a", "ab", "abc", "abcd"] {
            let content = [before.as_bytes(), secret, b"after"].concat();
            assert!(planted.is_in(&content));
            assert!(planted.is_in(standard.encode(&content).as_bytes()), "{before}");
            assert!(planted.is_in(URL_SAFE_NO_PAD.encode(&content).as_bytes()), "{before}");
            assert!(planted.is_in(hex::encode(&content).as_bytes()));
        }
        for stranger in [&b"planted-secret-"[..], b"", b"\xff\x00\xfe"] {
            assert!(!planted.is_in(stranger));
            assert!(!planted.is_in(standard.encode(stranger).as_bytes()));
        }
        let text = format!("whsec_{}", standard.encode([7; 24]));
        let signing = Planted::signing_secret("it", &text).unwrap();
        assert!(signing.is_in(&[7; 24]) && signing.is_in(text.as_bytes()));
        assert!(signing.is_in(standard.encode(&text).as_bytes()));
        let pair = standard.encode([[7; 32], [8; 32]].concat());
        let signing = Planted::signing_secret("it", &format!("whsk_{pair}")).unwrap();
        assert!(signing.is_in(pair.as_bytes()) && signing.is_in(&[7; 32]) && !signing.is_in(&[8; 32]));
    }
}
