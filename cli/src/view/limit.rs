//! A number of a tenant's quota as people write it: a number, `default` for what the control plane's settings say, or
//! `unlimited`.

use postrider_domain::quota::{NO_LIMIT, NO_LIMIT_OF_BYTES};
use serde_json::Value;

const DEFAULT: &str = "default";
const UNLIMITED: &str = "unlimited";

/// Reads a count or a rate.
pub(crate) fn read(text: &str) -> Result<u32, String> {
    match text {
        DEFAULT => Ok(0),
        UNLIMITED => Ok(NO_LIMIT),
        number => number.parse().map_err(|_| problem(text)),
    }
}

/// Reads a number of bytes.
pub(crate) fn read_bytes(text: &str) -> Result<u64, String> {
    match text {
        DEFAULT => Ok(0),
        UNLIMITED => Ok(NO_LIMIT_OF_BYTES),
        number => number.parse().map_err(|_| problem(text)),
    }
}

/// Writes a count or a rate; 0 is the default.
pub(crate) fn write(number: u32) -> Value {
    if number == NO_LIMIT { UNLIMITED.into() } else { number.into() }
}

/// Writes a number of bytes; 0 is the default.
pub(crate) fn write_bytes(number: u64) -> Value {
    if number == NO_LIMIT_OF_BYTES { UNLIMITED.into() } else { number.into() }
}

fn problem(text: &str) -> String {
    format!("{text:?} is not a number that it can be, nor {DEFAULT} or {UNLIMITED}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_word() {
        assert_eq!(["7", DEFAULT, UNLIMITED].map(read), [Ok(7), Ok(0), Ok(NO_LIMIT)]);
        assert_eq!(["7", DEFAULT, UNLIMITED].map(read_bytes), [Ok(7), Ok(0), Ok(NO_LIMIT_OF_BYTES)]);
        for wrong in ["", "-1", "many", "4294967296"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let written =
            serde_json::json!([write(0), write(7), write(NO_LIMIT), write_bytes(NO_LIMIT_OF_BYTES)]);
        assert_eq!(written, serde_json::json!([0, 7, UNLIMITED, UNLIMITED]));
    }
}
