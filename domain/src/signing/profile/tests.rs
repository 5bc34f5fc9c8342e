use super::*;
use crate::signing::DEFAULT_OVERLAP;
use proptest::prelude::*;

fn names(prefix: &str) -> TimestampedHeaders {
    TimestampedHeaders {
        encoding: Encoding::Hex,
        signature: format!("{prefix}-Signature"),
        timestamp: format!("{prefix}-Timestamp"),
        event_id: format!("{prefix}-Event-Id"),
    }
}

fn stripe() -> Profile {
    Profile::Stripe { header: "Stripe-Signature".into() }
}

fn github_profile() -> Profile {
    Profile::GitHub { header: "X-Hub-Signature-256".into() }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_614_265_330_000)
}

fn key(scheme: Scheme, number: u8) -> SigningKey {
    SigningKey::new(KeyId::new(now(), number.into()), Secret::generate(scheme, &[number; 32]), now())
}

fn sign(profiles: &Profiles, keys: &[&SigningKey], body: &[u8]) -> (Vec<(String, String)>, Vec<KeyId>) {
    profiles.sign(keys, Request { id: &"evt_1".parse().unwrap(), timestamp: now(), body })
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
}

#[test]
fn known_answers() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/signatures.json")).unwrap();
    let vectors = vectors["github"].as_array().unwrap();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        assert_eq!(github(text("secret").as_bytes(), text("body").as_bytes()), text("signature"));
    }
    // Made with OpenSSL: printf '1614265330.{"test": 2432232314}' | openssl dgst -sha256 -hmac "$secret"
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
    let made = hex(&timestamped(secret, now(), br#"{"test": 2432232314}"#));
    assert_eq!(made, "2e37df5d4a028c51a7f3133d64ae1e300d2c2c900f1b1d49d4369ad2530f8964");
}

#[test]
fn each_profile_shows_as_many_signatures_as_it_has_room_for() {
    let profiles = Profiles::new(vec![
        Profile::StandardWebhooks,
        Profile::Timestamped(names("X-Acme")),
        stripe(),
        github_profile(),
    ]);
    let profiles = profiles.unwrap();
    let mut ring = KeyRing::new(key(Scheme::V1, 1));
    ring.rotate(key(Scheme::V1, 2), DEFAULT_OVERLAP, now()).unwrap();
    ring.rotate(key(Scheme::V1a, 3), DEFAULT_OVERLAP, now()).unwrap();
    let (headers, signers) = sign(&profiles, &ring.signing(now()), b"{}");
    assert_eq!(signers.len(), 3);
    let list: Vec<&str> = value(&headers, "webhook-signature")
        .split(' ')
        .map(|entry| entry.split(',').next().unwrap())
        .collect();
    assert_eq!(list, ["v1", "v1", "v1a"]);
    assert_eq!(value(&headers, "webhook-timestamp"), "1614265330");
    assert_eq!(value(&headers, "x-acme-timestamp"), "1614265330");
    assert_eq!(value(&headers, "x-acme-event-id"), "evt_1");
    let active = hex(&timestamped(text(&Secret::generate(Scheme::V1, &[2; 32])), now(), b"{}"));
    let former = hex(&timestamped(text(&Secret::generate(Scheme::V1, &[1; 32])), now(), b"{}"));
    assert_eq!(value(&headers, "x-acme-signature"), active);
    assert_eq!(value(&headers, "stripe-signature"), format!("t=1614265330,v1={active},v1={former}"));
    let secret = Secret::generate(Scheme::V1, &[2; 32]);
    assert_eq!(value(&headers, "x-hub-signature-256"), github(text(&secret).as_bytes(), b"{}"));
    let one = Profiles::new(vec![github_profile()]).unwrap();
    let (headers, signers) = sign(&one, &ring.signing(now()), b"{}");
    assert_eq!(signers, [ring.active(Scheme::V1).unwrap().id], "a retiring key does not sign here");
    assert_eq!(value(&headers, "webhook-id"), "evt_1");
    assert_eq!(headers.len(), 2);
}

#[test]
fn profiles_with_impossible_headers_are_refused() {
    let refused = |profiles: Vec<Profile>| Profiles::new(profiles).unwrap_err().to_string();
    let named = |header: &str| Profile::Stripe { header: header.into() };
    let table = [
        (vec![], "give 1 to 4"),
        (vec![stripe(); 5], "give 1 to 4"),
        (vec![Profile::StandardWebhooks; 2], "given twice"),
        (vec![stripe(), named("stripe-SIGNATURE")], "`stripe-signature` is given twice"),
        (vec![named("")], "not valid"),
        (vec![named("x y")], "not valid"),
        (vec![named("Webhook-Signature")], "is set by Postrider itself"),
        (vec![named("Host")], "controls how the request is framed"),
        (vec![named("X-Forwarded-For")], "would misstate"),
        (
            vec![Profile::Timestamped(TimestampedHeaders {
                timestamp: "X-Acme-Signature".into(),
                ..names("X-Acme")
            })],
            "given twice",
        ),
    ];
    for (profiles, expected) in table {
        let found = refused(profiles);
        assert!(found.contains(expected), "{found}");
    }
    let custom = CustomHeaders::new([("stripe-signature".to_owned(), "x".to_owned())]).unwrap();
    let error = Profiles::new(vec![stripe()]).unwrap().check_custom(&custom).unwrap_err();
    assert!(error.to_string().contains("among the custom headers"));
}

#[test]
fn keys_and_profiles_need_each_other() {
    let (standard, github) = (Profiles::default(), Profiles::new(vec![github_profile()]).unwrap());
    let mut ring = KeyRing::new(key(Scheme::V1, 1));
    assert_eq!((standard.check_keys(&ring), github.check_keys(&ring)), (Ok(()), Ok(())));
    ring.rotate(key(Scheme::V1a, 2), DEFAULT_OVERLAP, now()).unwrap();
    assert_eq!(standard.check_keys(&ring), Ok(()));
    assert_eq!(github.check_keys(&ring), Err(KeyError::KeyWithoutProfile));
    ring.revoke(KeyId::new(now(), 1), now()).unwrap();
    assert_eq!(standard.check_keys(&ring), Ok(()));
    assert_eq!(github.check_keys(&ring), Err(KeyError::ProfileWithoutKey));
}

proptest! {
    #[test]
    fn one_key_alone_signs_and_another_makes_other_signatures(first in 0_u8..100, body: Vec<u8>) {
        let profiles = vec![Profile::StandardWebhooks, stripe(), github_profile(), Profile::Timestamped(names("X-Acme"))];
        let profiles = Profiles::new(profiles).unwrap();
        let (one, other) = (key(Scheme::V1, first), key(Scheme::V1, first + 100));
        let (headers, signers) = sign(&profiles, &[&one], &body);
        prop_assert_eq!(signers, [one.id]);
        let (others, _) = sign(&profiles, &[&other], &body);
        for (header, other) in headers.iter().zip(&others).filter(|(header, _)| header.0.contains("signature")) {
            prop_assert_ne!(header, other);
        }
    }
}
