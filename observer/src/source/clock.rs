//! The clocks: the one place that asks the system what time it is.

use nix::time::{ClockId, clock_gettime};
use observer_core::time::{Timestamp, WallOffset};

/// CLOCK_BOOTTIME now, the clock of every event.
pub fn boottime_now() -> Timestamp {
    // The clock exists since 2.6.39; a system without it is not one we run on.
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return Timestamp::default();
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Timestamp::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// What turns our clock into wall time now; the wall may be set, so it is asked again and again.
pub fn wall_offset() -> WallOffset {
    let wall = jiff::Timestamp::now().as_nanosecond();
    let boot = i128::from(boottime_now().nanos());
    WallOffset {
        nanos: i64::try_from(wall - boot).unwrap_or_default(),
    }
}
