//! `postrider-control-plane`: see [`postrider_control_plane::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    postrider_control_plane::command::run()
}
