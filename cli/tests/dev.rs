//! `postrider dev` as a user runs it: real processes, real sockets, free ports.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

const ANY_PORTS: [&str; 6] = ["--port", "0", "--agent-port", "0", "--receiver-port", "0"];

fn postrider(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(args).env_remove("POSTRIDER_SERVER").env_remove("POSTRIDER_TENANT");
    command
}

fn run(args: &[&str]) -> Output {
    postrider(args).output().expect("the binary runs")
}

/// A `dev` that runs on.
struct Dev {
    process: Child,
    /// Kept open: it ends when nobody reads what it prints.
    out: BufReader<ChildStdout>,
    /// What it printed up to the line that says that it runs.
    text: String,
}

impl Dev {
    fn start(data_dir: &str) -> Self {
        let mut command = postrider(&["dev", "--data-dir", data_dir]);
        let mut process = command.args(ANY_PORTS).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let out = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut dev = Self { process, out, text: String::new() };
        while !dev.text.contains("\nRunning.") {
            let read = dev.out.read_line(&mut dev.text).expect("stdout is text");
            assert!(read > 0, "dev ended early: {}", dev.text);
        }
        dev
    }

    /// The processes that it has started.
    fn children(&self) -> Vec<u32> {
        let id = self.process.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let text = std::fs::read_to_string(path).expect("dev runs");
        text.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
    }

    fn server(&self) -> String {
        let line =
            self.text.lines().find(|line| line.trim_start().starts_with("API")).expect("the API's line");
        line.split_whitespace().nth(1).expect("its address").to_owned()
    }

    /// Ends it as nothing can prevent, and waits until its children have ended too.
    fn kill(&mut self) {
        let children = self.children();
        self.process.kill().expect("it runs");
        self.process.wait().expect("it has ended");
        eventually("the children end", || !children.iter().any(runs));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Waits for a condition, not for a time.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: not within 30 s");
}

fn runs(process: &u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // A zombie is dead; whoever inherited it has not looked yet.
    !state.is_empty() && !state.contains(") Z ")
}

/// Where `dev` keeps its admin's token, and the authority of the API's certificate.
fn files(data_dir: &str) -> (String, String) {
    (format!("{data_dir}/admin-token"), format!("{data_dir}/ca.crt"))
}

#[test]
fn once_ends_after_the_documented_example_was_verified() {
    let output = run(&[&["dev", "--once"], &ANY_PORTS[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "POST /webhooks HTTP/1.1",
        "webhook-signature: v1,",
        r#""timestamp": "2026-02-02T10:30:00Z""#,
        "signature verified by standardwebhooks",
        "the body equals the documented example exactly",
    ] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
}

#[test]
fn nothing_outlives_a_dev_that_is_killed_and_its_directory_can_be_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let mut first = Dev::start(data_dir);
    assert_eq!(first.children().len(), 2);
    let second = run(&[&["dev", "--data-dir", data_dir], &ANY_PORTS[..]].concat());
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another"), "{second:?}");
    first.kill();

    let again = Dev::start(data_dir);
    let list = |what: &[&str]| {
        let (server, (token, ca)) = (again.server(), files(data_dir));
        let shared = ["--server", &server, "--tenant", "docurift", "--token-file", &token, "--ca", &ca];
        let output = run(&[what, &shared, &["-o", "json"]].concat());
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(list(&["subscriptions", "list"]).as_array().unwrap().len(), 1, "it is used again");
    assert_eq!(list(&["event-types", "list"]).as_array().unwrap().len(), 6);
    let events = list(&["events", "list", "--type", "document.completed"]);
    assert_eq!(events.as_array().unwrap().len(), 2, "{events}");
}

#[test]
fn exit_codes_mean_what_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path().to_str().unwrap());
    let server = dev.server();
    let (token, ca) = files(folder.path().to_str().unwrap());
    let shared = ["--server", &server, "--tenant", "docurift", "--token-file", &token, "--ca", &ca];
    let code = |args: &[&str]| run(&[args, &shared].concat()).status.code().unwrap();
    assert_eq!(code(&["emit", "document.completed", "--data", "{}", "--follow"]), 0);
    assert_eq!(code(&["emit", "document.completed"]), 2);
    assert_eq!(code(&["events", "get", "nothing"]), 3);
    assert_eq!(code(&["tenants", "create", "docurift"]), 4);
    assert_eq!(
        run(&["tenants", "list", "--server", &server, "--ca", &ca]).status.code(),
        Some(4),
        "without a token"
    );
    let refused = ["subscriptions", "create", "--url", "http://127.0.0.1:1/", "--event-types", "x.y"];
    assert_eq!(code(&[&refused[..], &["--retry-window", "0"]].concat()), 0);
    assert_eq!(code(&["emit", "x.y", "--data", "{}", "--follow"]), 5);
    dev.kill();
    assert_eq!(code(&["tenants", "list"]), 6);
    let unsigned = ["--id", "a", "--timestamp", "1", "--signature", "v1,a", "--file", "/dev/null"];
    let secret = ["verify", "--secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    assert_eq!(run(&[&secret[..], &unsigned].concat()).status.code(), Some(7));
}
