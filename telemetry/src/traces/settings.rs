//! Where the collector is, and what it is told: checked before anything runs.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};

/// A collector that takes OTLP over gRPC.
#[derive(Clone)]
pub struct Settings {
    endpoint: Uri,
    /// Often a credential, so there is no `Debug`.
    headers: HeaderMap,
    ca: Option<Vec<u8>>,
}

/// What is wrong with one of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `endpoint`, `headers_file` or `ca`.
    pub setting: &'static str,
    /// What follows its name in a message.
    pub why: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(HeaderName::as_str).collect();
        f.debug_struct("Settings").field("endpoint", &self.endpoint).field("headers", &names).finish()
    }
}

impl Settings {
    /// A collector at a URL, http or https; `headers_file` has lines `name: value` that it is sent with each batch, `ca`
    /// the certificates, PEM, of the authorities that its certificate must be from (without it, those of this machine).
    ///
    /// # Errors
    /// All problems.
    pub fn read(
        endpoint: &str,
        headers_file: Option<&Path>,
        ca: Option<&Path>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut noted = |setting, why| problems.push(Problem { setting, why });
        let uri = read_endpoint(endpoint).map_err(|why| noted("endpoint", why)).unwrap_or_default();
        let plain = uri.scheme_str() == Some("http");
        let headers = headers_file.map(read_headers).unwrap_or_else(|| Ok(HeaderMap::new()));
        let headers = headers.map_err(|why| noted("headers_file", why)).unwrap_or_default();
        let ca = ca.map(read_ca).transpose();
        let ca = ca.map_err(|why| noted("ca", why)).unwrap_or_default();
        if plain && ca.is_some() {
            noted("ca", "is only of use with an https:// endpoint".to_owned());
        }
        if problems.is_empty() { Ok(Self { endpoint: uri, headers, ca }) } else { Err(problems) }
    }

    pub(super) fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// `None` for plain HTTP.
    pub(super) fn tls(&self) -> Option<ClientTlsConfig> {
        let tls = ClientTlsConfig::new();
        (self.endpoint.scheme_str() == Some("https")).then(|| match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
            None => tls.with_native_roots(),
        })
    }
}

fn read_endpoint(text: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().ok();
    let good = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path() == "/"
            && uri.query().is_none()
    };
    let wrong = || {
        format!(
            "is {text:?}, but must be the URL of a collector that takes OTLP over gRPC, such as http://localhost:4317"
        )
    };
    uri.filter(good).ok_or_else(wrong)
}

fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        // Without the line itself: a secret is on it.
        let wrong = || {
            format!(
                "names {}, whose line {number} is not 'name: value' as HTTP headers have it",
                path.display()
            )
        };
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().to_ascii_lowercase().parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(begin.len()).any(|window| window == begin) {
        return Ok(pem);
    }
    Err(format!("names {}, which holds no certificate in PEM", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("names {}, which cannot be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(endpoint: &str, headers: Option<&str>, ca: Option<&str>) -> Vec<Problem> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), headers.unwrap_or_default()).unwrap();
        let settings = Settings::read(endpoint, headers.map(|_| file.path()), ca.map(Path::new));
        settings.err().unwrap_or_default()
    }

    #[test]
    fn what_is_a_collector() {
        for good in ["http://localhost:4317", "https://collector.example.com", "http://[::1]:4317/"] {
            assert_eq!(problems(good, Some("Authorization: Bearer x\n\nx-scope: a:b\n"), None), []);
        }
        for bad in ["localhost:4317", "", "grpc://x:1", "http://", "http://x/v1/traces", "http://x?y"] {
            let found = problems(bad, None, None);
            assert!(found[0].why.contains("must be the URL of a collector"), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_no_authority() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a key").unwrap();
        let found = Settings::read("https://a", None, Some(file.path())).unwrap_err();
        assert!(found[0].why.contains("holds no certificate"), "{found:?}");
    }

    #[test]
    fn all_problems_are_reported_and_no_secret() {
        let found = problems("nowhere", Some("a: b\nsecret without a colon"), Some("/does/not/exist"));
        assert_eq!(
            found.iter().map(|problem| problem.setting).collect::<Vec<_>>(),
            ["endpoint", "headers_file", "ca"]
        );
        let told = format!("{found:?}");
        assert!(told.contains("line 2") && !told.contains("secret without"), "{told}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "authorization: Bearer hidden").unwrap();
        let settings = Settings::read("http://localhost:4317", Some(file.path()), None).unwrap();
        let shown = format!("{settings:?}");
        assert!(shown.contains("authorization") && !shown.contains("hidden"), "{shown}");
    }
}
