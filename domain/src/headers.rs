//! The headers that a tenant adds to the POSTs of a subscription.
//!
//! They are written by a tenant and sent from inside somebody's network, so they may name a receiver's
//! credentials but not change how the request is framed, who it seems to come from, or what a metadata
//! service makes of it. The control plane checks them when a subscription is saved; from then on a
//! [`CustomHeaders`] is known to be safe to put on the wire. Values may be
//! credentials: nothing here prints one.

pub mod echo;

use std::fmt;

/// The most headers of one subscription.
pub const MAX_COUNT: usize = 20;
/// The most bytes of one header, name and value together.
pub const MAX_HEADER_BYTES: usize = 4 * 1024;
/// The most bytes of all headers of one subscription, names and values together.
pub const MAX_TOTAL_BYTES: usize = 16 * 1024;

/// A tenant's headers, checked: names in lower case, each once, sorted by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders {
    headers: Vec<(String, String)>,
}

impl CustomHeaders {
    /// Checks the headers, and lower-cases their names.
    ///
    /// # Errors
    ///
    /// The first [`HeaderError`]. It names the header and never repeats its value.
    pub fn new(headers: impl IntoIterator<Item = (String, String)>) -> Result<CustomHeaders, HeaderError> {
        let mut checked = CustomHeaders::default();
        let mut total = 0;
        for (name, value) in headers {
            if checked.headers.len() == MAX_COUNT {
                return Err(HeaderError::TooMany);
            }
            total += name.len() + value.len();
            let name = checked_header(&name, &value)?;
            if checked.contains(&name) {
                return Err(HeaderError::Duplicate { name });
            }
            if total > MAX_TOTAL_BYTES {
                return Err(HeaderError::TotalTooLarge { name });
            }
            checked.headers.push((name, value));
        }
        // By the names in lower case: a store that reads them back has no other order.
        checked.headers.sort();
        Ok(checked)
    }

    /// Name and value of each header, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Says whether there is a header of this name, in any case.
    pub fn contains(&self, name: &str) -> bool {
        self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    /// The number of headers.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Says whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.headers.iter().map(|(name, _)| (name, "…"))).finish()
    }
}

/// Why a tenant's headers were not taken, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A name that is empty or not a token of RFC 9110.
    #[error("the header name {name:?} is not valid; use letters, digits and hyphens only")]
    InvalidName {
        /// The name, shortened.
        name: String,
    },
    /// A value with bytes other than visible ASCII, spaces and tabs, or with space at an end.
    #[error(
        "the value of the header `{name}` is not valid; use visible ASCII characters, with spaces and tabs \
         between them only, and no line breaks"
    )]
    InvalidValue {
        /// The header.
        name: String,
    },
    /// A name that tenants may not use.
    #[error("the header `{name}` may not be set, because it {}; remove or rename it", .reason.why())]
    Reserved {
        /// The header.
        name: String,
        /// What makes it so.
        reason: Reserved,
    },
    /// A name given twice, perhaps in different case.
    #[error("the header `{name}` is given twice; give it once, with the values joined if it is a list")]
    Duplicate {
        /// The header.
        name: String,
    },
    /// More than [`MAX_COUNT`] headers.
    #[error(
        "there are more than {MAX_COUNT} headers; remove some, or send their content in the event's data"
    )]
    TooMany,
    /// A header over [`MAX_HEADER_BYTES`].
    #[error("the header `{name}` is longer than {MAX_HEADER_BYTES} bytes with its name; shorten its value")]
    TooLarge {
        /// The header.
        name: String,
    },
    /// All headers together over [`MAX_TOTAL_BYTES`].
    #[error(
        "the headers up to `{name}` are longer than {MAX_TOTAL_BYTES} bytes together; shorten or remove some"
    )]
    TotalTooLarge {
        /// The header that passed the limit.
        name: String,
    },
}

/// What makes a header name unavailable to tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reserved {
    /// It says where the request ends or which connection carries it; a second voice there smuggles requests.
    Framing,
    /// It is set by Postrider, or read by receivers as coming from Postrider.
    Ours,
    /// It tells a receiver that the request came from elsewhere or means something else.
    Spoofing,
    /// It makes the metadata service of a cloud hand out credentials.
    Metadata,
    /// It passes the guard by which a service inside a network refuses forged requests.
    Guard,
}

impl Reserved {
    /// The reason for which a tenant may not set the header, if there is one. `name` is in lower case.
    ///
    /// An agent asks this about the headers of a job, because its owner need not trust the control plane; and about
    /// its owner's own headers.
    #[must_use]
    pub fn by(name: &str, value: &str) -> Option<Reserved> {
        reserved(name).or_else(|| unlocks_by_value(name, value).then_some(Reserved::Metadata))
    }

