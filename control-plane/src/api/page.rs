//! Pages: sizes within bounds, and tokens that only their own list understands.

use tonic::Status;

use super::status;

const DEFAULT: usize = 50;
const MAX: usize = 1000;

/// How many things a page has at the most.
pub(super) fn size(wanted: i32) -> Result<usize, Status> {
    match usize::try_from(wanted) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(MAX)),
        Err(_) => Err(status::invalid_field("page_size", "must not be negative; 0 means 50")),
    }
}

/// Reads a token that [`write`] of the same list made.
pub(super) fn read<T: std::str::FromStr>(list: &str, token: &str) -> Result<Option<T>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let place =
        token.strip_prefix(list).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| rest.parse().ok());
    let problem =
        "must be next_page_token of the page before, of the same list; leave it empty for the first page";
    place.map(Some).ok_or_else(|| status::invalid_field("page_token", problem))
}

/// A token for what follows after this place.
pub(super) fn write(list: &str, place: Option<impl ToString>) -> String {
    place.map(|place| format!("{list}:{}", place.to_string())).unwrap_or_default()
}

/// The token after a page that was cut from a list of more.
pub(super) fn after<T>(list: &str, items: &mut Vec<T>, size: usize, place: impl Fn(&T) -> String) -> String {
    let more = items.len() > size;
    items.truncate(size);
    write(list, items.last().filter(|_| more).map(place))
}
