//! Which ports to listen on, checked before anything starts.

use tokio::net::TcpListener;

use crate::failure::{Exit, Failure, Result};

/// The ports asked for; 0 is any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Of the gRPC API.
    pub(crate) api: u16,
    /// For agents.
    pub(crate) agent: u16,
    /// Of the sample receiver.
    pub(crate) receiver: u16,
}

/// The ports chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Of the gRPC API.
    pub(crate) api: u16,
    /// For agents.
    pub(crate) agent: u16,
    /// Of the sample receiver.
    pub(crate) receiver: u16,
}

impl Ports {
    /// The API's address.
    pub(crate) fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }

    /// The address that the agent connects to.
    pub(crate) fn agents(&self) -> String {
        format!("127.0.0.1:{}", self.agent)
    }

    /// Where the sample receiver waits.
    pub(crate) fn receiver_url(&self) -> String {
        format!("http://127.0.0.1:{}/webhooks", self.receiver)
    }
}

/// Checks that the ports are free, all at once, and keeps the receiver's open.
pub(crate) async fn choose(wanted: &Wanted) -> Result<(Ports, TcpListener)> {
    let receiver = bind(wanted.receiver).await;
    // The two others are freed again for the control plane, which says so if somebody is quicker.
    let api = bind(wanted.api).await;
    let agent = bind(wanted.agent).await;
    let options = [
        ("--port", "the API", wanted.api, &api),
        ("--agent-port", "agents", wanted.agent, &agent),
        ("--receiver-port", "the sample receiver", wanted.receiver, &receiver),
    ];
    let taken = options.iter().filter_map(|(option, what, port, bound)| {
        let error = bound.as_ref().err()?;
        Some(format!("port {port} for {what}: {error}; choose another with {option}, 0 takes any free one"))
    });
    let taken: Vec<String> = taken.collect();
    match (api, agent, receiver) {
        (Ok((_, api)), Ok((_, agent)), Ok((listener, receiver))) => {
            Ok((Ports { api, agent, receiver }, listener))
        }
        _ => {
            let failure = Failure::new(Exit::Usage, "cannot listen on 127.0.0.1");
            Err(taken.into_iter().fold(failure, Failure::note))
        }
    }
}

async fn bind(port: u16) -> std::io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_is_named_with_its_option() {
        let (busy, port) = bind(0).await.unwrap();
        let failure = choose(&Wanted { api: 0, agent: port, receiver: port }).await.unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(text.contains(&format!("port {port} for agents")) && text.contains("--agent-port"), "{text}");
        assert!(text.contains("--receiver-port") && !text.contains("--port,"), "{text}");
        drop(busy);
    }

    #[tokio::test]
    async fn any_free_ports_are_different() {
        let (ports, _listener) = choose(&Wanted { api: 0, agent: 0, receiver: 0 }).await.unwrap();
        assert!(ports.api != ports.agent && ports.agent != ports.receiver && ports.api != ports.receiver);
        assert_eq!(ports.receiver_url(), format!("http://127.0.0.1:{}/webhooks", ports.receiver));
    }
}
