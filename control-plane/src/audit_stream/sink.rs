//! A receiver that is open: writes records to it, and notices when it has gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_domain::audit::Record;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::time::timeout;

use super::Destination;
use super::line::{MAX_DATAGRAM, framed, json, syslog};

/// How long opening and each write may take.
const WITHIN: Duration = Duration::from_secs(10);

/// See the [module](self).
pub(super) enum Sink {
    Stdout,
    File(PathBuf),
    Tcp(TcpStream),
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Sink {
    pub(super) async fn open(destination: &Destination) -> io::Result<Self> {
        timeout(WITHIN, connect(destination)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Writes all of them in order, or fails somewhere on the way.
    pub(super) async fn write(&mut self, records: &[Record]) -> io::Result<()> {
        timeout(WITHIN, self.write_all(records)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn write_all(&mut self, records: &[Record]) -> io::Result<()> {
        let process = std::process::id();
        match self {
            Self::Stdout => {
                let mut stdout = tokio::io::stdout();
                stdout.write_all(lines(records).as_bytes()).await?;
                stdout.flush().await
            }
            Self::File(path) => append(path, &lines(records)).await,
            Self::Tcp(stream) => {
                let messages = records.iter().map(|record| framed(&syslog(record, process, usize::MAX)));
                stream.write_all(messages.collect::<String>().as_bytes()).await
            }
            Self::Udp(socket) => {
                for record in records {
                    socket.send(syslog(record, process, MAX_DATAGRAM).as_bytes()).await?;
                }
                Ok(())
            }
            Self::Unix(socket) => {
                for record in records {
                    socket.send(syslog(record, process, MAX_DATAGRAM).as_bytes()).await?;
                }
                Ok(())
            }
        }
    }

    /// Whether the receiver is still there, as far as it can be known.
    pub(super) fn check(&self) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        // What a receiver says is of no interest; it may not say much.
        let mut said = [0; 1024];
        match stream.try_read(&mut said) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn connect(destination: &Destination) -> io::Result<Sink> {
    Ok(match destination {
        Destination::Stdout => Sink::Stdout,
        Destination::File(path) => Sink::File(path.clone()),
        Destination::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Sink::Tcp(stream)
        }
        Destination::Udp(address) => {
            let found = tokio::net::lookup_host(address).await?.next();
            let address = found.ok_or_else(|| io::Error::other(format!("{address} has no address")))?;
            let here = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(here).await?;
            socket.connect(address).await?;
            Sink::Udp(socket)
        }
        Destination::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Sink::Unix(socket)
        }
    })
}

/// Opened for each write, so that the file may be rotated; synced, since the position is kept next.
async fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = tokio::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).await?;
    file.write_all(text.as_bytes()).await?;
    file.sync_data().await
}

fn lines(records: &[Record]) -> String {
    records.iter().map(|record| json(record) + "\n").collect()
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} seconds", WITHIN.as_secs()))
}
