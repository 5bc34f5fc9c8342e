//! Signature profiles as options: `KIND` or `KIND:name=value,…`.

use postrider_proto::v1;
use postrider_proto::v1::signature_profile::Profile;

/// Reads one profile.
///
/// # Errors
/// What is wrong, and what there is to say instead.
pub(crate) fn parse(text: &str) -> Result<v1::SignatureProfile, String> {
    let (kind, settings) = text.split_once(':').unwrap_or((text, ""));
    let mut settings = settings.split(',').filter(|setting| !setting.is_empty());
    let profile = match kind {
        "standard_webhooks" => {
            no_more(kind, settings.next())?;
            Profile::StandardWebhooks(v1::StandardWebhooksProfile {})
        }
        "timestamped" => Profile::Timestamped(timestamped(settings)?),
        "stripe" => Profile::Stripe(v1::StripeProfile { header: header(kind, settings)? }),
        "github" => Profile::Github(v1::GitHubProfile { header: header(kind, settings)? }),
        other => {
            return Err(format!(
                "'{other}' is not a profile; say standard_webhooks, timestamped, stripe or github"
            ));
        }
    };
    Ok(v1::SignatureProfile { profile: Some(profile) })
}

/// A profile in the form that [`parse`] reads.
pub(crate) fn write(profile: &v1::SignatureProfile) -> String {
    match &profile.profile {
        None => String::new(),
        Some(Profile::StandardWebhooks(_)) => "standard_webhooks".to_owned(),
        Some(Profile::Timestamped(headers)) => {
            let encoding = crate::view::word::<v1::SignatureEncoding>(headers.encoding);
            let (signature, timestamp, id) =
                (&headers.signature_header, &headers.timestamp_header, &headers.event_id_header);
            format!(
                "timestamped:encoding={encoding},signature={signature},timestamp={timestamp},event-id={id}"
            )
        }
        Some(Profile::Stripe(stripe)) => format!("stripe:header={}", stripe.header),
        Some(Profile::Github(github)) => format!("github:header={}", github.header),
    }
}

fn timestamped<'a>(settings: impl Iterator<Item = &'a str>) -> Result<v1::TimestampedProfile, String> {
    let mut profile = v1::TimestampedProfile::default();
    for setting in settings {
        match setting.split_once('=') {
            Some(("encoding", "hex")) => profile.set_encoding(v1::SignatureEncoding::Hex),
            Some(("encoding", "base64")) => profile.set_encoding(v1::SignatureEncoding::Base64),
            Some(("encoding", other)) => return Err(format!("the encoding '{other}' is not hex or base64")),
            Some(("signature", name)) => name.clone_into(&mut profile.signature_header),
            Some(("timestamp", name)) => name.clone_into(&mut profile.timestamp_header),
            Some(("event-id", name)) => name.clone_into(&mut profile.event_id_header),
            _ => {
                return Err(format!(
                    "'{setting}' is not a setting of timestamped; say encoding=hex or base64, signature=HEADER, \
                     timestamp=HEADER or event-id=HEADER"
                ));
            }
        }
    }
    Ok(profile)
}

fn header<'a>(kind: &str, mut settings: impl Iterator<Item = &'a str>) -> Result<String, String> {
    let Some(setting) = settings.next() else { return Ok(String::new()) };
    no_more(kind, settings.next())?;
    let name = setting.strip_prefix("header=").map(str::to_owned);
    name.ok_or_else(|| format!("'{setting}' is not a setting of {kind}; say header=HEADER"))
}

fn no_more(kind: &str, setting: Option<&str>) -> Result<(), String> {
    setting.map_or(Ok(()), |setting| Err(format!("{kind} has no setting '{setting}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_as_they_are_written() {
        for text in [
            "standard_webhooks",
            "stripe:header=X-Sign",
            "github:header=X-Sign",
            "timestamped:encoding=base64,signature=A,timestamp=B,event-id=C",
        ] {
            assert_eq!(write(&parse(text).unwrap()), text);
        }
        assert!(parse("github").is_ok() && parse("timestamped:signature=A").is_ok());
    }

    #[test]
    fn what_is_no_profile_is_told_what_to_say() {
        let table = [
            ("svix", "say standard_webhooks"),
            ("standard_webhooks:x=1", "has no setting 'x=1'"),
            ("stripe:name=X", "say header=HEADER"),
            ("github:header=A,header=B", "has no setting"),
            ("timestamped:id=A", "event-id=HEADER"),
            ("timestamped:encoding=hey", "is not hex or base64"),
        ];
        for (text, expected) in table {
            let found = parse(text).unwrap_err();
            assert!(found.contains(expected), "{found}");
        }
    }
}
