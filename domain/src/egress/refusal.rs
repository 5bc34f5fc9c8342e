//! Why something was refused: a stable code for machines, a sentence for people.
//!
//! Every egress rule answers with a [`Refusal`]. Its code is stored, sent and counted, so a code never
//! changes its meaning; its sentence says what was refused and what to do next, and may be reworded.

use std::fmt;

const USE_A_PUBLIC_ADDRESS: &str = "use an endpoint with a public address, or have the agent's owner \
     list the range under `allow_cidrs` of the agent's egress policy";

const WRITE_THE_PLAIN_ADDRESS: &str = "use the address without the tunnel prefix";

/// The next step for an address that `allow_cidrs` alone does not open.
pub(super) const UNLOCK: &str = "link-local and metadata addresses hand out credentials and stay refused \
     even inside a listed range; if this one must be called, the agent's owner lists it under \
     `allow_cidrs` and also sets `dangerously_allow_link_local_and_metadata` in the agent's egress policy";

/// One table holds every code, its meaning and its remedy, so that none of the three can be forgotten.
macro_rules! codes {
    ($($variant:ident = $code:literal, $what:literal, $next:expr;)+) => {
        /// The rule that refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = concat!("`", $code, "`: what was refused ", $what, ".")] $variant,)+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];

            /// The stable word for this code, as stored, sent and counted.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)+ }
            }

            /// What is wrong, as the end of a sentence whose subject is the thing refused.
            pub fn what(self) -> &'static str {
                match self { $(Code::$variant => $what,)+ }
            }

            /// What to do about it.
            pub fn next_step(self) -> &'static str {
                match self { $(Code::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    UrlInvalid = "url_invalid", "cannot be read", "write it as https://host/path";
    UrlTooLong = "url_too_long", "is longer than 2048 bytes", "shorten it";
    UrlControlChar = "url_control_char", "contains a space, a line break or another control character",
        "remove it, or write a space in the path as %20";
    UrlNonAscii = "url_non_ascii", "contains a character outside ASCII",
        "write the host in its xn-- form and percent-encode the rest";
    UrlBackslash = "url_backslash", "contains a backslash",
        "use forward slashes, or %5C where a backslash is meant";
    UrlEncodedControl = "url_encoded_control", "contains a percent-encoded control character", "remove it";
    UrlUserinfo = "url_userinfo", "contains a user name or password",
        "remove everything from // up to the @, and send credentials in a custom header";
    UrlFragment = "url_fragment", "contains a fragment, which is never sent",
        "remove the # and what follows it, or write %23 where a # is meant";
    HostPercent = "host_percent", "has a percent sign in its host",
        "write the host's name or address as it is";
    HostNoncanonicalIp = "host_noncanonical_ip", "is an IPv4 address in an ambiguous spelling",
        "write it as four decimal numbers without leading zeros, such as 192.0.2.1";
    HostInvalidName = "host_invalid_name", "is not a valid host name",
        "use at most 253 letters, digits, hyphens and underscores, in labels of 1 to 63, no hyphen at a label's end";
    HostSpecialName = "host_special_name", "is a name of one label or under a special-use domain",
        "use a public name, or have the agent's owner list it under the agent's `allow_hosts`";
    Scheme = "scheme", "is not an allowed scheme",
        "begin the URL with https://; plain http needs `allow_http` in the agent's egress policy";
    Port = "port", "is not an allowed port",
        "use 443 or 8443, or have the agent's owner list the port under the agent's `allow_ports`";

    CredentialsNeedHttps = "credentials_need_https",
        "is plain http, to a host for which the agent has credentials",
        "begin the URL with https://, or have the agent's owner set `allow_http` beside these credentials";

    V4ThisNetwork = "v4_this_network", "is in 0.0.0.0/8, which means this very machine", USE_A_PUBLIC_ADDRESS;
    V4Private = "v4_private", "is a private address", USE_A_PUBLIC_ADDRESS;
    V4Cgnat = "v4_cgnat", "is in 100.64.0.0/10, which carriers and clouds share", USE_A_PUBLIC_ADDRESS;
    V4Loopback = "v4_loopback", "is a loopback address", USE_A_PUBLIC_ADDRESS;
    V4LinkLocal = "v4_link_local", "is a link-local address, where clouds serve instance metadata", UNLOCK;
    V4Ietf = "v4_ietf", "is in 192.0.0.0/24, which is kept for protocols", USE_A_PUBLIC_ADDRESS;
    V4Documentation = "v4_documentation", "is an address for documentation only", USE_A_PUBLIC_ADDRESS;
    V4SixToFourRelay = "v4_6to4_relay", "is in 192.88.99.0/24, the retired 6to4 relays", USE_A_PUBLIC_ADDRESS;
    V4Benchmark = "v4_benchmark", "is in 198.18.0.0/15, which is kept for benchmarks", USE_A_PUBLIC_ADDRESS;
    V4Multicast = "v4_multicast", "is a multicast address", USE_A_PUBLIC_ADDRESS;
    V4Reserved = "v4_reserved", "is in 240.0.0.0/4, which is reserved", USE_A_PUBLIC_ADDRESS;
    V4Broadcast = "v4_broadcast", "is the broadcast address", USE_A_PUBLIC_ADDRESS;
    V4CloudMagic = "v4_cloud_magic", "is a cloud's own platform service, despite looking public", UNLOCK;

    V6Unspecified = "v6_unspecified", "is the unspecified address", USE_A_PUBLIC_ADDRESS;
    V6Loopback = "v6_loopback", "is the loopback address", USE_A_PUBLIC_ADDRESS;
    V6NotGlobalUnicast = "v6_not_global_unicast", "is outside 2000::/3, the public space of IPv6",
        USE_A_PUBLIC_ADDRESS;
    V6Ietf = "v6_ietf", "is in 2001::/23, which is kept for protocols", USE_A_PUBLIC_ADDRESS;
    V6Documentation = "v6_documentation", "is an address for documentation only", USE_A_PUBLIC_ADDRESS;
    V6SixToFour = "v6_6to4", "is a 6to4 address, which hides an IPv4 address", WRITE_THE_PLAIN_ADDRESS;
    V6Isatap = "v6_isatap", "is an ISATAP address, which hides an IPv4 address", WRITE_THE_PLAIN_ADDRESS;

    PolicyDenied = "policy_denied", "is in a range that the agent's owner denies",
        "use another endpoint, or have the agent's owner change the agent's `deny_cidrs`";
    OwnAddress = "own_address", "belongs to the agent itself or to the control plane",
        "use another endpoint, or have the agent's owner list it under the agent's `allow_cidrs`";
    DnsEmpty = "dns_empty", "has no address",
        "check that the name has an A or AAAA record that the agent's resolver can see";
    RedirectNotFollowed = "redirect_not_followed", "was not followed",
        "put the final URL into the subscription, or have the endpoint answer 2xx itself";
}

impl Code {
    /// The code that `word` stands for, if there is one.
    pub fn from_word(word: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == word)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that must not be called, with the rule that says so.
///
/// `Display` is one sentence: what was refused, why, and what to do next. It may name an internal
/// address or host, so it is for the agent's owner and the operator, and not for a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} {}; {next_step}", .code.what())]
pub struct Refusal {
    code: Code,
    subject: String,
    next_step: &'static str,
}

impl Refusal {
    /// Refuses `subject`, which is a noun phrase (`port 25`), by the rule `code`.
    pub fn new(code: Code, subject: impl Into<String>) -> Refusal {
        Refusal { code, subject: subject.into(), next_step: code.next_step() }
    }

    /// The rule that refused.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What was refused, as a noun phrase.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Replaces the code's usual remedy where it would mislead.
    pub(super) fn with_next_step(self, next_step: &'static str) -> Refusal {
        Refusal { next_step, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_distinct_words_and_lead_back_to_themselves() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(Code::from_word(code.as_str()), Some(code));
        }
        assert_eq!(Code::from_word("ok"), None);
    }

    #[test]
    fn a_refusal_is_a_sentence_with_a_remedy() {
        let refusal = Refusal::new(Code::Port, "port 25");
        let sentence = refusal.to_string();
        assert!(sentence.starts_with("port 25 is not an allowed port; use 443"));
        for &code in Code::ALL {
            let sentence = Refusal::new(code, "it").to_string();
            assert!(!sentence.contains("  "), "line continuation left a gap: {sentence}");
        }
    }
}
