//! The `bgp-observer` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    observer::cli::main()
}
