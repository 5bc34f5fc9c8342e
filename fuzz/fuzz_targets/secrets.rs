//! Signing secrets: one spelling but for the padding, never printed, a signature that only its own secret, body and time
//! give; and sealed values, which open unaltered and in their own place, or not at all.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_domain::id::{DataKeyId, EventId};
use postrider_domain::sealed::{Context, DataKey, KEY_BYTES, KeyBytes, NONCE_BYTES, Sealed};
use postrider_domain::signing::{Secret, SecretError};
use postrider_domain::time::Timestamp;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    made(data);
    sealed(data);
});

fn read(text: &str) {
    if let Ok(secret) = Secret::parse(text) {
        let whole = secret.expose_text();
        let unpadded = whole.trim_end_matches('=');
        assert_eq!(text.trim_end_matches('='), unpadded, "a secret with two spellings");
        assert_eq!(Secret::parse(unpadded).as_ref(), Ok(&secret), "padding changes the secret");
        assert!((24..=64).contains(&secret.expose_bytes().len()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
    if let Err(error) = Secret::parse(&format!("{text}s3cr3t")) {
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "an error repeats the secret");
    }
}

fn made(data: &[u8]) {
    let secret = match Secret::from_bytes(data.to_vec()) {
        Ok(secret) => secret,
        Err(error) => return assert_eq!(error, SecretError::Length(data.len())),
    };
    assert_eq!(Secret::parse(&secret.expose_text()).as_ref(), Ok(&secret));
    let id: EventId = "evt".parse().expect("an id");
    let time = Timestamp::from_millis(1_770_028_200_000);
    let signature = secret.sign(&id, time, data);
    assert!(secret.verifies(&format!("v1,AAAA {signature} v2,{signature}"), &id, time, data));
    let later = Timestamp::from_millis(time.as_millis() + 1000);
    assert!(!secret.verifies(&signature, &id, later, data) && !secret.verifies(&signature, &id, time, b""));
    // The list is written by a stranger.
    let list = String::from_utf8_lossy(data);
    assert!(!secret.verifies(&list, &id, time, data) || list.contains(&signature));
    let mut other = data.to_vec();
    other[0] ^= 1;
    let other = Secret::from_bytes(other).expect("as long as the first");
    assert!(!other.verifies(&signature, &id, time, data));
}

/// What lies in a store that somebody else may have written to.
fn sealed(data: &[u8]) {
    let bytes = KeyBytes::new([0x5a; KEY_BYTES]);
    let key = DataKey::new(DataKeyId::from_bytes([1; 16]), bytes.kek_id(), bytes);
    let context = Context::AuthorityKey { authority: "one".to_owned() };
    if let Ok(strange) = Sealed::from_bytes(data.to_vec()) {
        assert_eq!(strange.as_bytes(), data);
        assert!(key.open(&context, &strange).is_err(), "what nobody sealed opens");
    }
    let Some((&at, plain)) = data.split_first() else { return };
    let sealed = key.seal(&context, [at; NONCE_BYTES], plain);
    assert_eq!(key.open(&context, &sealed).as_deref().map(Vec::as_slice), Ok(plain));
    let elsewhere = Context::AuthorityKey { authority: "other".to_owned() };
    assert!(key.open(&elsewhere, &sealed).is_err(), "it opens in another place");
    let mut altered = sealed.as_bytes().to_vec();
    let at = usize::from(at) % altered.len();
    altered[at] ^= 1;
    if let Ok(altered) = Sealed::from_bytes(altered) {
        assert!(key.open(&context, &altered).is_err(), "it opens though it was altered");
    }
}
