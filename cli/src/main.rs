//! The `postrider` command. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    postrider_cli::main()
}
