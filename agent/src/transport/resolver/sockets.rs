//! The sockets of the resolver, with a note of what this machine lacked: of the errors of many servers and several tries the
//! resolver gives back one, and that is often another.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};

use crate::shortage::Shortage;

/// See the [module](self).
#[derive(Clone, Default)]
pub(super) struct Sockets {
    inner: TokioRuntimeProvider,
    lacked: Arc<Mutex<Lacked>>,
}

/// What was lacking last, and how often something was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lacked {
    pub(super) last: Option<Shortage>,
    times: u64,
}

impl Sockets {
    pub(super) fn lacked(&self) -> Lacked {
        *self.lacked.lock().expect("nothing panics while it holds this lock")
    }
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

fn noting<T: 'static>(lacked: &Arc<Mutex<Lacked>>, opening: Opening<T>) -> Opening<T> {
    let lacked = Arc::clone(lacked);
    Box::pin(async move {
        let opened = opening.await;
        if let Some(shortage) = opened.as_ref().err().and_then(Shortage::of) {
            let mut lacked = lacked.lock().expect("nothing panics while it holds this lock");
            *lacked = Lacked { last: Some(shortage), times: lacked.times + 1 };
        }
        opened
    })
}

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.inner.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        noting(&self.lacked, self.inner.connect_tcp(server, from, timeout))
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        noting(&self.lacked, self.inner.bind_udp(local, server))
    }
}