    /// What is wrong with the header, as the end of a sentence whose subject is the header.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Reserved::Framing => "controls how the request is framed and routed",
            Reserved::Ours => "is set by Postrider itself",
            Reserved::Spoofing => "would misstate where the request comes from or what it asks for",
            Reserved::Metadata => "opens the metadata services of clouds",
            Reserved::Guard => "passes the guard of an internal service against forged requests",
        }
    }
}

/// Reserved names, parted by spaces. One that ends in `*` stands for every name with that beginning.
const RESERVED: &[(Reserved, &str)] = &[
    (
        Reserved::Framing,
        "connection content-length early-data expect host http2-settings keep-alive l5d-* max-forwards \
         proxy-* sec-websocket-* te trailer trailers transfer-encoding upgrade",
    ),
    (
        Reserved::Ours,
        "accept-encoding content-encoding content-type postrider-* user-agent webhook-* x-postrider-*",
    ),
    (
        Reserved::Spoofing,
        "cf-connecting-ip* client-ip fastly-client-ip forwarded forwarded-* true-client-ip via x-amzn-oidc-* \
         x-azure-clientip x-azure-socketip x-client-ip x-cluster-client-ip x-envoy-* x-forwarded \
         x-forwarded-* x-goog-iap-* x-host x-http-method x-http-method-override x-method-override x-original-* \
         x-originating-* x-real-ip x-remote-* x-rewrite-url",
    ),
    (
        // Of AWS, Azure, Google Cloud, IBM, Linode, OpenStack, Alibaba Cloud and Azure App Service.
        Reserved::Metadata,
        "metadata metadata-* x-aliyun-ecs-metadata-token* x-aws-ec2-metadata-token* \
         x-google-metadata-request x-identity-header x-metadata-token*",
    ),
    (
        // Of HashiCorp Vault and OpenBao, Consul, Nomad, the Docker and Kubernetes APIs (impersonation), Jenkins and
        // Kibana: headers that browsers and forged requests cannot set, and tokens that act for a caller.
        Reserved::Guard,
        "impersonate-* jenkins-crumb kbn-xsrf osd-xsrf x-atlassian-token x-consul-* x-csrf-token x-nomad-token \
         x-registry-auth x-requested-by x-requested-with x-vault-* x-xsrf-token",
    ),
];

/// Checks one header by itself, and gives its name in lower case.
fn checked_header(name: &str, value: &str) -> Result<String, HeaderError> {
    if !is_token(name) {
        return Err(HeaderError::InvalidName { name: shortened(name) });
    }
    if name.len() + value.len() > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLarge { name: shortened(name) });
    }
    let name = name.to_ascii_lowercase();
    if let Some(reason) = Reserved::by(&name, value) {
        return Err(HeaderError::Reserved { name, reason });
    }
    if !is_value(value) {
        return Err(HeaderError::InvalidValue { name });
    }
    Ok(name)
}

fn reserved(name: &str) -> Option<Reserved> {
    // Gateways that hand headers to CGI, WSGI or PHP turn hyphens into underscores, so that
    // `x_real_ip` arrives as `x-real-ip` does.
    let name = name.replace('_', "-");
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    RESERVED.iter().find(|(_, names)| names.split_whitespace().any(matches)).map(|(reason, _)| *reason)
}

