//! What is to be thought of what was found: pure, with the time as an argument.

use std::net::SocketAddr;
use std::time::Duration;

use postrider_domain::certificate::{CertificateStatus, Validity};
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use rustls::{CertificateError, Error};

use super::Finding;
use super::dial::Shown;
use crate::time::duration_for_people;

const DAY: Duration = Duration::from_secs(86_400);
const GIB: u64 = 1 << 30;

/// The connection has no TLS.
pub(super) fn plaintext(address: SocketAddr) -> Finding {
    if address.ip().is_loopback() {
        return Finding::ok("certificate", "no TLS, on this machine only");
    }
    Finding::warning(
        "certificate",
        "no TLS: the token and every event are sent in clear text",
        "use https://, with tls_cert and tls_key set, or a proxy that ends TLS on the control plane's machine",
    )
}

/// The certificate that the API has shown.
pub(super) fn served(shown: &Shown, now: Timestamp) -> Finding {
    let names = shown.names.join(", ");
    let (found, next) = match &shown.problem {
        None => return ending("certificate", "the API's certificate", shown.validity, now, RENEW_API),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => (
            "the API's certificate is from an authority that is not trusted here".to_owned(),
            "give the authority's certificate with --ca (POSTRIDER_CA), or use one from a public authority"
                .to_owned(),
        ),
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => (
            format!("the API's certificate is for {names}, not for {}", shown.called),
            format!(
                "call it by one of these names in --server, or let its certificate name {}",
                shown.called
            ),
        ),
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => return ending("certificate", "the API's certificate", shown.validity, now, RENEW_API),
        Some(other) => (format!("the API's certificate is not trusted: {other}"), RENEW_API.to_owned()),
    };
    Finding::problem("certificate", found, next)
}

const RENEW_API: &str =
    "renew the files in the settings tls_cert and tls_key; they are taken over without a restart";
const RENEW_BEHIND: &str =
    "clients see another one, of a proxy perhaps; renew the files in tls_cert and tls_key all the same";
const RENEW_AUTHORITY: &str =
    "`postrider agents authorities rotate`; of authorities of your own, renew the files in agent_ca";

/// What the control plane says of its certificates: of the API's only what the one that was `shown`
/// here does not say, and files that were not taken over.
pub(super) fn configured(
    system: &v1::GetSystemResponse,
    shown: Option<Timestamp>,
    now: Timestamp,
) -> Vec<Finding> {
    let until = system.api_certificate_expire_time.as_ref().map(from_wire);
    let behind = until.filter(|until| Some(*until) != shown).map(|until| {
        let from = system.api_certificate_start_time.as_ref().map_or(Timestamp::default(), from_wire);
        let what = "the control plane's own certificate";
        ending("certificate", what, Validity { from, until }, now, RENEW_BEHIND)
    });
    let next = "put right the file that is named; it is looked at every few seconds, without a restart";
    let refused = system.refused_certificates.iter();
    let refused = refused.map(|refused| Finding::warning("certificate", refused.clone(), next));
    behind.filter(|finding| finding.level != super::Level::Ok).into_iter().chain(refused).collect()
}

/// The authority that issues agents' certificates.
pub(super) fn authorities(authorities: &[v1::Authority], now: Timestamp) -> Vec<Finding> {
    let validity = |authority: &v1::Authority| {
        let from = authority.create_time.as_ref().map_or(Timestamp::default(), from_wire);
        Some(Validity { from, until: from_wire(authority.expire_time.as_ref()?) })
    };
    let issuing = authorities.iter().filter(|authority| authority.retire_time.is_none());
    let last = issuing.filter_map(validity).max_by_key(|validity| validity.until);
    last.map(|last| ending("authority", "the agents' authority", last, now, RENEW_AUTHORITY))
        .into_iter()
        .collect()
}

