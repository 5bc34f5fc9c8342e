//! Reaches the control plane: its name or a proxy's, TCP, TLS, HTTP/2, in this order, on a new connection each time.
//!
//! Where the control plane is, only the agent's own configuration and its join token say. Jobs never come this way,
//! and are kept from every address that is dialled here. A channel that comes out of here has been accepted by the
//! other side: it has seen this agent's certificate, and answered.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use self::watched::Watched;
use crate::transport::guard::Guard;

mod address;
mod error;
mod no_proxy;
mod proxy;
mod tcp;
pub mod tls;
mod watched;

pub use self::address::{Address, NoAddress};
pub use self::error::{CertificateProblem, DialError};
pub use self::no_proxy::{Entry, NoEntry, NoProxy};
pub use self::proxy::{Proxy, ProxyError, ProxyUrlError, Route};

/// For all of it.
const WITHIN: Duration = Duration::from_secs(10);
/// Silence on an idle connection after which HTTP/2 asks whether anybody is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What the control plane may send before it is read, on a stream and on a connection: several full messages.
const WINDOW: u32 = 4 << 20;

/// What protects a connection.
#[derive(Clone)]
pub enum Security {
    /// Nothing: for loopback only.
    Plaintext,
    /// TLS.
    Tls(Arc<ClientConfig>),
}

/// Without keys.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Security::Plaintext => "Plaintext",
            Security::Tls(_) => "Tls",
        })
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Dialer {
    address: Address,
    server_name: ServerName<'static>,
    proxy: Option<Proxy>,
    guard: Arc<Guard>,
}

/// The host is neither a name that a certificate can be for, nor an IP address.
#[derive(Debug, thiserror::Error)]
#[error(
    "no certificate can be for {0}: give the name in the control plane's certificate as `tls.server_name`"
)]
pub struct NoServerName(String);

impl Dialer {
    /// Of the control plane at `address`, on the way that `route` says. Its certificate must be for `server_name`,
    /// or else for the host of the address. `guard` will keep jobs from the addresses that are dialled.
    ///
    /// # Errors
    ///
    /// [`NoServerName`].
    pub fn new(
        address: Address,
        server_name: Option<ServerName<'static>>,
        route: Route,
        guard: Arc<Guard>,
    ) -> Result<Dialer, NoServerName> {
        let host = address.host().trim_end_matches('.').to_owned();
        let server_name = match server_name {
            Some(name) => name,
            None => ServerName::try_from(host).map_err(|_| NoServerName(address.host().to_owned()))?,
        };
        let proxy = route.towards(&address);
        Ok(Dialer { address, server_name, proxy, guard })
    }

    /// Where the control plane is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The proxy on the way there.
    #[must_use]
    pub fn proxy(&self) -> Option<&Address> {
        self.proxy.as_ref().map(Proxy::address)
    }

    /// A connection on which the other side has said something.
    ///
    /// # Errors
    ///
    /// [`DialError`].
    pub async fn dial(&self, security: &Security) -> Result<Channel, DialError> {
        let connected = timeout(WITHIN, Box::pin(self.connect(security))).await;
        connected.unwrap_or_else(|_| Err(DialError::Timeout(self.address.clone())))
    }

    async fn connect(&self, security: &Security) -> Result<Channel, DialError> {
        let tcp = self.reach().await?;
        match security {
            Security::Plaintext => self.speak(tcp, "http").await,
            Security::Tls(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let secured = connector.connect(self.server_name.clone(), tcp).await;
                let stream = secured.map_err(|error| DialError::of_tls(error, &self.address))?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(DialError::NotForAgents(self.address.clone()));
                }
                self.speak(stream, "https").await
            }
        }
    }

    /// A connection to the control plane's port, through the proxy if there is one.
    async fn reach(&self) -> Result<TcpStream, DialError> {
        let Some(proxy) = &self.proxy else {
            return self.reach_directly("the control plane", &self.address, None).await;
        };
        let mut tcp = self.reach_directly("the proxy", proxy.address(), self.address.ip()).await?;
        proxy.ask(&mut tcp, &self.address).await?;
        Ok(tcp)
    }

    /// Looks `address` up and connects to it. Jobs are kept from all that it resolves to, and from `besides`.
    async fn reach_directly(
        &self,
        whom: &'static str,
        address: &Address,
        besides: Option<IpAddr>,
    ) -> Result<TcpStream, DialError> {
        let resolve = |source| DialError::Resolve { host: address.host().to_owned(), source };
        let found = tokio::net::lookup_host((address.host(), address.port())).await.map_err(resolve)?;
        let addresses: Vec<SocketAddr> = found.collect();
        let ours = addresses.iter().map(SocketAddr::ip).chain(besides).collect();
        self.guard.set_control_plane(ours);
        let refused = |source| DialError::Connect { whom, address: address.clone(), source };
        tcp::connect(&addresses).await.map_err(refused)
    }

    async fn speak<S>(&self, stream: S, scheme: &str) -> Result<Channel, DialError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |source: tonic::transport::Error| DialError::Broken {
            address: self.address.clone(),
            source: source.into(),
        };
        let (stream, first_read) = Watched::new(stream);
        let endpoint = self.endpoint(scheme)?;
        let channel = endpoint.connect_with_connector(once(stream)).await.map_err(broken)?;
        match first_read.await {
            Ok(Ok(())) => Ok(channel),
            Ok(Err(error)) => Err(DialError::of_tls(error, &self.address)),
            Err(_) => Err(DialError::Closed(self.address.clone())),
        }
    }

    /// tonic is to believe that there is no TLS, for that is done, and to say the right scheme all the same.
    fn endpoint(&self, scheme: &str) -> Result<Endpoint, DialError> {
        let url = |scheme: &str| {
            let builder =
                Uri::builder().scheme(scheme).authority(self.address.to_string()).path_and_query("/");
            builder
                .build()
                .map_err(|error| DialError::Broken { address: self.address.clone(), source: error.into() })
        };
        Ok(Endpoint::from(url("http")?)
            .origin(url(scheme)?)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW))
    }
}

/// A connector that has one connection to give. A channel whose connection is lost is not used again: the next one
/// may need another identity.
fn once<S>(
    stream: S,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<S>,
    Error = io::Error,
    Future = std::future::Ready<io::Result<TokioIo<S>>>,
> + Send
where
    S: Send + 'static,
{
    let stream = Mutex::new(Some(stream));
    service_fn(move |_: Uri| {
        let taken = stream.lock().expect("nothing panics while it holds this lock").take();
        std::future::ready(taken.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is gone")))
    })
}
