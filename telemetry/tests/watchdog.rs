//! A watchdog ends a process that hangs: the test is that process too.

use std::process::Command;
use std::time::Duration;

use postrider_telemetry::watchdog::Watchdog;

const HANGS: &str = "WATCHDOG_TEST_HANGS";

#[test]
fn a_process_that_hangs_ends_with_the_code_of_the_first_order() {
    if std::env::var_os(HANGS).is_some() {
        let watchdog = Watchdog::start().unwrap();
        watchdog.arm(Duration::from_millis(10), 70);
        watchdog.arm(Duration::ZERO, 1);
        loop {
            std::thread::park();
        }
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_that_hangs_ends_with_the_code_of_the_first_order", "--nocapture"]);
    let ended = command.env(HANGS, "1").output().unwrap();
    assert_eq!(ended.status.code(), Some(70), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("did not end within"), "{ended:?}");
}

#[test]
fn the_default_watchdog_ends_nothing() {
    Watchdog::default().arm(Duration::ZERO, 1);
}