/// A certificate that expires soon is a warning; one with hardly any time left is a problem.
fn ending(about: &'static str, what: &str, validity: Validity, now: Timestamp, renew: &str) -> Finding {
    let left = validity.until.since(now);
    let found = format!("{what} expires on {}, in {}", validity.until, duration_for_people(whole(left)));
    match (validity.status(now), validity.fault(now)) {
        (_, Some(fault)) => Finding::problem(about, format!("{what} {fault}"), renew),
        (CertificateStatus::ExpiresSoon, _) if left < validity.warn_before() / 2 => {
            Finding::problem(about, found, renew)
        }
        (CertificateStatus::ExpiresSoon, _) => Finding::warning(about, found, renew),
        _ => Finding::ok(about, found),
    }
}

/// Days where there are some, else minutes: nobody needs it finer.
fn whole(time: Duration) -> Duration {
    let unit = if time >= DAY { DAY } else { Duration::from_secs(60) };
    unit * u32::try_from(time.as_secs() / unit.as_secs()).unwrap_or(u32::MAX)
}

/// The control plane's clock, by one that was read before and after it was asked.
pub(super) fn clock(theirs: Timestamp, before: Timestamp, after: Timestamp) -> Finding {
    let (behind, ahead) = (before.since(theirs), theirs.since(after));
    let off = behind.max(ahead);
    let next = "let both machines keep time by NTP: receivers refuse signatures whose time is minutes off";
    let found = |than: &str| {
        format!("the control plane's clock is {} {than} this machine's", duration_for_people(off))
    };
    let than = if behind > ahead { "behind" } else { "ahead of" };
    match off.as_secs() {
        0..2 => Finding::ok("clock", "the control plane's clock agrees with this machine's"),
        2..60 => Finding::warning("clock", found(than), next),
        _ => Finding::problem("clock", found(than), next),
    }
}

/// The control plane's version, beside this command's.
pub(super) fn version(control_plane: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if control_plane == own {
        return Finding::ok("version", format!("the control plane and this command are {own}"));
    }
    let found = format!("the control plane is {control_plane}, this command {own}");
    Finding::warning("version", found, "use the command of the control plane's version")
}

/// The store, and what its disk has left.
pub(super) fn store(system: &v1::GetSystemResponse) -> Finding {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB as f64);
    let size = gib(system.store_bytes);
    let Some(free) = system.disk_free_bytes else {
        return Finding::warning(
            "store",
            format!("the store takes {size}; how much is free is not known"),
            "look at the disk of data_dir",
        );
    };
    let found = format!("the store takes {size}, and {} are free on its disk", gib(free));
    let next = "give it a larger disk, or keep less: retain_events, retain_delivered_data, tenants' quotas";
    match free {
        free if free < GIB / 2 => Finding::problem("store", found, next),
        free if free < 2 * GIB || free < system.store_bytes / 10 => Finding::warning("store", found, next),
        _ => Finding::ok("store", found),
    }
}

/// A pool and its agents.
pub(super) fn pool(pool: &v1::Pool) -> Finding {
    let (name, status) = (&pool.name, pool.status.clone().unwrap_or_default());
    let (agents, waiting) = (status.connected_agents, status.held_subscriptions);
    let start = "start agents of this pool; if they run, look at their logs, or at their /readyz";
    if agents == 0 && waiting > 0 {
        let instead =
            if status.fallback_active { "; the fallback pool delivers for those that allow it" } else { "" };
        let found =
            format!("pool {name} has no agent, and deliveries of {waiting} subscriptions wait{instead}");
        return Finding::problem("pool", found, start);
    }
    if agents == 0 && status.subscriptions > 0 {
        let found = format!("pool {name} has no agent, and {} subscriptions", status.subscriptions);
        return Finding::problem("pool", found, start);
    }
    if status.not_allowed_subscriptions > 0 {
        let count = status.not_allowed_subscriptions;
        let found =
            format!("pool {name} does not allow the tenants of {count} subscriptions: deliveries are held");
        let next =
            "allow them by `postrider pools update --add-tenant`, or give the subscriptions another pool";
        return Finding::problem("pool", found, next);
    }
    if agents == 1 && status.subscriptions > 0 {
        let found = format!("pool {name} has one agent: while it restarts, deliveries wait");
        return Finding::warning("pool", found, "run two or more");
    }
    if agents > 0 && status.max_in_flight > 0 && status.in_flight >= status.max_in_flight {
        let found = format!(
            "the {agents} agents of pool {name} are full: {} jobs of {}",
            status.in_flight, status.max_in_flight
        );
        return Finding::warning("pool", found, "run more agents, or raise their max_in_flight");
    }
    Finding::ok("pool", format!("pool {name} has {agents} agents"))
}

