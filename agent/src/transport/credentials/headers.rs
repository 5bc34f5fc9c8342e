//! Reads a file of header lines: `name: value`, a line each. Empty lines and those that begin with `#` say nothing.
//!
//! An error names the line by its number and never repeats it.

use http::{HeaderMap, HeaderName, HeaderValue};
use postrider_domain::headers::{MAX_COUNT, Reserved};

/// A value with a large token in it still fits.
const MAX_VALUE: usize = 16 << 10;

/// The headers, or why they are not taken: the end of a sentence that begins with the file.
pub(super) fn read(content: &[u8]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(content.split(|&byte| byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let (name, value) = header(line).map_err(|why| format!("has a line {number} that {why}"))?;
        if headers.contains_key(&name) {
            return Err(format!(
                "has a line {number} that names `{name}` a second time; give each header once"
            ));
        }
        headers.insert(name, value);
    }
    match headers.len() {
        0 => Err("has no header in it; write a line such as `authorization: Bearer …`".to_owned()),
        1..=MAX_COUNT => Ok(headers),
        _ => Err(format!("has more than {MAX_COUNT} headers in it")),
    }
}

fn header(line: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or("has no colon; write `name: value`")?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let name = HeaderName::from_bytes(name).map_err(|_| "does not begin with the name of a header")?;
    if value.is_empty() || value.len() > MAX_VALUE {
        return Err(format!("has a value for `{name}` that is empty or longer than {MAX_VALUE} bytes"));
    }
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| format!("has a value for `{name}` with characters that cannot be sent"))?;
    // What frames the request is not the owner's to say either, nor what receivers take for Postrider's signature.
    if let Some(reason @ (Reserved::Framing | Reserved::Ours)) = Reserved::by(name.as_str(), "") {
        return Err(format!("names `{name}`, which {}", reason.why()));
    }
    // Kept out of debug output, and out of the compression state of HTTP/2.
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_headers() {
        let headers =
            read(b"# for the gateway\r\n\r\nAuthorization: Bearer a:b\r\n  x-key :\t k \n").unwrap_err();
        assert!(headers.contains("line 4") && headers.contains("name of a header"), "{headers}");
        let headers = read(b"# for the gateway\r\n\r\nAuthorization: Bearer a:b\r\nx-key:\t k \n").unwrap();
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Bearer a:b");
        assert_eq!(headers["x-key"], "k");
        assert!(headers.values().all(HeaderValue::is_sensitive));
        assert!(!format!("{headers:?}").contains("Bearer"));
    }

    #[test]
    fn what_cannot_be_sent_is_told_by_its_line_and_not_quoted() {
        let many: String = (0..21).map(|i| format!("x-{i}: s3cret\n")).collect();
        let long = format!("x: {}s3cret", "x".repeat(MAX_VALUE));
        for (content, expected) in [
            ("", "no header in it"),
            ("# s3cret", "no header in it"),
            ("s3cret", "line 1 that has no colon"),
            ("a: 1\ns3cret b: 1", "line 2 that does not begin with the name of a header"),
            ("authorization:", "empty"),
            ("a: s3cret\u{7f}", "cannot be sent"),
            ("a: s3cret\rb: 1", "cannot be sent"),
            ("a: 1\nA: s3cret", "line 2 that names `a` a second time"),
            ("Host: s3cret", "names `host`, which controls how the request is framed"),
            ("content-length: 1", "framed"),
            ("proxy-authorization: s3cret", "framed"),
            ("Webhook-Signature: s3cret", "set by Postrider itself"),
            (&many, "more than 20 headers"),
            (&long, "longer than 16384 bytes"),
        ] {
            let error = read(content.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
    }
}
