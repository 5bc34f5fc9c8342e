use super::*;
use proptest::prelude::*;

const PING: u8 = 6;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

#[test]
fn frames_count_by_what_they_carry() {
    let outside = |bytes| Amount { frames: 1, bytes, body: 0 };
    let table = [
        (frame(PING, 0, &[0; 8]), outside(17)),
        (frame(4, 0, &[]), outside(9)),
        (frame(1, 4, &[0x88]), outside(10)),
        (frame(0xbe, 0xff, &[0; 300]), outside(309)),
        (frame(DATA, 0, &[]), outside(9)),
        (frame(DATA, PADDED, &[]), outside(9)),
        (frame(DATA, PADDED, &[3, 0, 0, 0]), outside(13)),
        (frame(DATA, PADDED, &[255, 0, 0, 0]), outside(13)),
        (frame(DATA, 0, &[7; 1000]), Amount { frames: 0, bytes: 0, body: 1000 }),
        (frame(DATA, 0, &[7]), Amount { frames: 0, bytes: 0, body: SMALLEST_PIECE }),
        (frame(DATA, PADDED, &[9; 100]), Amount { frames: 0, bytes: 10, body: 90 }),
    ];
    for (bytes, amount) in table {
        assert_eq!(Reader::default().read(&bytes), amount, "{bytes:?}");
    }
}

#[test]
fn pieces_that_are_shorter_than_a_messages_prefix_are_no_body_of_a_grpc_client() {
    let table = [
        (frame(DATA, 0, &[0; 1]), Amount { frames: 1, bytes: 10, body: 0 }),
        (frame(DATA, 0, &[0; 4]), Amount { frames: 1, bytes: 13, body: 0 }),
        (frame(DATA, PADDED, &[3, 0, 0, 0, 0, 0, 0, 0]), Amount { frames: 1, bytes: 17, body: 0 }),
        (frame(DATA, 0, &[0; 5]), Amount { frames: 0, bytes: 0, body: SMALLEST_PIECE }),
        (frame(DATA, 0, &[0; 1000]), Amount { frames: 0, bytes: 0, body: 1000 }),
    ];
    for (bytes, amount) in table {
        assert_eq!(Reader::of_grpc_client().read(&bytes), amount, "{bytes:?}");
    }
}

#[test]
fn a_frame_counts_with_its_head() {
    let mut reader = Reader::default();
    assert_eq!(reader.read(&[0xff, 0xff, 0xff, 0xbe, 0, 0, 0, 0]), Amount::default());
    assert_eq!(reader.read(&[0]), Amount { frames: 1, bytes: 9 + 0xff_ffff, body: 0 });
    assert_eq!(reader.read(&[0; 100]), Amount::default(), "the frame goes on");
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(DATA), any::<u8>()];
    let flags = prop_oneof![Just(0), Just(PADDED), any::<u8>()];
    let one = (kind, flags, prop::collection::vec(any::<u8>(), 0..600));
    let one = one.prop_map(|(kind, flags, payload)| frame(kind, flags, &payload));
    prop::collection::vec(one, 0..20).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_is_counted(bytes in frames(), cuts in prop::collection::vec(1_usize..700, 1..40)) {
        let whole = Reader::default().read(&bytes);
        let (mut reader, mut rest, mut cut) = (Reader::default(), &bytes[..], Amount::default());
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*size).min(rest.len()));
            cut = cut.plus(reader.read(piece));
            rest = more;
        }
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn all_bytes_of_whole_frames_are_counted_somewhere(bytes in frames()) {
        let amount = Reader::default().read(&bytes);
        let heads_of_bodies = bytes.len() as u64;
        prop_assert!(amount.bytes <= bytes.len() as u64);
        // A head of DATA has 9 bytes, and its piece counts as no less than 16.
        prop_assert!(2 * (amount.bytes + amount.body) >= heads_of_bodies);
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let amount = Reader::default().read(&bytes);
        prop_assert!(amount.frames <= bytes.len() as u64 / 9);
    }
}
