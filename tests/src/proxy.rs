//! A TCP proxy that cuts its connections when told to.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: broadcast::Sender<()>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Leads to `target`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, _) = broadcast::channel(16);
        let cuts = cut.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                connections.spawn(async move {
                    tokio::select! { () = connect(near, target) => {}, _ = cut.recv() => {} }
                });
            }
        });
        Ok(Self { address, cut, _serving: serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection, in the middle of whatever it carries. How many there were.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.cut.send(()).unwrap_or(0)
    }
}

async fn connect(mut near: TcpStream, target: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    // A broken connection ends; that is what either side sees.
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    drop(copy_bidirectional(&mut near, &mut far).await);
}
