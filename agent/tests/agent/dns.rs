//! A name server on 127.0.0.1 that answers as it is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// It ends with this value.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    questions: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

/// A question as the server got it.
pub(crate) struct Query {
    pub(crate) name: String,
    /// AAAA, and not A.
    pub(crate) v6: bool,
    /// With an OPT record.
    pub(crate) edns: bool,
    /// How many came before.
    pub(crate) before: usize,
}

/// What the server does about a question.
pub(crate) enum Reply {
    Silence,
    /// A response code without records.
    Code(u8),
    /// The addresses of the family that is asked for, with this TTL. None at all: no such name.
    Addresses(Vec<IpAddr>, u32),
    /// The same, later.
    Late(Duration, Box<Reply>),
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

impl NameServer {
    /// Gives every name the same IPv4 addresses; without any, no name exists.
    pub(crate) async fn start(addresses: &[Ipv4Addr], ttl: u32) -> NameServer {
        let addresses: Vec<IpAddr> = addresses.iter().copied().map(IpAddr::V4).collect();
        NameServer::answering(ttl, move |_, _| Some(addresses.clone())).await
    }

    /// Gives a name the addresses that `answers` has for it: those of the family that is asked for, so that it is
    /// called once for either. It gets the name, and how often it was called before. `None` is silence.
    pub(crate) async fn answering(
        ttl: u32,
        answers: impl Fn(&str, usize) -> Option<Vec<IpAddr>> + Send + 'static,
    ) -> NameServer {
        NameServer::replying(move |query| match answers(&query.name, query.before) {
            Some(addresses) => Reply::Addresses(addresses, ttl),
            None => Reply::Silence,
        })
        .await
    }

    /// Answers each question as `reply` says.
    pub(crate) async fn replying(reply: impl Fn(&Query) -> Reply + Send + 'static) -> NameServer {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let questions = Arc::<Mutex<Vec<String>>>::default();
        let asked = Arc::clone(&questions);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut late = JoinSet::new();
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let packet = buffer[..length].to_vec();
                let (name, kind, end) = question(&packet);
                let before = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(name.clone());
                    asked.len() - 1
                };
                let edns = packet[11] > 0;
                let mut reply = reply(&Query { name, v6: kind == TYPE_AAAA, edns, before });
                let mut delay = Duration::ZERO;
                if let Reply::Late(by, then) = reply {
                    (delay, reply) = (by, *then);
                }
                let answer = match reply {
                    Reply::Silence | Reply::Late(..) => continue,
                    Reply::Code(code) => answer(&packet, end, kind, &[], 0, code),
                    Reply::Addresses(addresses, ttl) => {
                        let code = if addresses.is_empty() { 3 } else { 0 };
                        answer(&packet, end, kind, &addresses, ttl, code)
                    }
                };
                let socket = Arc::clone(&socket);
                late.spawn(async move {
                    tokio::time::sleep(delay).await;
                    socket.send_to(&answer, from).await.unwrap();
                });
            }
        });
        NameServer { address, questions, _task: task }
    }

    pub(crate) fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
    }

    /// The names that were asked for.
    pub(crate) fn questions(&self) -> Vec<String> {
        self.questions.lock().unwrap().clone()
    }
}

/// RFC 1035, just enough: the name, the type, and where the question ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    (labels.join("."), kind, at + 5)
}

/// The question again, and a record for each address of the family that is asked for.
fn answer(query: &[u8], question_end: usize, kind: u16, addresses: &[IpAddr], ttl: u32, code: u8) -> Vec<u8> {
    let of_kind = |ip: &&IpAddr| kind == if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
    let records: Vec<_> = addresses.iter().filter(of_kind).collect();
    let mut answer = query[..2].to_vec();
    answer.extend([0x85, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(&query[12..question_end]);
    for address in records {
        let octets = match address {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((octets.len() as u16).to_be_bytes());
        answer.extend(octets);
    }
    answer
}
