//! A network namespace of a test's own: everything can be routed there, and nothing gets anywhere.
//!
//! Every packet to an address that is not this machine's leaves by one interface, whose other end nobody listens at; so
//! a SYN that is sent is seen, whatever its address, and harms nobody. It takes root, as containers of CI have it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::endpoint::now;

/// The namespace's interfaces and routes. `192.0.2.2` and `2001:db8::2` are this machine's; the gateways exist on paper.
const SET_UP: &str = "
    set -e
    ip link set lo up
    ip link add out type veth peer name nowhere
    ip addr add 192.0.2.2/24 dev out
    ip addr add 2001:db8::2/64 dev out nodad
    ip link set out up
    ip link set nowhere up
    ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev out nud permanent
    ip neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev out nud permanent
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1
    echo ready
    exec sleep infinity";

/// What keeps the namespace until a thread is in it.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended already.
        drop((self.0.kill(), self.0.wait()));
    }
}

/// Runs a test in a namespace of its own, on a thread of its own, with an asynchronous runtime. Processes that it starts
/// are in the namespace too.
///
/// # Panics
///
/// When the test fails, or there can be no namespace.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread into a new namespace.
fn enter() {
    let needs = "this test makes a network namespace and a veth pair in it: it needs root (or CAP_NET_ADMIN and \
                 CAP_SYS_ADMIN), `unshare` and `ip`, which `make setup` installs";
    let mut child = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", SET_UP])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{needs}: unshare cannot be run: {error}"));
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let holder = Holder(child);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{needs}; what failed is above");
    let namespace = File::open(format!("/proc/{}/ns/net", holder.0.id())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("{needs}: {error}"));
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Every SYN that this thread's namespace has seen since it was started, by where it was to go.
pub(crate) struct Syns {
    seen: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl Syns {
    /// Begins to look, on all interfaces.
    pub(crate) fn watch() -> Syns {
        let socket = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)).unwrap();
        set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(50))).unwrap();
        let seen = Arc::<Mutex<BTreeSet<SocketAddr>>>::default();
        let watched = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            while let Some(seen) = watched.upgrade() {
                look(&socket, &seen);
            }
        });
        Syns { seen }
    }

    /// Where SYNs went so far.
    pub(crate) fn seen(&self) -> BTreeSet<SocketAddr> {
        // Packets are seen in their order: once this one is, all before it are. Nobody listens there.
        let marker: SocketAddr = ([127, 0, 0, 1], 1).into();
        assert!(std::net::TcpStream::connect(marker).is_err());
        let began = now();
        loop {
            let mut seen = self.seen.lock().unwrap().clone();
            if seen.remove(&marker) {
                return seen;
            }
            assert!(now() - began < Duration::from_secs(10), "packets are not seen");
            std::thread::yield_now();
        }
    }
}

/// Waits for one packet, for a little while.
fn look(socket: &OwnedFd, seen: &Mutex<BTreeSet<SocketAddr>>) {
    let mut packet = [0; 2048];
    let Ok((_, length)) = recv(socket, &mut packet, RecvFlags::empty()) else { return };
    if let Some(target) = syn(&packet[..length.min(2048)]) {
        seen.lock().unwrap().insert(target);
    }
}

/// Where an Ethernet frame wants to open a TCP connection to, if it does.
fn syn(frame: &[u8]) -> Option<SocketAddr> {
    const TCP: u8 = 6;
    let (address, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let packet = frame.get(14..)?;
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (*packet.get(9)? == TCP)
                .then_some((IpAddr::from(Ipv4Addr::from(octets)), packet.get(header..)?))?
        }
        [0x86, 0xdd] => {
            let packet = frame.get(14..)?;
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (*packet.get(6)? == TCP).then_some((IpAddr::from(Ipv6Addr::from(octets)), packet.get(40..)?))?
        }
        _ => return None,
    };
    let port = u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]);
    let [syn, ack] = [0x02, 0x10].map(|flag| tcp.get(13).is_some_and(|flags| flags & flag != 0));
    (syn && !ack).then_some(SocketAddr::new(address, port))
}