/// Oracle's metadata service is opened by a fixed bearer token, while other credentials are welcome.
fn unlocks_by_value(name: &str, value: &str) -> bool {
    let mut words = value.split_ascii_whitespace();
    name == "authorization"
        && words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
        && words.next().is_some_and(|token| token.eq_ignore_ascii_case("oracle"))
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Narrower than RFC 9110: bytes outside ASCII have no agreed meaning.
fn is_value(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\t')) && value.trim_ascii() == value
}

/// As much of a name that was not taken as a person needs to find it.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(name: &str, value: &str) -> Result<CustomHeaders, HeaderError> {
        CustomHeaders::new([(name.to_owned(), value.to_owned())])
    }

    fn reason(name: &str) -> Option<Reserved> {
        match one(name, "1") {
            Err(HeaderError::Reserved { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        for (names, expected) in [
            (
                "Connection Keep-Alive Proxy-Authorization proxy-connection TE Trailer Transfer-Encoding \
                 Upgrade Content-Length Host Expect HTTP2-Settings transfer_encoding",
                Reserved::Framing,
            ),
            (
                "webhook-id Webhook-Signature webhook-x Content-Type User-Agent Content-Encoding webhook_id",
                Reserved::Ours,
            ),
            (
                "Forwarded X-Forwarded-For X-Forwarded-Host x-forwarded Via X-Real-IP True-Client-IP \
                 CF-Connecting-IP CF-Connecting-IPv6 X-HTTP-Method-Override X-Original-URL X_Forwarded_For",
                Reserved::Spoofing,
            ),
            (
                "Metadata-Flavor Metadata X-Google-Metadata-Request X-aws-ec2-metadata-token \
                 X-aws-ec2-metadata-token-ttl-seconds X-Metadata-Token Metadata-Token \
                 x-aliyun-ecs-metadata-token",
                Reserved::Metadata,
            ),
            (
                "X-Vault-Request x-vault-token X_Vault_Namespace X-Vault-AWS-IAM-Server-ID X-Consul-Token X-Nomad-Token \
                 Impersonate-User Impersonate-Group kbn-xsrf Jenkins-Crumb X-Requested-With X-Registry-Auth",
                Reserved::Guard,
            ),
        ] {
            for name in names.split_whitespace() {
                assert_eq!(reason(name), Some(expected), "{name}");
            }
        }
    }

    #[test]
    fn other_names_are_free() {
        for name in
            ["Authorization", "X-Api-Key", "Cookie", "x-webhook-token", "Hosts", "traceparent", "x-metadata"]
        {
            assert!(one(name, "1").unwrap().contains(name), "{name}");
        }
    }

    #[test]
    fn credentials_are_free_except_the_one_that_opens_metadata() {
        assert!(one("Authorization", "Bearer oracle-of-delphi").is_ok());
        assert!(one("Authorization", "Basic Oracle").is_ok());
        for value in ["Bearer Oracle", "bearer  ORACLE"] {
            let error = one("Authorization", value).unwrap_err();
            assert!(matches!(error, HeaderError::Reserved { reason: Reserved::Metadata, .. }), "{value}");
        }
    }

    #[test]
    fn names_are_tokens_and_values_are_visible() {
        for name in ["", "a b", "a:", "a\r\nb", "é", "a\0", "(a)", "a/b"] {
            assert!(matches!(one(name, "1"), Err(HeaderError::InvalidName { .. })), "{name:?}");
        }
        for value in [" a", "a ", "\ta", "a\t", " ", "a\r\nb: c", "a\nb", "a\0", "é", "a\u{7f}", "\u{b}a"] {
            assert!(matches!(one("a", value), Err(HeaderError::InvalidValue { .. })), "{value:?}");
        }
        for value in ["", "a", "a b\tc", "!\"#~"] {
            assert!(one("a", value).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let twice = [("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())];
        assert_eq!(CustomHeaders::new(twice), Err(HeaderError::Duplicate { name: "x-a".to_owned() }));
    }

    #[test]
    fn the_limits_are_exact() {
        let many = |count: usize| CustomHeaders::new((0..count).map(|i| (format!("x-{i}"), String::new())));
        assert_eq!(many(MAX_COUNT).unwrap().len(), MAX_COUNT);
        assert_eq!(many(MAX_COUNT + 1), Err(HeaderError::TooMany));
        let long = |bytes: usize| one("x", &"v".repeat(bytes - 1));
        assert!(long(MAX_HEADER_BYTES).is_ok());
        assert!(matches!(long(MAX_HEADER_BYTES + 1), Err(HeaderError::TooLarge { .. })));
        let full = |name: &str| (name.to_owned(), "v".repeat(MAX_HEADER_BYTES - 1));
        let four = ["a", "b", "c", "d"].map(full);
        assert!(CustomHeaders::new(four.clone()).is_ok());
        let over = four.into_iter().chain([("e".to_owned(), String::new())]);
        assert_eq!(CustomHeaders::new(over), Err(HeaderError::TotalTooLarge { name: "e".to_owned() }));
    }

    #[test]
    fn values_are_never_printed() {
        let headers = one("Authorization", "s3cret").unwrap();
        assert_eq!(format!("{headers:?}"), r#"{"authorization": "…"}"#);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("authorization", "s3cret")]);
        for (name, value) in [("host", "s3cret"), ("a", "s3cret\n"), ("a b", "s3cret")] {
            let error = one(name, value).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn an_error_says_which_header_and_what_to_do() {
        assert_eq!(
            one("Host", "a").unwrap_err().to_string(),
            "the header `host` may not be set, because it controls how the request is framed and routed; \
             remove or rename it"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_a_header_to_the_http_client(
            name in "\\PC{0,12}|[!-~]{1,12}",
            value in "\\PC{0,12}|[ -~\t]{0,12}",
        ) {
            if let Ok(headers) = one(&name, &value) {
                for (name, value) in headers.iter() {
                    let wire_name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                    let wire_value = http::HeaderValue::from_str(value).unwrap();
                    prop_assert_eq!(wire_name.as_str(), name);
                    prop_assert_eq!(wire_value.to_str().unwrap(), value);
                }
            }
        }

        #[test]
        fn accepted_headers_are_accepted_again_unchanged(
            names in proptest::collection::vec("[A-Za-z-]{1,6}", 0..24),
        ) {
            if let Ok(headers) = CustomHeaders::new(names.into_iter().map(|name| (name, "v".to_owned()))) {
                let again = headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                prop_assert_eq!(CustomHeaders::new(again), Ok(headers.clone()));
            }
        }
    }
}
