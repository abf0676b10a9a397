//! Waiting for something, with an end.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks `probe` every `pause` until it gives something; fails with `what` and the probe's last
/// objection when `limit` has passed.
pub fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let begun = Instant::now();
    let limit = limit * slowness();
    loop {
        match probe() {
            Ok(found) => return Ok(found),
            Err(objection) if begun.elapsed() > limit => {
                bail!(
                    "{what}: not within {} s: {objection:#}",
                    limit.as_secs_f32()
                );
            }
            Err(_) => thread::sleep(pause),
        }
    }
}

/// How many times slower than usual the machine is: guests without hardware virtualization are.
pub fn slowness() -> u32 {
    let told = std::env::var("BGP_OBSERVER_TEST_SLOWNESS").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(1)
}

/// [`until`] every 50 ms.
pub fn soon<T, E: Display>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    until(what, limit, Duration::from_millis(50), probe)
}
