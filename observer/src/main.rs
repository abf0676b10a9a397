//! The `bgp-observer` binary: everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Lists, copies and answers of all lengths come and go on several threads for months: glibc's allocator
/// keeps what is freed in between, and musl's, of the static build, makes threads wait for each other. Without
/// huge pages, each of which would be resident for the sake of a few octets in it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    observer::cli::main()
}
