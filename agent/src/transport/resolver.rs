//! Finds a name's addresses: the hosts file first, then DNS, with a cache that honours TTLs.
//!
//! Names are looked up as absolute names, so that a search list of the machine cannot turn a public name
//! into an internal one. Nothing here judges an address; the guard does.
//!
//! A and AAAA are separate questions, asked at the same time, and each answer is remembered by itself. An attempt goes on
//! with the addresses of one family shortly after they came (`RESOLUTION_DELAY`, RFC 8305); what the other family has to
//! say is `Late`, and helps the attempt only if no connection was made before. Attempts share open questions.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use postrider_domain::egress::{Code, Refusal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use self::answers::{Answer, Answers, Asked, Family, Found, Miss, Question};
use self::sockets::Sockets;
use super::failure::Failure;
use crate::clock::{Instant, now};

mod answers;
mod sockets;

/// More addresses than any honest name has.
const MAX_ADDRESSES: usize = 64;
/// How long the second family has after the first one answered with addresses (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// The longest that a positive answer is remembered. There is no minimum: a TTL of 0 is honoured.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// The longest that the absence of addresses is remembered: a corrected zone is noticed soon.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// The same for an absence without a TTL of its own, and for a question that was not answered (RFC 9520 asks for a second
/// at least).
const SHORT_TTL: Duration = Duration::from_secs(1);

/// The agent's own resolver.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Servers,
    answers: Mutex<Answers>,
    /// How many questions may be open at once.
    sockets: Arc<Semaphore>,
    /// The open questions. They end with the resolver.
    tasks: Mutex<JoinSet<()>>,
}

/// The same name servers, asked in two ways.
#[derive(Clone)]
struct Servers {
    with_edns: hickory_resolver::Resolver<Sockets>,
    without_edns: hickory_resolver::Resolver<Sockets>,
    sockets: Sockets,
    /// A server did not understand EDNS, so it is not used any more.
    refused_edns: Arc<AtomicBool>,
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the machine's DNS settings cannot be read; name servers can be given in `dns_servers` instead")]
pub struct SetUpError(#[source] NetError);

/// What a name leads to, as far as is known by now.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// In one order for one set, so that equal answers make equal keys.
    pub(crate) addresses: Vec<IpAddr>,
    /// The family that has not answered yet.
    pub(crate) late: Option<Late>,
}

/// The addresses of the family that answers later.
#[derive(Debug)]
pub(crate) struct Late(Asked);

impl Late {
    /// They, or none.
    pub(crate) async fn addresses(&mut self) -> Vec<IpAddr> {
        let found = self.0.answer().await.found.ok();
        found.filter(|found| found.len() <= MAX_ADDRESSES).map(|found| found.to_vec()).unwrap_or_default()
    }
}

impl Resolver {
    /// Asks `servers`, or those of the machine's own settings if there are none; about so many names at once.
    ///
    /// # Errors
    ///
    /// [`SetUpError`] if the machine's settings are needed and cannot be read.
    pub fn new(servers: &[SocketAddr], at_once: usize) -> Result<Resolver, SetUpError> {
        let sockets = Sockets::default();
        let servers = Servers {
            with_edns: set_up(servers, true, &sockets)?,
            without_edns: set_up(servers, false, &sockets)?,
            sockets,
            refused_edns: Arc::default(),
        };
        let sockets = Arc::new(Semaphore::new(2 * at_once.min(Semaphore::MAX_PERMITS / 2)));
        let shared = Shared { servers, answers: Mutex::default(), sockets, tasks: Mutex::default() };
        Ok(Resolver { shared: Arc::new(shared) })
    }

    /// The addresses of `name`.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Resolved, Failure> {
        let (v4, v6) = (self.ask(name, Family::V4), self.ask(name, Family::V6));
        let (first, mut other) = first_of(v4, v6).await;
        let Ok(addresses) = first.found else {
            let second = other.answer().await;
            return Ok(Resolved { addresses: merged(name, [first.found, second.found])?, late: None });
        };
        let until = first.at.max(other.since()) + RESOLUTION_DELAY;
        match timeout_at(until, other.answer()).await {
            Ok(second) => {
                Ok(Resolved { addresses: merged(name, [Ok(addresses), second.found])?, late: None })
            }
            Err(_elapsed) => {
                Ok(Resolved { addresses: merged(name, [Ok(addresses)])?, late: Some(Late(other)) })
            }
        }
    }

    /// The question's answer, if it is known, or who will know it.
    fn ask(&self, name: &str, family: Family) -> Asked {
        let question = Question { name: name.into(), family };
        let mut answers = self.shared.answers.lock().expect("nothing panics while it holds this lock");
        if let Some(asked) = answers.get(&question, now()) {
            return asked;
        }
        let (sender, receiver) = watch::channel(None);
        let asked = answers.open(question.clone(), receiver, now());
        drop(answers);
        // Not a strong reference: the task is in there.
        let shared = Arc::downgrade(&self.shared);
        let servers = self.shared.servers.clone();
        let mut tasks = self.shared.tasks.lock().expect("nothing panics while it holds this lock");
        while tasks.try_join_next().is_some() {}
        let sockets = Arc::clone(&self.shared.sockets);
        tasks.spawn(async move {
            let turn = sockets.acquire().await;
            let (found, ttl) = servers.look_up(&question).await;
            drop(turn);
            let answer = Answer { found, at: now() };
            if let Some(shared) = shared.upgrade() {
                let mut answers = shared.answers.lock().expect("nothing panics while it holds this lock");
                answers.close(question, answer.clone(), ttl);
            }
            sender.send_replace(Some(answer));
        });
        asked
    }
}

