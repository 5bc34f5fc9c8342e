//! Structure of URLs, and that every consumer reads the canonical form the same way.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> EndpointUrl {
    EndpointUrl::parse(text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
}

fn code(text: &str) -> &'static str {
    match EndpointUrl::parse(text) {
        Ok(url) => panic!("{text} was read as {url}"),
        Err(refusal) => refusal.code().as_str(),
    }
}

#[test]
fn canonical_forms() {
    for (text, canonical) in [
        ("https://HOOKS.Example.COM/Path", "https://hooks.example.com/Path"),
        ("HTTPS://a.example", "https://a.example/"),
        ("https://a.example.:443/x", "https://a.example/x"),
        ("https://a.example:/x", "https://a.example/x"),
        ("https://a.example:08443?q", "https://a.example:8443/?q"),
        ("http://a.example:80", "http://a.example/"),
        ("http://a.example:443/", "http://a.example:443/"),
        ("https://a.example/b/../c/%2e%2E/./d", "https://a.example/d"),
        ("https://a.example/\"<>{}|", "https://a.example/%22%3C%3E%7B%7D|"),
        ("https://a.example/?'\"", "https://a.example/?%27%22"),
        ("https://[0:0::FFFF:8.8.8.8]/", "https://[::ffff:808:808]/"),
        ("https://my_service.svc/", "https://my_service.svc/"),
        ("https://localhost:0/", "https://localhost:0/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ] {
        assert_eq!(parse(text).as_str(), canonical, "{text}");
    }
}

#[test]
fn structural_refusals() {
    for (text, expected) in [
        ("https:/a.example/", "url_invalid"),
        ("https:////a.example/", "url_invalid"),
        ("https://?q", "url_invalid"),
        ("/x:y", "url_invalid"),
        (":", "url_invalid"),
        ("https://::1/", "url_invalid"),
        ("https://[::1", "url_invalid"),
        ("https://[::1]x/", "url_invalid"),
        ("https://[::ffff:0177.0.0.1]/", "url_invalid"),
        ("https://a<b.example/", "url_invalid"),
        ("https://a.example:65536/", "url_invalid"),
        ("https://a.example:x/", "url_invalid"),
        ("https://a.1/", "url_invalid"),
        ("https://127.0.0.1./", "host_noncanonical_ip"),
        ("https://127.0.0.01/", "host_noncanonical_ip"),
        ("https://0X7f.1/", "host_noncanonical_ip"),
        ("https://a.example../", "host_invalid_name"),
        ("https://./", "host_invalid_name"),
        ("https://a-.example/", "host_invalid_name"),
        ("https://a$b.example/", "host_invalid_name"),
        ("https://*.a.example/", "host_invalid_name"),
        ("localhost:8080/x", "scheme"),
        ("ftp://a.example/", "scheme"),
        ("httpss://a.example/", "scheme"),
        ("https://a.example/x%7f", "url_encoded_control"),
        ("https://a.example/?%1F", "url_encoded_control"),
        ("https://a.example/\u{7f}", "url_control_char"),
        ("https://a.example/x y", "url_control_char"),
        ("https://a.example/\u{85}", "url_non_ascii"),
        ("https://a.example#", "url_fragment"),
        ("https://a.example/x\\y", "url_backslash"),
        ("https://@a.example/", "url_userinfo"),
    ] {
        assert_eq!(code(text), expected, "{text:?}");
    }
}

#[test]
fn a_url_that_cannot_be_read_names_the_part() {
    for (text, part) in [
        ("https://a.example:65536/", "its port must be a number from 1 to 65535"),
        ("https://a.example:x/", "its port must be"),
        ("https://256.1.1.1/", "is no IPv4 address"),
        ("https://a.1/", "is no IPv4 address"),
        ("https://[::ffff:0177.0.0.1]/", "in brackets"),
        ("https://[::1", "in brackets"),
        ("https://xn--a.de/", "Punycode"),
        ("hooks.example.com/x", "write it as https://host/path"),
        ("https://", "write it as https://host/path"),
    ] {
        let refusal = EndpointUrl::parse(text).expect_err(text);
        assert_eq!(refusal.code().as_str(), "url_invalid", "{text}");
        let sentence = refusal.to_string();
        assert!(
            sentence.starts_with("the URL cannot be read; ") && sentence.contains(part),
            "{text}: {sentence}"
        );
    }
}

#[test]
fn policy_is_left_to_the_policy() {
    for text in [
        "http://localhost:9/",
        "https://127.0.0.1:25/",
        "https://[fe80::1]/",
        "http://metadata.google.internal/",
    ] {
        parse(text);
    }
}

#[test]
fn the_limit_holds_before_and_after_encoding() {
    let prefix = "https://a.example/";
    let fits = prefix.to_owned() + &"x".repeat(MAX_LEN - prefix.len());
    assert_eq!(parse(&fits).as_str().len(), MAX_LEN);
    assert_eq!(code(&(fits + "x")), "url_too_long");
    assert_eq!(code(&(prefix.to_owned() + &"<".repeat(1000))), "url_too_long");
}

#[test]
fn the_parts_are_slices_of_what_is_sent() {
    let url = parse("http://A.example:8080/p/q?x=1&y");
    assert_eq!(url.scheme(), Scheme::Http);
    assert_eq!(url.host(), Host::Name("a.example"));
    assert_eq!(url.port(), 8080);
    assert_eq!(url.authority(), "a.example:8080");
    assert_eq!(url.origin(), "http://a.example:8080");
    assert_eq!(url.path_and_query(), "/p/q?x=1&y");
    let url = parse("https://[::1]");
    assert_eq!(url.host(), Host::Address("::1".parse().unwrap()));
    assert_eq!((url.port(), url.authority(), url.path_and_query()), (443, "[::1]", "/"));
}

#[test]
fn neither_debug_nor_a_refusal_repeats_the_path() {
    assert_eq!(format!("{:?}", parse("https://a.example/s3cret?s3cret")), "EndpointUrl(https://a.example/…)");
    for text in
        ["https://u:s3cret@a.example/", "https://a.example/s3cret#", "https://1.2/s3cret", "https:/s3cret"]
    {
        let refusal = EndpointUrl::parse(text).unwrap_err();
        assert!(!format!("{refusal} {refusal:?}").contains("s3cret"), "{text}");
    }
}

/// What the HTTP client makes of the text must be what the policy judged.
fn assert_read_alike(url: &EndpointUrl) {
    assert_eq!(&parse(url.as_str()), url, "parsing again changes {url}");
    let uri: http::Uri = url.as_str().parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    assert_eq!(uri.scheme_str(), Some(url.scheme().as_str()));
    assert_eq!(uri.authority().map(http::uri::Authority::as_str), Some(url.authority()));
    assert_eq!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some(url.path_and_query()));
    let implied = if url.scheme() == Scheme::Http { 80 } else { 443 };
    assert_eq!(uri.port_u16().unwrap_or(implied), url.port());
    let host = uri.host().unwrap_or_default();
    match url.host() {
        Host::Name(name) => {
            assert_eq!(host, name);
            assert!(name.parse::<IpAddr>().is_err(), "{name} is an address to the resolver");
        }
        Host::Address(ip) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            assert_eq!(bare.parse::<IpAddr>().ok(), Some(ip));
        }
    }
    let text = url.as_str();
    assert!(text.len() <= MAX_LEN && text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
    assert!(!text.contains(['#', '\\']) && !url.authority().contains(['@', '%']), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_accepted_is_read_alike(
        scheme in "https?:(//)?",
        authority in "[a-zA-Z0-9.:@%_\\[\\]x-]{0,24}",
        rest in "([/?][!-~]{0,24})?",
    ) {
        if let Ok(url) = EndpointUrl::parse(&format!("{scheme}{authority}{rest}")) {
            assert_read_alike(&url);
        }
    }

    #[test]
    fn ordinary_urls_are_accepted_and_read_alike(
        host in "([a-z0-9]{1,8}\\.){1,3}[a-zA-Z]{2,6}\\.?",
        port in proptest::option::of(any::<u16>()),
        rest in "(/[!$&-;=@-\\[\\]-~]{0,24})?",
    ) {
        // Escapes for control characters are refused, and may come up by chance.
        let rest = rest.replace('%', "%25").replace("%250", "").replace("%251", "").replace("%257", "");
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        assert_read_alike(&parse(&format!("https://{host}{port}{rest}")));
    }

    #[test]
    fn addresses_are_accepted_in_their_own_spelling(ip: IpAddr, port: u16) {
        let url = parse(&format!("https://{}/", std::net::SocketAddr::new(ip, port)));
        prop_assert_eq!(url.host(), Host::Address(ip));
        prop_assert_eq!(url.port(), port);
        assert_read_alike(&url);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,64}") {
        if let Ok(url) = EndpointUrl::parse(&text) {
            assert_read_alike(&url);
        }
    }
}
