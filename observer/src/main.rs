//! The `bgp-observer` binary: everything but its allocator is in the library.

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

/// Lists, copies and answers of all lengths come and go on several threads for months: glibc's allocator
/// keeps what is freed in between, and musl's, of the static build, makes threads wait for each other.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Milliseconds after which freed pages go back to the kernel: its place in `mi_option_e` of mimalloc 2 and 3.
const PURGE_DELAY: mi_option_t = 15;

fn main() -> ExitCode {
    give_back_at_once();
    observer::cli::main()
}

/// The delay ends only with the next allocation, which in an agent where nothing happens may never come.
fn give_back_at_once() {
    // SAFETY: it takes any number at any time. What the environment says goes before.
    unsafe { mi_option_set_default(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::{PURGE_DELAY, give_back_at_once};

    #[test]
    fn freed_pages_go_back_at_once() {
        // SAFETY: it reads.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert!(delay() > 0, "another option, or another default");
        give_back_at_once();
        assert_eq!(delay(), 0);
    }
}
