use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

const SCHEME: &str = "v1";

fn now() -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000)
}

fn data_key(number: u128, kek: &str, byte: u8) -> DataKey {
    let id = DataKeyId::new(now(), number);
    DataKey::new(id, kek.parse().unwrap(), KeyBytes::new([byte; KEY_BYTES]))
}

fn signing_key(tenant: &str, subscription: u128, key: u128, scheme: &'static str) -> Context {
    Context::SigningKey {
        tenant: tenant.parse().unwrap(),
        subscription: SubscriptionId::new(now(), subscription),
        key: KeyId::new(now(), key),
        scheme,
    }
}

fn headers(tenant: &str, subscription: u128) -> Context {
    Context::SubscriptionHeaders {
        tenant: tenant.parse().unwrap(),
        subscription: SubscriptionId::new(now(), subscription),
    }
}

/// One context of each kind and its nearest neighbours.
fn contexts() -> Vec<Context> {
    vec![
        signing_key("acme", 1, 1, SCHEME),
        signing_key("acme", 1, 2, SCHEME),
        signing_key("acme", 2, 1, SCHEME),
        signing_key("acm", 1, 1, SCHEME),
        signing_key("acme", 1, 1, "v1a"),
        headers("acme", 1),
        headers("acme", 2),
        headers("globex", 1),
        Context::AuthorityKey { authority: "acme".into() },
        Context::AuthorityKey { authority: "acm".into() },
        Context::AuthorityKey { authority: String::new() },
        Context::DigestKey,
    ]
}

#[test]
fn a_value_opens_as_what_it_was_sealed_as_and_as_nothing_else() {
    let key = data_key(1, "kek_1", 7);
    for (number, sealed_as) in contexts().iter().enumerate() {
        let sealed = key.seal(sealed_as, [3; NONCE_BYTES], b"secret");
        for (other, opened_as) in contexts().iter().enumerate() {
            let opened = key.open(opened_as, &sealed);
            if number == other {
                assert_eq!(opened.unwrap().as_slice(), b"secret");
            } else {
                assert_eq!(opened.unwrap_err(), OpenError::Altered, "{sealed_as} as {opened_as}");
            }
        }
    }
}

#[test]
fn a_value_is_bound_to_its_data_key_and_to_the_key_that_wraps_that() {
    let context = headers("acme", 1);
    let sealed = data_key(1, "kek_1", 7).seal(&context, [3; NONCE_BYTES], b"secret");
    let other_bytes = data_key(1, "kek_1", 8).open(&context, &sealed);
    assert_eq!(other_bytes.unwrap_err(), OpenError::Altered);
    let other_kek = data_key(1, "kek_2", 7).open(&context, &sealed);
    assert_eq!(other_kek.unwrap_err(), OpenError::Altered);
    let other_id = data_key(2, "kek_1", 7).open(&context, &sealed);
    assert_eq!(other_id.unwrap_err(), OpenError::OtherKey(DataKeyId::new(now(), 1)));
}

#[test]
fn an_altered_byte_anywhere_keeps_a_value_shut() {
    let (key, context) = (data_key(1, "kek_1", 7), headers("acme", 1));
    let sealed = key.seal(&context, [3; NONCE_BYTES], b"secret");
    for at in 0..sealed.as_bytes().len() {
        for bit in 0..8 {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let opened = Sealed::from_bytes(bytes).and_then(|sealed| key.open(&context, &sealed));
            assert!(opened.is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_data_key_opens_under_its_own_kek_in_its_own_place_only() {
    let kek = KeyBytes::new([9; KEY_BYTES]);
    let key = data_key(1, "kek_1", 7);
    let wrapped = kek.wrap(&key, [5; NONCE_BYTES]);
    let opened = kek.unwrap(key.id(), key.kek(), &wrapped).unwrap();
    assert_eq!((opened.id(), opened.key().expose()), (key.id(), key.key().expose()));
    let other = KeyBytes::new([8; KEY_BYTES]);
    assert_eq!(other.unwrap(key.id(), key.kek(), &wrapped).unwrap_err(), OpenError::Altered);
    let renamed = "kek_2".parse().unwrap();
    assert_eq!(kek.unwrap(key.id(), &renamed, &wrapped).unwrap_err(), OpenError::Altered);
    let elsewhere = DataKeyId::new(now(), 2);
    assert_eq!(kek.unwrap(elsewhere, key.kek(), &wrapped).unwrap_err(), OpenError::OtherKey(key.id()));
    for at in 0..wrapped.as_bytes().len() {
        let mut bytes = wrapped.as_bytes().to_vec();
        bytes[at] ^= 1;
        let opened = Sealed::from_bytes(bytes).and_then(|wrapped| kek.unwrap(key.id(), key.kek(), &wrapped));
        assert!(opened.is_err(), "byte {at}");
    }
    // A wrapped data key is no sealed value, whatever it is opened as.
    let confused = DataKey::new(key.id(), key.kek().clone(), kek);
    for context in contexts() {
        assert!(confused.open(&context, &wrapped).is_err(), "{context}");
    }
}

/// The expected bytes were made with libsodium.
#[test]
fn the_sealed_form_stays_as_it_is() {
    let sealed = data_key(1, "kek_1", 7).seal(&headers("acme", 1), [3; NONCE_BYTES], b"secret");
    assert_eq!(
        hex::encode(sealed.as_bytes()),
        concat!(
            "01",
            "019c1de6f04000000000000000000001",
            "030303030303030303030303030303030303030303030303",
            "f76328691055372b99ba99ca1cb457cc9d74d4c200b3"
        )
    );
    assert_eq!(KeyBytes::new([9; KEY_BYTES]).kek_id().as_str(), "kek_3782ad2bc270f511");
}

#[test]
fn an_unknown_format_says_so() {
    assert_eq!(Sealed::from_bytes(vec![2; 80]).unwrap_err(), OpenError::Version(2));
    assert_eq!(Sealed::from_bytes(vec![1; 56]).unwrap_err(), OpenError::Form);
    assert_eq!(Sealed::from_bytes(Vec::new()).unwrap_err(), OpenError::Form);
}

#[test]
fn nothing_secret_is_printed() {
    let (key, context) = (data_key(1, "kek_1", 7), headers("acme", 1));
    let sealed = key.seal(&context, [3; NONCE_BYTES], b"secret");
    let shown = format!("{key:?} {:?} {sealed:?} {context} {context:?}", key.key());
    assert!(!shown.contains("secret") && !shown.contains("7, 7"), "{shown}");
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens_again(plaintext: Vec<u8>, nonce: [u8; NONCE_BYTES], bytes: [u8; KEY_BYTES]) {
        let key = DataKey::new(DataKeyId::new(now(), 1), "kek_1".parse().unwrap(), KeyBytes::new(bytes));
        let sealed = key.seal(&Context::DigestKey, nonce, &plaintext);
        let read = Sealed::from_bytes(sealed.as_bytes().to_vec()).unwrap();
        prop_assert_eq!(&read, &sealed);
        prop_assert_eq!(read.data_key(), key.id());
        prop_assert!(read.as_bytes().starts_with(&Sealed::beginning(key.id())));
        prop_assert_eq!(&*key.open(&Context::DigestKey, &read).unwrap(), &plaintext);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text: String) {
        let key = data_key(1, "kek_1", 7);
        if let Ok(sealed) = Sealed::from_bytes(bytes) {
            prop_assert!(key.open(&Context::DigestKey, &sealed).is_err());
        }
        drop(text.parse::<KekId>());
    }
}
