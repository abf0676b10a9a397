//! The `bgp-observer` binary: everything but its allocator is in the library.

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

/// Lists, copies and answers of all lengths come and go on several threads for months: glibc's allocator
/// keeps what is freed in between, and musl's, of the static build, makes threads wait for each other.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Milliseconds after which freed pages go back to the kernel, in `mi_option_e` of mimalloc 2 and 3.
const PURGE_DELAY: mi_option_t = 15;
const PURGE_DELAY_DEFAULT: i64 = 10;

fn main() -> ExitCode {
    give_back_at_once();
    observer::cli::main()
}

/// The delay ends only with the next allocation, which in an agent where nothing happens may never come.
fn give_back_at_once() {
    // SAFETY: both take any number and work at any time; mimalloc ignores options that it does not know.
    unsafe {
        if mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT {
            mi_option_set(PURGE_DELAY, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PURGE_DELAY, mi_option_get};

    #[test]
    fn freed_pages_go_back_at_once() {
        super::give_back_at_once();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, 0);
    }
}
