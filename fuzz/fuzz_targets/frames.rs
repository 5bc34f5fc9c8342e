//! HTTP/2 frames, written by any peer: counted alike however they are cut, and never more than what is allowed.
//!
//! The input is the number of requests, the sizes of the pieces, a zero byte, and what the peer sends.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use postrider_domain::frames::answers::Answers;
use postrider_domain::frames::calls::{Calls, Client};
use postrider_domain::frames::{Amount, Reader};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let sizes = parts.next().unwrap_or_default();
    let sent = parts.next().unwrap_or_default();
    let whole = Reader::default().read(sent);
    assert_eq!(read_in_pieces(sent, sizes), whole, "cut, it counts differently");
    assert!(whole.frames <= sent.len() as u64 / 9, "there are more frames than heads");
    from_a_server(sizes, whole);
    from_a_client(whole);
});

fn read_in_pieces(mut rest: &[u8], sizes: &[u8]) -> Amount {
    let mut reader = Reader::default();
    let mut amount = Amount::default();
    for size in sizes.iter().cycle() {
        let (piece, more) = rest.split_at(usize::from(*size).clamp(1, 255).min(rest.len()));
        amount = amount.plus(reader.read(piece));
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    amount.plus(reader.read(rest))
}

/// A server never gets further with fewer requests, and never on after it was cut off.
fn from_a_server(requests: &[u8], sent: Amount) {
    let mut idle = Answers::default();
    let mut busy = Answers::default();
    requests.iter().for_each(|_| busy.begin());
    let (of_idle, of_busy) = (idle.charge(sent), busy.charge(sent));
    assert!(of_busy.is_ok() || of_idle.is_err(), "requests leave less");
    assert_eq!(idle.is_exceeded(), of_idle.is_err());
    if of_idle.is_err() {
        idle.begin();
        assert!(idle.charge(Amount::default()).is_err(), "a request revives the connection");
    }
}

/// A client that is known never gets less far than a stranger.
fn from_a_client(received: Amount) {
    let stranger = Client { known: false, calls: 0, sent: 0, age: Duration::ZERO };
    let known = Client { known: true, ..stranger };
    let (of_stranger, of_known) =
        (Calls::default().charge(&stranger, received), Calls::default().charge(&known, received));
    assert!(of_known.is_ok() || of_stranger.is_err());
}
