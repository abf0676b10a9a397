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

/// [`until`] every 50 ms.
pub fn soon<T, E: Display>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    until(what, limit, Duration::from_millis(50), probe)
}
