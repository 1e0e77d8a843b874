//! `hostlerctl`

use std::process::ExitCode;

fn main() -> ExitCode {
    hostlerctl::main(std::env::args_os())
}
