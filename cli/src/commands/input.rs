//! What a command reads: arguments that may stand in a file or come on stdin.

use std::io::Read as _;
use std::path::Path;

use crate::failure::{Exit, Failure, Result};

/// Reads a whole file; `-` is stdin.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let refuse =
        |error: std::io::Error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", name(path)));
    if path != Path::new("-") {
        return std::fs::read(path).map_err(refuse);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(refuse)?;
    Ok(bytes)
}

/// The file's name for people.
pub(crate) fn name(path: &Path) -> String {
    if path == Path::new("-") { "stdin".into() } else { path.display().to_string() }
}

/// Reads a secret or another single line.
pub(crate) fn read_line(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| Failure::new(Exit::Usage, format!("{} is not text", name(path))))?;
    Ok(text.trim().to_owned())
}

/// Reads `Name: value`.
pub(crate) fn parse_header(line: &str) -> std::result::Result<(String, String), String> {
    let (name, value) =
        line.split_once(':').ok_or_else(|| format!("'{line}' is not of the form 'Name: value'"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Reads `name=value`.
pub(crate) fn parse_attribute(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("'{text}' is not of the form name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(parse_header("X-A:  b: c "), Ok(("X-A".into(), "b: c".into())));
        assert!(parse_header("X-A").is_err());
    }

    #[test]
    fn a_missing_file_is_a_usage_error() {
        let failure = read(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().starts_with("cannot read /no/such/file"));
    }
}
