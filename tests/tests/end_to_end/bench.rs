//! The bench measures what runs: it must be able to run it.

use anyhow::{Context as _, Result, ensure};
use postrider_tests::binaries::{self, BENCH};
use postrider_tests::turn;
use serde_json::Value;

#[tokio::test]
async fn the_bench_measures_with_and_without_tls() -> Result<()> {
    let _turn = turn::take().await;
    for (flags, tls) in [(&[][..], 1.0), (&["--plaintext"][..], 0.0)] {
        let folder = tempfile::tempdir()?;
        let figures = folder.path().join("figures.json");
        let run = tokio::process::Command::new(binaries::path(BENCH)?)
            .args(["--quick", "--only", "resume", "--only", "latency100", "--json"])
            .arg(&figures)
            .arg("--dir")
            .arg(folder.path())
            .args(flags)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let figures: Value = serde_json::from_slice(&std::fs::read(&figures)?)?;
        let figure = |name: &str| {
            let found = figures.pointer(name).and_then(Value::as_f64);
            found.with_context(|| format!("{name} in {figures:#}"))
        };
        assert_eq!((figure("/run/tls")?, figure("/resume/lost")?), (tls, 0.0));
        assert!(figure("/latency_100/p50_ms")? > 0.0);
    }
    Ok(())
}
