//! Pages: sizes within bounds, in things and in bytes, and tokens that only their own list
//! understands.

use postrider_domain::id::TenantId;
use prost::Message;
use tonic::Status;

use super::status;

const DEFAULT: usize = 50;
const MAX: usize = 1000;
/// A page that has so many bytes ends, whatever its size was to be.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// How many things a page has at the most.
pub(super) fn size(wanted: i32) -> Result<usize, Status> {
    match usize::try_from(wanted) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(MAX)),
        Err(_) => Err(status::invalid_field("page_size", "must not be negative; 0 means 50")),
    }
}

/// The list of one tenant's things: its tokens are those of no other tenant.
pub(super) fn of(list: &str, tenant: &TenantId) -> String {
    format!("{list}/{tenant}")
}

/// Reads a token that [`write`] of the same list made.
pub(super) fn read<T: std::str::FromStr>(list: &str, token: &str) -> Result<Option<T>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let place =
        token.strip_prefix(list).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| rest.parse().ok());
    let problem = "must be the next_page_token of the page before, of the same list and tenant; leave it empty for the first page";
    place.map(Some).ok_or_else(|| status::invalid_field("page_token", problem))
}

/// A token for what follows after this place.
pub(super) fn write(list: &str, place: Option<impl ToString>) -> String {
    place.map(|place| format!("{list}:{}", place.to_string())).unwrap_or_default()
}

/// A page of the first things of a list, and the token for those behind it. It looks at one thing
/// more than the page has.
pub(super) fn fill<T, M: Message>(
    list: &str,
    items: impl IntoIterator<Item = T>,
    size: usize,
    place: impl Fn(&T) -> String,
    mut view: impl FnMut(T) -> M,
) -> (Vec<M>, String) {
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
    for item in items {
        if page.len() >= size || bytes >= MAX_BYTES {
            return (page, write(list, last));
        }
        last = Some(place(&item));
        let message = view(item);
        bytes += message.encoded_len();
        page.push(message);
    }
    (page, String::new())
}

/// The things of a page as far as they are not too many bytes, and where the list goes on. `next`
/// is where it goes on after all of them.
pub(super) fn fit<K, M: Message>(items: Vec<(K, M)>, next: Option<K>) -> (Vec<M>, Option<K>) {
    let (mut page, mut bytes, mut last) = (Vec::with_capacity(items.len()), 0, None);
    for (place, message) in items {
        if bytes >= MAX_BYTES {
            return (page, last);
        }
        bytes += message.encoded_len();
        last = Some(place);
        page.push(message);
    }
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of about this many bytes.
    fn message(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn a_page_ends_at_its_size_or_its_bytes() {
        let table = [
            ("as many as are wanted", vec![1; 5], 3, 3, "list:2"),
            ("all of them", vec![1; 3], 3, 3, ""),
            ("one large thing is a page", vec![3 * MAX_BYTES, 1], 9, 1, "list:0"),
            ("two are, when the first is small", vec![1, 3 * MAX_BYTES, 1], 9, 2, "list:1"),
            ("the last one is not cut off", vec![1, 3 * MAX_BYTES], 9, 2, ""),
            ("none", vec![], 9, 0, ""),
        ];
        for (case, items, size, count, token) in table {
            let numbered = items.iter().copied().enumerate();
            let (page, next) =
                fill("list", numbered, size, |(at, _)| at.to_string(), |(_, bytes)| message(bytes));
            assert_eq!((page.len(), next.as_str()), (count, token), "{case}");
            if size == 9 {
                let items = items.iter().enumerate().map(|(at, bytes)| (at, message(*bytes))).collect();
                let (page, next) = fit(items, None);
                assert_eq!((page.len(), write("list", next).as_str()), (count, token), "{case}");
            }
        }
        assert_eq!(fit(vec![(1, message(1))], Some(7)).1, Some(7));
    }

    #[test]
    fn a_token_is_read_by_its_own_list_alone() {
        let list = |name: &str, tenant: &str| of(name, &tenant.parse().unwrap());
        let own = list("events", "acme");
        let token = write(&own, Some(7));
        assert_eq!(read::<u32>(&own, &token).unwrap(), Some(7));
        assert_eq!(read::<u32>(&own, "").unwrap(), None);
        for other in
            [list("events", "acme2"), list("events", "acm"), list("deliveries", "acme"), "events".into()]
        {
            let refused = read::<u32>(&other, &token).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{other}");
        }
    }
}
