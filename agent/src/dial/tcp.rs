//! A TCP connection to the first of several addresses that answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How many of a name's addresses are dialled.
const MAX_DIALLED: usize = 8;
/// How long an address has before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Tries the addresses in turn, each with a head start before the next joins in.
pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().take(MAX_DIALLED).copied();
    let mut dialling = FuturesUnordered::new();
    dialling.extend(waiting.next().map(TcpStream::connect));
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    loop {
        let next = tokio::select! {
            done = dialling.next() => match done {
                Some(Ok(stream)) => {
                    // Without it, small messages wait for acknowledgements of earlier ones.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Some(Err(error)) => {
                    last = error;
                    waiting.next()
                }
                None => return Err(last),
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => waiting.next(),
        };
        dialling.extend(next.map(TcpStream::connect));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn one_that_refuses_leads_to_the_next() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        assert_eq!(connect(&[gone, here]).await.unwrap().peer_addr().unwrap(), here);
        assert_eq!(connect(&[gone]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&[]).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
