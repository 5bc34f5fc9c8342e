//! Compiles the `.proto` files with protox, a compiler in Rust, so that building needs no `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 17] = [
    "postrider/v1/tenants.proto",
    "postrider/v1/event_types.proto",
    "postrider/v1/subscriptions.proto",
    "postrider/v1/signing_keys.proto",
    "postrider/v1/events.proto",
    "postrider/v1/deliveries.proto",
    "postrider/v1/operations.proto",
    "postrider/v1/agents.proto",
    "postrider/v1/pools.proto",
    "postrider/v1/tokens.proto",
    "postrider/v1/audit.proto",
    "postrider/v1/secrets.proto",
    "postrider/v1/system.proto",
    "postrider/v1/backups.proto",
    "postrider/agent/v1/enrollment.proto",
    "postrider/agent/v1/session.proto",
    "postrider/store/v1/records.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=postrider");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Clients are made from a channel: their own `connect` would clash with the RPC of that name.
    tonic_prost_build::configure()
        .build_transport(false)
        .server_mod_attribute(".", "#[allow(clippy::too_many_lines)]")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