/// What agents run, beside what the control plane runs.
pub(super) fn versions(pools: &[v1::Pool], control_plane: &str) -> Vec<Finding> {
    let statuses = pools.iter().filter_map(|pool| Some((&pool.name, pool.status.as_ref()?)));
    let others =
        statuses.flat_map(|(name, status)| status.versions.iter().map(move |version| (name, version)));
    let others = others.filter(|(_, version)| version.version != control_plane);
    let told = others.map(|(name, version)| {
        let found = format!(
            "{} agents of pool {name} run {}, the control plane {control_plane}",
            version.agents, version.version
        );
        Finding::warning("version", found, "fine while you upgrade; then let all run the same")
    });
    told.collect()
}

/// Agents that were taken for two processes, or are gone for good.
pub(super) fn agents(agents: &[v1::Agent], now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for agent in agents.iter().filter(|agent| agent.duplicate_time.is_some()) {
        let found = format!("two processes have used the identity of agent {}", agent.id);
        let next = "let each process have a state_dir of its own; if you did not do it, revoke the agent: its key is out";
        findings.push(Finding::warning("agents", found, next));
    }
    let ended = |agent: &&v1::Agent| {
        let ends = agent.certificate_expire_time.as_ref().map(from_wire);
        agent.state() == v1::AgentState::Disconnected && ends.is_some_and(|ends| ends <= now)
    };
    let gone = agents.iter().filter(ended).count();
    if gone > 0 {
        findings.push(Finding::ok("agents", format!("{gone} agents are away for longer than their certificates last; to come back they enroll again")));
    }
    findings
}

/// Under which key-encryption key secrets are.
pub(super) fn secrets(status: &v1::GetSecretsStatusResponse) -> Finding {
    if status.rewrap_advised {
        return Finding::warning(
            "secrets",
            "something is sealed under a former key-encryption key",
            "`postrider secrets rewrap`, then take the former key out of the setting kek",
        );
    }
    Finding::ok("secrets", "all are sealed under the current key-encryption key")
}

/// Tokens that will not be accepted for long.
pub(super) fn tokens(tokens: &[v1::Token], now: Timestamp) -> Vec<Finding> {
    let left = |token: &v1::Token| token.expire_time.as_ref().map(|ends| from_wire(ends).since(now));
    let soon = tokens.iter().filter_map(|token| Some((token, left(token)?)));
    let soon = soon.filter(|(_, left)| !left.is_zero() && *left < 14 * DAY);
    let told = soon.map(|(token, left)| {
        let name = if token.display_name.is_empty() { &token.id } else { &token.display_name };
        let found = format!("the token '{name}' ends in {}", duration_for_people(whole(left)));
        Finding::warning(
            "tokens",
            found,
            "`postrider tokens create`, and give the new one to the user of this one",
        )
    });
    told.collect()
}

/// A bootstrap token file that should be gone.
pub(super) fn bootstrap(system: &v1::GetSystemResponse) -> Option<Finding> {
    let file = &system.leftover_bootstrap_token_file;
    let found = format!(
        "the bootstrap token file {file} still exists on the control plane, and an admin token is valid"
    );
    let next = "create another admin token, revoke the one in the file, delete the file, and unset \
                bootstrap_token_file (with the chart: bootstrapToken.enabled=false)";
    (!file.is_empty()).then(|| Finding::warning("tokens", found, next))
}

