//! Another language's client: stubs made by stock protoc, every RPC called with good input and bad, and the example
//! as its readers run it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use postrider_tests::binaries::repository;
use postrider_tests::cli::{Ended, finish};
use postrider_tests::tools;
use postrider_tests::world::{AgentSettings, World};

async fn python(arguments: &[&str], folder: &Path) -> Result<Ended> {
    let mut command = Command::new(tools::python()?);
    command.args(arguments).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = finish(command, None).await?;
    ensure!(ended.code == 0, "{arguments:?}:\n{}\n{}", ended.stdout, ended.stderr);
    Ok(ended)
}

/// Generates stubs with the protoc that grpcio-tools brings.
async fn stubs(folder: &Path) -> Result<PathBuf> {
    let stubs = folder.join("stubs");
    std::fs::create_dir(&stubs)?;
    let protos = repository().join("proto").canonicalize()?;
    let files: Vec<PathBuf> = ["postrider/v1", "postrider/agent/v1", "postrider/store/v1"]
        .iter()
        .map(|package| std::fs::read_dir(protos.join(package)))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let (include, out) = (text(&protos)?, text(&stubs)?);
    let mut arguments = vec!["-m".to_owned(), "grpc_tools.protoc".into(), "-I".into(), include];
    arguments.extend([format!("--python_out={out}"), format!("--grpc_python_out={out}")]);
    for file in &files {
        arguments.push(text(file)?);
    }
    python(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), folder).await?;
    Ok(stubs)
}

/// How a Python client reaches a world's control plane.
fn reaching(world: &World) -> Result<Vec<String>> {
    let (ca, token) =
        (world.control_plane.ca().context("a world with TLS")?, world.control_plane.token_file());
    let server = world.control_plane.api_url();
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let server = server.trim_start_matches("https://").to_owned();
    Ok(vec!["--server".into(), server, "--ca".into(), text(ca)?, "--token-file".into(), text(&token)?])
}

#[tokio::test]
async fn a_python_client_calls_every_rpc_with_good_input_and_bad() -> Result<()> {
    let origin = "webhook_origin = \"postrider.example.com\"";
    let world = World::with(AgentSettings::default(), &[origin]).await?;
    let stubs = stubs(world.folder()).await?;
    let program = repository().join("tests/python/every_rpc.py");
    let reaching = reaching(&world)?;
    let url = world.receiver.url("/hook");
    let (program, stubs) = (program.to_string_lossy(), stubs.to_string_lossy());
    let mut arguments = vec![&*program, "--stubs", &stubs, "--url", &url];
    arguments.extend(reaching.iter().map(String::as_str));
    let ended = python(&arguments, world.folder()).await?;
    assert!(ended.stdout.contains("\"checked\": "), "{}", ended.stdout);
    Ok(())
}

#[tokio::test]
async fn the_python_example_runs_as_it_is() -> Result<()> {
    let world = World::start().await?;
    let stubs = stubs(world.folder()).await?;
    // Its readers generate the stubs beside it.
    let program = stubs.join("quickstart.py");
    std::fs::copy(repository().join("examples/python/quickstart.py"), &program)?;
    let (reaching, url) = (reaching(&world)?, world.receiver.url("/webhooks"));
    let program = program.to_string_lossy();
    let mut arguments = vec![&*program, "--url", &url];
    arguments.extend(reaching.iter().map(String::as_str));
    let ended = python(&arguments, &stubs).await?;
    assert!(ended.stdout.contains("DELIVERED"), "{}", ended.stdout);
    assert!(ended.stdout.contains("accepted before"), "{}", ended.stdout);
    assert_eq!(world.receiver.count(), 1);
    Ok(())
}
