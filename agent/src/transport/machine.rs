//! This machine's own addresses, which jobs may not call.

use std::io;
use std::net::IpAddr;

/// The addresses of all interfaces, now.
pub(crate) fn addresses() -> io::Result<Vec<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect())
}