impl Servers {
    /// What there is to know, and for how long.
    async fn look_up(&self, question: &Question) -> (Found, Duration) {
        let absolute = format!("{}.", question.name);
        let kind = question.family.record_type();
        let lacked_before = self.sockets.lacked();
        let mut looked = Err(NetError::from(DnsError::ResponseCode(ResponseCode::FormErr)));
        if !self.refused_edns.load(Ordering::Relaxed) {
            looked = self.with_edns.lookup(absolute.as_str(), kind).await;
        }
        if looked.as_ref().err().is_some_and(misunderstood) {
            looked = self.without_edns.lookup(absolute.as_str(), kind).await;
            if looked.as_ref().err().is_none_or(|error| error.is_no_records_found()) {
                self.refused_edns.store(true, Ordering::Relaxed);
            }
        }
        match looked {
            Ok(lookup) => {
                let found = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                let ttl = Instant::from_std(lookup.valid_until()).saturating_duration_since(now());
                (Ok(found), ttl.min(MAX_TTL))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let ttl = none.negative_ttl.map_or(SHORT_TTL, |seconds| Duration::from_secs(seconds.into()));
                let exists = none.response_code != ResponseCode::NXDomain;
                (Err(Miss::Nothing { exists }), ttl.min(MAX_NEGATIVE_TTL))
            }
            Err(_unanswered) => {
                let lacked = self.sockets.lacked();
                match lacked.last.filter(|_| lacked != lacked_before) {
                    Some(shortage) => (Err(Miss::Short(shortage)), Duration::ZERO),
                    None => (Err(Miss::Failed), SHORT_TTL),
                }
            }
        }
    }
}

/// Whether a server says so of a question with EDNS that it does not know (RFC 6891, sections 6.2.2 and 7).
fn misunderstood(error: &NetError) -> bool {
    use ResponseCode::{BADVERS, FormErr, NotImp};
    matches!(error, NetError::Dns(DnsError::ResponseCode(FormErr | NotImp | BADVERS)))
}

/// The answer that comes first, and the other question.
async fn first_of(mut v4: Asked, mut v6: Asked) -> (Answer, Asked) {
    tokio::select! {
        biased;
        answer = v4.answer() => (answer, v6),
        answer = v6.answer() => (answer, v4),
    }
}

/// All addresses of both families, or why there are none.
fn merged<const N: usize>(name: &str, found: [Found; N]) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses: Vec<IpAddr> = found.iter().flatten().flat_map(|found| found.iter().copied()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MAX_ADDRESSES {
        return Err(Failure::dns("the endpoint's name has too many addresses"));
    }
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    let misses = || found.iter().filter_map(|found| found.as_ref().err());
    if let Some(shortage) = misses().find_map(Miss::shortage) {
        return Err(Failure::short(shortage));
    }
    let no_such_name = misses().any(|miss| *miss == Miss::Nothing { exists: false });
    if no_such_name || misses().all(|miss| *miss != Miss::Failed) {
        return Err(Failure::refused(Refusal::new(Code::DnsEmpty, format!("the name {name}"))));
    }
    Err(Failure::dns("the endpoint's name could not be looked up"))
}

fn set_up(
    servers: &[SocketAddr],
    edns: bool,
    sockets: &Sockets,
) -> Result<hickory_resolver::Resolver<Sockets>, SetUpError> {
    let mut builder = if servers.is_empty() {
        hickory_resolver::Resolver::builder(sockets.clone()).map_err(SetUpError)?
    } else {
        let servers = servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        hickory_resolver::Resolver::builder_with_config(config, sockets.clone())
    };
    tune(builder.options_mut(), edns);
    builder.build().map_err(SetUpError)
}

fn tune(options: &mut ResolverOpts, edns: bool) {
    options.edns0 = edns;
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = 1024;
    options.timeout = Duration::from_secs(3);
    options.attempts = 2;
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.positive_max_ttl = Some(MAX_TTL);
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_needs_no_server() {
        let resolver = Resolver::new(&["127.0.0.1:1".parse().unwrap()], 1).unwrap();
        let addresses = resolver.resolve("localhost").await.unwrap().addresses;
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn what_two_families_say_together() {
        let (v4, v6) = (IpAddr::from([1, 1, 1, 1]), "2606::1".parse::<IpAddr>().unwrap());
        let some = |ip: IpAddr| -> Found { Ok(Arc::from([ip])) };
        let (none, unknown) = (Err(Miss::Nothing { exists: true }), Err(Miss::Nothing { exists: false }));
        let failed = || Err(Miss::Failed);
        let none = || none.clone();
        let unknown = || unknown.clone();
        let (empty, not_looked_up) = ("does not exist or has no address", "could not be looked up");
        for (found, expected) in [
            ([some(v6), some(v4)], Ok(vec![v4, v6])),
            ([some(v4), none()], Ok(vec![v4])),
            ([failed(), some(v6)], Ok(vec![v6])),
            ([unknown(), some(v4)], Ok(vec![v4])),
            ([none(), none()], Err(empty)),
            ([unknown(), failed()], Err(empty)),
            ([none(), failed()], Err(not_looked_up)),
            ([failed(), failed()], Err(not_looked_up)),
        ] {
            let shown = format!("{found:?}");
            match (merged("a.test", found), expected) {
                (Ok(addresses), Ok(expected)) => assert_eq!(addresses, expected, "{shown}"),
                (Err(failure), Err(part)) => assert!(failure.detail.contains(part), "{shown}: {failure}"),
                (got, _) => panic!("{shown}: {got:?}"),
            }
        }
    }
}
