//! A record as receivers get it: a line of JSON, or a syslog message with that line in it.

use postrider_domain::audit::Record;
use serde_json::json;

/// Facility 13, log audit, with severity 6, informational. Source: RFC 5424, section 6.2.1.
const PRIORITY: u8 = 13 * 8 + 6;
/// The longest MSGID. Source: RFC 5424, section 6.
const MAX_MESSAGE_ID: usize = 32;
/// The longest message that fits into a datagram, with room for what is around it.
pub(super) const MAX_DATAGRAM: usize = 48 * 1024;

/// The record as an object of JSON, on one line without its end.
pub(super) fn json(record: &Record) -> String {
    let entry = &record.entry;
    json!({
        "sequence": record.sequence,
        "time": entry.time.to_string(),
        "actor": entry.actor,
        "address": entry.address,
        "action": entry.action,
        "target": entry.target,
        "tenant": entry.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        "request_id": entry.request_id,
        "detail": entry.detail,
        "hash": hex::encode(record.hash),
        "code": record.code.map(hex::encode).unwrap_or_default(),
    })
    .to_string()
}

/// As [`json`], but of no more than `most` bytes: a detail that is too long is cut, and `detail_cut` says so.
fn json_within(record: &Record, most: usize) -> String {
    let whole = json(record);
    if whole.len() <= most {
        return whole;
    }
    let mut cut = record.clone();
    // An escape makes six bytes of one.
    let mut end = (most / 8).min(cut.entry.detail.len());
    while !cut.entry.detail.is_char_boundary(end) {
        end -= 1;
    }
    cut.entry.detail.truncate(end);
    let mut line = json(&cut);
    line.insert_str(1, "\"detail_cut\":true,");
    line
}

/// A message of syslog. Source: RFC 5424.
pub(super) fn syslog(record: &Record, process: u32, most: usize) -> String {
    let id: String =
        record.entry.action.chars().filter(char::is_ascii_graphic).take(MAX_MESSAGE_ID).collect();
    let id = if id.is_empty() { "-" } else { &id };
    // The host name is left out: the syslog receiver knows the sender's address.
    format!(
        "<{PRIORITY}>1 {time} - postrider {process} {id} - {message}",
        time = record.entry.time,
        message = json_within(record, most)
    )
}

/// With its length before it, so that many follow each other on one stream. Source: RFC 6587, section 3.4.1.
pub(super) fn framed(message: &str) -> String {
    format!("{} {message}", message.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::audit::{Entry, Head};
    use postrider_domain::time::Timestamp;

    fn record(detail: &str) -> Record {
        let entry = Entry {
            detail: detail.to_owned(),
            request_id: "a\"b\n<1>1 forged".to_owned(),
            ..Entry::by_postrider("RotateSigningKey", "sub_1", Timestamp::from_millis(1_770_028_200_123))
        };
        Head { sequence: 6, hash: [0; 32] }.append(entry).0
    }

    #[test]
    fn a_record_is_one_line_of_json_with_all_that_is_in_it() {
        let line = json(&record("pool: a -> b"));
        assert!(!line.contains('\n'), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((read["sequence"].as_u64(), read["actor"].as_str()), (Some(7), Some("postrider")));
        assert_eq!(read["time"], "2026-02-02T10:30:00.123Z");
        assert_eq!(read["request_id"], "a\"b\n<1>1 forged");
        assert_eq!(read["hash"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn a_message_of_syslog_has_its_parts_in_order() {
        let message = syslog(&record("x"), 42, MAX_DATAGRAM);
        let head = "<110>1 2026-02-02T10:30:00.123Z - postrider 42 RotateSigningKey - {";
        assert!(message.starts_with(head), "{message}");
        assert!(!message.contains('\n'));
        let framed = framed(&message);
        let (length, rest) = framed.split_once(' ').unwrap();
        assert_eq!((length.parse(), rest), (Ok(message.len()), message.as_str()));
        let mut odd = record("x");
        odd.entry.action = "\n ü".to_owned();
        assert!(syslog(&odd, 1, MAX_DATAGRAM).contains(" postrider 1 - - {"));
    }

    #[test]
    fn what_does_not_fit_into_a_datagram_is_cut_and_still_json() {
        for detail in ["x".repeat(200_000), "\u{1}".repeat(200_000), "ü\"".repeat(50_000)] {
            let message = syslog(&record(&detail), 1, MAX_DATAGRAM);
            assert!(message.len() <= MAX_DATAGRAM + 200, "{}", message.len());
            let (_, line) = message.split_once(" - {").unwrap();
            let read: serde_json::Value = serde_json::from_str(&format!("{{{line}")).unwrap();
            assert_eq!((read["detail_cut"].as_bool(), read["sequence"].as_u64()), (Some(true), Some(7)));
        }
    }
}
