//! tinyproxy, as companies have such proxies: it opens tunnels for whoever knows its password.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use tokio::net::TcpStream;

use crate::process::{Process, tail};
use crate::tools::on_path;
use crate::wait::{eventually, when};

/// The user that it lets in.
pub const USER: &str = "courier";
/// The password of [`USER`].
pub const PASSWORD: &str = "pr0xyp4ss";

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    log: PathBuf,
    process: Process,
}

impl ForwardProxy {
    /// Starts one in a folder, at a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let binary = on_path("tinyproxy")?;
        // It cannot choose a port itself, and somebody may take this one before it does.
        for _ in 0..10 {
            let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let log = folder.join("tinyproxy.log");
            let settings = folder.join("tinyproxy.conf");
            std::fs::write(&settings, configuration(address, &log))?;
            let mut command = Command::new(&binary);
            command.arg("-d").arg("-c").arg(&settings);
            let process = Process::start("tinyproxy", command, &folder.join("tinyproxy.out"))?;
            let mut proxy = Self { address, log, process };
            if proxy.listens().await? {
                return Ok(proxy);
            }
        }
        bail!("tinyproxy finds no free port")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has been asked for.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn listens(&mut self) -> Result<bool> {
        let (address, process) = (self.address, &mut self.process);
        let up = eventually("tinyproxy listens or has ended", async || {
            if process.ended()?.is_some() {
                return Ok(Some(false));
            }
            Ok(when(TcpStream::connect(address).await.is_ok()).map(|()| true))
        });
        let up = up.await?;
        if !up {
            eprintln!("tinyproxy ended:\n{}", tail(&self.process.log()));
        }
        Ok(up)
    }
}

fn configuration(address: SocketAddr, log: &Path) -> String {
    format!(
        "Port {}\nListen {}\nTimeout 60\nMaxClients 100\nAllow 127.0.0.1\nBasicAuth {USER} {PASSWORD}\n\
         LogFile \"{}\"\nLogLevel Connect\n",
        address.port(),
        address.ip(),
        log.display()
    )
}
