//! An HTTP proxy on loopback that does what a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use postrider_agent::transport::proxy::Settings;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::endpoint::read_request;

/// What it does when it is asked for a tunnel.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Makes it.
    Tunnels,
    /// Makes it, for all names at this one address.
    TunnelsTo(SocketAddr),
    /// Makes it, but not to IPv6, which it has not got.
    TunnelsToIpv4,
    /// Says this, and then keeps the connection open.
    Says(&'static str),
    /// Says this, and closes the connection.
    SaysAndCloses(&'static str),
}

/// It ends with this value.
pub(crate) struct ConnectProxy {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl ConnectProxy {
    pub(crate) async fn start(manner: Manner) -> ConnectProxy {
        ConnectProxy::at("127.0.0.1", manner).await
    }

    pub(crate) async fn at(address: &str, manner: Manner) -> ConnectProxy {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                served.spawn(serve(stream, manner, Arc::clone(&heads)));
            }
        });
        ConnectProxy { address, asked, _tasks: tasks }
    }

    /// How an owner names it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            proxy: format!("http://user:s3cret@{}", self.address).parse().unwrap(),
            no_proxy: Vec::new(),
            leave_names_to_proxy: false,
        }
    }

    /// All that it was asked, as it was on the wire.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The endpoints that it was asked for.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.asked().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

async fn serve(mut near: TcpStream, manner: Manner, asked: Arc<Mutex<Vec<String>>>) {
    let Some(head) = read_request(&mut near).await else { return };
    let endpoint = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(head);
    let target = match manner {
        Manner::Tunnels => endpoint.parse().unwrap(),
        Manner::TunnelsTo(address) => address,
        Manner::TunnelsToIpv4 => match endpoint.parse::<SocketAddr>().unwrap() {
            SocketAddr::V4(address) => address.into(),
            SocketAddr::V6(_) => {
                near.write_all(b"HTTP/1.1 503 No Route\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                return;
            }
        },
        Manner::Says(text) => {
            near.write_all(text.as_bytes()).await.unwrap();
            return std::future::pending().await;
        }
        Manner::SaysAndCloses(text) => return near.write_all(text.as_bytes()).await.unwrap(),
    };
    let mut far = TcpStream::connect(target).await.unwrap();
    near.write_all(b"HTTP/1.0 200 Connection established\r\nProxy-agent: test\r\n\r\n").await.unwrap();
    // Either side ends it.
    let _ended = copy_bidirectional(&mut near, &mut far).await;
}