/// Where agents find the control plane.
pub(super) fn agent_address(system: &v1::GetSystemResponse) -> Finding {
    if system.agent_address.is_empty() {
        return Finding::warning(
            "agents",
            "the settings do not say by which address agents reach the control plane: no join token can be made",
            "set agent_address, and restart",
        );
    }
    Finding::ok(
        "agents",
        format!("join tokens lead agents to {}, which was not tried from here", system.agent_address),
    )
}

pub(super) fn from_wire(time: &prost_types::Timestamp) -> Timestamp {
    Timestamp::from_millis(
        time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level::{self, Ok as Good, Problem, Warning};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000)
    }

    fn wire(time: Timestamp) -> Option<prost_types::Timestamp> {
        Some(crate::time::to_wire(time))
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn certificates_are_told_before_they_end() {
        // Days of life, days that are left.
        let table = [
            (400, 399, Good),
            (400, 15, Good),
            (400, 13, Warning),
            (400, 8, Warning),
            (400, 6, Problem),
            (9, 4, Good),
            (9, 2, Warning),
            (9, 1, Problem),
        ];
        for (life, left, expected) in table {
            let until = now() + DAY * left;
            let validity = Validity { from: until - DAY * life, until };
            let authority = v1::Authority {
                create_time: wire(validity.from),
                expire_time: wire(until),
                ..v1::Authority::default()
            };
            assert_eq!(levels(&authorities(&[authority], now())), [expected], "{life} days, {left} left");
            let system = v1::GetSystemResponse {
                api_certificate_start_time: wire(validity.from),
                api_certificate_expire_time: wire(until),
                ..v1::GetSystemResponse::default()
            };
            assert_eq!(!configured(&system, None, now()).is_empty(), expected != Good);
            assert_eq!(configured(&system, Some(until), now()), [], "it is the one that was shown");
            let shown = Shown { validity, names: Vec::new(), called: "a".into(), problem: None };
            assert_eq!(served(&shown, now()).level, expected);
        }
        let retired =
            v1::Authority { expire_time: wire(now()), retire_time: wire(now()), ..v1::Authority::default() };
        assert_eq!(authorities(&[retired], now()), []);
        let over = Validity { from: now() - DAY, until: now() };
        let gone = ending("certificate", "it", over, now(), "renew");
        assert_eq!((gone.level, gone.found), (Problem, format!("it expired on {}", now())));
    }

    #[test]
    fn a_file_that_was_not_taken_over_is_told() {
        let refused = "keeping the API's previous certificate: x";
        let system = v1::GetSystemResponse {
            refused_certificates: vec![refused.to_owned()],
            ..v1::GetSystemResponse::default()
        };
        let told = configured(&system, None, now());
        assert_eq!((told.len(), told[0].level, told[0].found.as_str()), (1, Warning, refused));
    }

    #[test]
    fn a_certificate_that_is_not_trusted_says_what_to_do() {
        let table = [
            (CertificateError::UnknownIssuer, "authority that is not trusted", "--ca"),
            (CertificateError::NotValidForName, "for b.example, 10.0.0.1, not for a.example", "--server"),
            (CertificateError::BadSignature, "not trusted", "tls_cert"),
        ];
        for (error, found, next) in table {
            let shown = Shown {
                validity: Validity { from: now() - DAY, until: now() + DAY * 100 },
                names: vec!["b.example".into(), "10.0.0.1".into()],
                called: "a.example".into(),
                problem: Some(Error::InvalidCertificate(error)),
            };
            let finding = served(&shown, now());
            assert_eq!(finding.level, Problem);
            assert!(finding.found.contains(found) && finding.next.contains(next), "{finding}");
        }
    }

    #[test]
    fn a_clock_is_judged_by_what_the_round_trip_cannot_explain() {
        let at = |seconds: u64| now() + Duration::from_secs(seconds);
        let table = [
            ((100, 100, 100), Good),
            ((105, 100, 110), Good),
            ((113, 100, 110), Warning),
            ((95, 100, 110), Warning),
            ((200, 100, 110), Problem),
            ((10, 100, 110), Problem),
        ];
        for ((theirs, before, after), expected) in table {
            let finding = clock(at(theirs), at(before), at(after));
            assert_eq!(finding.level, expected, "{finding}");
            assert_eq!(finding.found.contains("behind"), theirs < before, "{finding}");
        }
    }

    #[test]
    fn a_leftover_bootstrap_token_file_is_a_warning() {
        let system = |file: &str| v1::GetSystemResponse {
            leftover_bootstrap_token_file: file.to_owned(),
            ..v1::GetSystemResponse::default()
        };
        assert_eq!(bootstrap(&system("")), None);
        let finding = bootstrap(&system("/etc/postrider/bootstrap-token/token")).unwrap();
        assert_eq!(finding.level, Warning);
        assert!(finding.found.contains("/etc/postrider/bootstrap-token/token"), "{finding}");
        assert!(finding.next.contains("revoke"), "{finding}");
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_told() {
        let system = |store_bytes, disk_free_bytes| v1::GetSystemResponse {
            store_bytes,
            disk_free_bytes,
            ..Default::default()
        };
        let table = [
            (GIB, Some(100 * GIB), Good),
            (GIB, Some(GIB), Warning),
            (100 * GIB, Some(5 * GIB), Warning),
            (GIB, Some(GIB / 4), Problem),
            (GIB, None, Warning),
        ];
        for (size, free, expected) in table {
            assert_eq!(store(&system(size, free)).level, expected, "{size} {free:?}");
        }
    }

    #[test]
    fn a_pool_needs_agents_when_somebody_needs_the_pool() {
        let table = [
            ((0, 0, 0), (0, 0), Good),
            ((0, 3, 0), (0, 0), Problem),
            ((0, 3, 2), (0, 0), Problem),
            ((1, 0, 0), (0, 512), Good),
            ((1, 3, 0), (0, 512), Warning),
            ((2, 3, 0), (1, 1024), Good),
            ((2, 3, 0), (1024, 1024), Warning),
        ];
        for ((connected_agents, subscriptions, held_subscriptions), (in_flight, max_in_flight), expected) in
            table
        {
            let status = v1::PoolStatus {
                connected_agents,
                subscriptions,
                held_subscriptions,
                in_flight,
                max_in_flight,
                ..v1::PoolStatus::default()
            };
            let finding = pool(&v1::Pool { name: "eu".into(), status: Some(status), ..v1::Pool::default() });
            assert_eq!(finding.level, expected, "{finding}");
        }
    }

    #[test]
    fn what_else_is_told() {
        let version = |version: &str| v1::AgentVersion { version: version.into(), agents: 2 };
        let status = v1::PoolStatus {
            versions: vec![version("1.0.0"), version("0.9.0")],
            ..v1::PoolStatus::default()
        };
        let pools = [v1::Pool { status: Some(status), ..v1::Pool::default() }];
        assert_eq!(levels(&versions(&pools, "1.0.0")), [Warning]);
        assert_eq!(super::version(env!("CARGO_PKG_VERSION")).level, Good);
        assert_eq!(super::version("99.0.0").level, Warning);

        let token = |days: u32| v1::Token { expire_time: wire(now() + DAY * days), ..v1::Token::default() };
        assert_eq!(
            levels(&tokens(&[token(0), token(13), token(15), v1::Token::default()], now())),
            [Warning]
        );

        let away = v1::Agent {
            state: v1::AgentState::Disconnected.into(),
            certificate_expire_time: wire(now()),
            ..v1::Agent::default()
        };
        let twice = v1::Agent { duplicate_time: wire(now()), ..v1::Agent::default() };
        assert_eq!(levels(&agents(&[away, twice], now())), [Warning, Good]);
        assert_eq!(
            secrets(&v1::GetSecretsStatusResponse { rewrap_advised: true, ..Default::default() }).level,
            Warning
        );
        assert_eq!(agent_address(&v1::GetSystemResponse::default()).level, Warning);
        assert_eq!(plaintext("127.0.0.1:1".parse().unwrap()).level, Good);
        assert_eq!(plaintext("10.0.0.1:1".parse().unwrap()).level, Warning);
    }
}
