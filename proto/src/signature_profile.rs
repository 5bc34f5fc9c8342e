//! Signature profiles: `postrider.v1.SignatureProfile` ⇄ [`Profile`].

use postrider_domain::signing::{Encoding, Profile, Profiles, TimestampedHeaders};
use postrider_domain::violation::Violation;

use crate::v1;
use crate::v1::signature_profile::Profile as Wire;

const FIELD: &str = "signature_profiles";

/// The profiles, with every name that they use.
#[must_use]
pub fn write(profiles: &Profiles) -> Vec<v1::SignatureProfile> {
    profiles
        .as_slice()
        .iter()
        .map(|profile| v1::SignatureProfile { profile: Some(write_one(profile)) })
        .collect()
}

/// Reads profiles; none means Standard Webhooks, and names that are not given take their defaults.
///
/// # Errors
/// The first problem.
pub fn read(wire: &[v1::SignatureProfile]) -> Result<Profiles, Violation> {
    if wire.is_empty() {
        return Ok(Profiles::default());
    }
    let profiles: Result<Vec<Profile>, Violation> = wire.iter().map(read_one).collect();
    Profiles::new(profiles?).map_err(|error| Violation::new(FIELD, error.to_string()))
}

fn write_one(profile: &Profile) -> Wire {
    match profile {
        Profile::StandardWebhooks => Wire::StandardWebhooks(v1::StandardWebhooksProfile {}),
        Profile::Timestamped(headers) => Wire::Timestamped(v1::TimestampedProfile {
            encoding: match headers.encoding {
                Encoding::Hex => v1::SignatureEncoding::Hex,
                Encoding::Base64 => v1::SignatureEncoding::Base64,
            }
            .into(),
            signature_header: headers.signature.clone(),
            timestamp_header: headers.timestamp.clone(),
            event_id_header: headers.event_id.clone(),
        }),
        Profile::Stripe { header } => Wire::Stripe(v1::StripeProfile { header: header.clone() }),
        Profile::GitHub { header } => Wire::Github(v1::GitHubProfile { header: header.clone() }),
    }
}

fn read_one(wire: &v1::SignatureProfile) -> Result<Profile, Violation> {
    let or =
        |given: &String, default: &str| if given.is_empty() { default.to_owned() } else { given.clone() };
    match &wire.profile {
        None => {
            Err(Violation::new(FIELD, "set standard_webhooks, timestamped, stripe or github in each profile"))
        }
        Some(Wire::StandardWebhooks(_)) => Ok(Profile::StandardWebhooks),
        Some(Wire::Timestamped(headers)) => Ok(Profile::Timestamped(TimestampedHeaders {
            encoding: read_encoding(headers.encoding)?,
            signature: or(&headers.signature_header, "x-webhook-signature"),
            timestamp: or(&headers.timestamp_header, "x-webhook-timestamp"),
            event_id: or(&headers.event_id_header, "x-webhook-event-id"),
        })),
        Some(Wire::Stripe(stripe)) => Ok(Profile::Stripe { header: or(&stripe.header, "stripe-signature") }),
        Some(Wire::Github(github)) => {
            Ok(Profile::GitHub { header: or(&github.header, "x-hub-signature-256") })
        }
    }
}

fn read_encoding(wire: i32) -> Result<Encoding, Violation> {
    match v1::SignatureEncoding::try_from(wire) {
        Ok(v1::SignatureEncoding::Unspecified | v1::SignatureEncoding::Hex) => Ok(Encoding::Hex),
        Ok(v1::SignatureEncoding::Base64) => Ok(Encoding::Base64),
        Err(_) => {
            Err(Violation::new(FIELD, "encoding must be SIGNATURE_ENCODING_HEX or SIGNATURE_ENCODING_BASE64"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(profile: Wire) -> v1::SignatureProfile {
        v1::SignatureProfile { profile: Some(profile) }
    }

    #[test]
    fn profiles_read_back_with_their_defaults() {
        assert_eq!(read(&[]), Ok(Profiles::default()));
        let given = [
            wire(Wire::StandardWebhooks(v1::StandardWebhooksProfile {})),
            wire(Wire::Timestamped(v1::TimestampedProfile {
                encoding: v1::SignatureEncoding::Base64.into(),
                signature_header: "X-DocuRift-Signature".into(),
                ..v1::TimestampedProfile::default()
            })),
            wire(Wire::Stripe(v1::StripeProfile::default())),
            wire(Wire::Github(v1::GitHubProfile::default())),
        ];
        let profiles = read(&given).unwrap();
        let written = write(&profiles);
        assert_eq!(read(&written), Ok(profiles));
        let shown = format!("{written:?}");
        for name in ["x-docurift-signature", "x-webhook-timestamp", "stripe-signature", "x-hub-signature-256"]
        {
            assert!(shown.contains(name), "{name}");
        }
    }

    #[test]
    fn a_profile_must_say_which_and_how() {
        let encoding = v1::TimestampedProfile { encoding: 9, ..v1::TimestampedProfile::default() };
        for bad in [v1::SignatureProfile::default(), wire(Wire::Timestamped(encoding))] {
            assert_eq!(read(&[bad]).unwrap_err().field, FIELD);
        }
    }
}
