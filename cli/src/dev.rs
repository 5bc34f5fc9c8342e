//! `postrider dev`: a whole Postrider on one machine, with a receiver that verifies, in one command.
//!
//! It starts a control plane and an agent as child processes of the same binary, runs a sample receiver
//! itself, makes DocuRift's tenant with its event types and a subscription, emits DocuRift's own example
//! and shows the POST that arrives. The children end when this process does, however it ends.

mod catalogue;
mod certificates;
mod home;
mod parts;
mod ports;
mod receiver;
mod seed;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::home::Home;
use self::parts::Parts;
use self::ports::{Ports, Wanted};
use self::receiver::{Post, Receiver};
use crate::client::{Client, Connection};
use crate::clock;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::print;

/// From the start to the first verified delivery. It takes well under a second on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How to run for development.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Nothing of this is for production: the agent may call 127.0.0.0/8 over http, which agents
refuse by default, and the API's certificate is from an authority that exists only here.")]
pub(crate) struct Args {
    /// Directory for the store, settings and logs; a later run continues with them [default: a temporary directory,
    /// removed at exit]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port of the gRPC API; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 7070)]
    port: u16,
    /// Port that the agent connects to; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 7071)]
    agent_port: u16,
    /// Port of the sample receiver; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 7072)]
    receiver_port: u16,
    /// Exit after the first verified delivery: code 0, or another code with the reason
    #[arg(long)]
    once: bool,
}

/// Runs until interrupted, or until the first delivery with `--once`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.doing("start the runtime")?.block_on(Box::pin(supervise(args)))
}

/// Starts everything, and stops everything whatever happens.
async fn supervise(args: &Args) -> Result<()> {
    let wanted = Wanted { api: args.port, agent: args.agent_port, receiver: args.receiver_port };
    let (ports, listener) = ports::choose(&wanted).await?;
    let home = Home::open(args.data_dir.as_deref())?;
    home.write_token()?;
    home.write_control_plane_settings(&ports)?;
    print(&show::opening(&home, &ports))?;

    let (mut parts, mut deaths) = Parts::new()?;
    let mut stop = Interruption::new()?;
    let result = tokio::select! {
        result = Box::pin(play(args, &home, &ports, listener, &mut parts)) => result,
        Some(death) = deaths.recv() => Err(death),
        () = stop.wait() => Ok(()),
    };
    if result.is_ok() && !args.once {
        print("\nStopping.\n")?;
    }
    tokio::select! {
        () = parts.stop() => {}
        // The second interruption.
        () = stop.wait() => parts.kill().await,
    }
    result
}

/// From nothing to the verified delivery, and then on.
async fn play(
    args: &Args,
    home: &Home,
    ports: &Ports,
    listener: tokio::net::TcpListener,
    parts: &mut Parts,
) -> Result<()> {
    let client = Client::new(&Connection::to(ports.server(), home.token_file(), home.certificates()?.ca))?;
    let (receiver, mut posts) = Receiver::start(listener, client.clone());
    let begun = clock::instant();
    let first = async {
        parts.start(home.control_plane()).await?;
        seed::healthy(&client).await;
        let seed = seed::plant(&client, ports).await?;
        receiver.learn(seed.secret.clone());
        // Used when the agent has no identity that is still good, from an earlier run.
        let join = seed::join(&client).await?;
        home.write_agent_settings(ports, &join)?;
        parts.start(home.agent()).await?;
        seed::agent_connected(&client).await?;
        let emitted = seed::emit_example(&client).await?;
        print(&show::emitted(&seed, &emitted))?;
        let post = first_delivery(&mut posts, &emitted.event).await?;
        Ok((seed, emitted, post))
    };
    let (seed, emitted, post) = tokio::time::timeout(DEADLINE, first).await.unwrap_or_else(|_| {
        Err(Failure::new(Exit::Unavailable, format!("no verified delivery within {} s", DEADLINE.as_secs()))
            .note(home.log_tails()))
    })?;
    print(&show::in_full(&post))?;
    catalogue::equals_quick_example(&post.body)?;
    print(&show::proven(begun.elapsed()))?;
    if args.once {
        return Ok(());
    }
    print(&show::next_steps(home, ports, &seed, &emitted))?;
    go_on(posts).await
}

/// Waits for the event's POST. If it does not verify, that ends the wait: it would only be repeated.
async fn first_delivery(posts: &mut mpsc::Receiver<Post>, event: &str) -> Result<Post> {
    while let Some(post) = posts.recv().await {
        if post.webhook_id() != event {
            // An earlier run left it waiting.
            print(&show::in_short(&post))?;
            continue;
        }
        match &post.verdict {
            Ok(()) => return Ok(post),
            Err(reason) => {
                let failure = Failure::new(Exit::BadSignature, format!("a POST did not verify: {reason}"));
                return Err(failure.note(show::in_full(&post)));
            }
        }
    }
    Err(Failure::new(Exit::Unexpected, "the receiver has ended"))
}

async fn go_on(mut posts: mpsc::Receiver<Post>) -> Result<()> {
    while let Some(post) = posts.recv().await {
        print(&show::in_short(&post))?;
    }
    Err(Failure::new(Exit::Unexpected, "the receiver has ended"))
}

/// SIGINT or SIGTERM.
struct Interruption {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interruption {
    fn new() -> Result<Self> {
        let step = "listen to signals";
        let interrupt = signal(SignalKind::interrupt()).doing(step)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).doing(step)? })
    }

    async fn wait(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}
