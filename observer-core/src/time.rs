//! Time as the core knows it: an argument, never a question to the system.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on CLOCK_BOOTTIME, nanoseconds since boot. It goes on through suspend and is never set
/// back, so differences are durations.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `nanos` since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This much later, or the end of time.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// This much earlier, or boot.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What turns a [`Timestamp`] into wall time: CLOCK_REALTIME minus CLOCK_BOOTTIME. The agent samples
/// it again and again and tells the core, because wall time can be set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct WallOffset {
    /// Nanoseconds since the Unix epoch at boot.
    pub nanos: i64,
}

impl WallOffset {
    /// `at` in wall time. Times outside what a calendar can show come out as the epoch.
    pub fn wall(self, at: Timestamp) -> jiff::Timestamp {
        let nanos = i128::from(self.nanos) + i128::from(at.nanos());
        jiff::Timestamp::from_nanosecond(nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// The moment on our clock at which the wall showed `wall`; boot for times before it.
    pub fn boot(self, wall: jiff::Timestamp) -> Timestamp {
        let nanos = wall.as_nanosecond() - i128::from(self.nanos);
        Timestamp(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

/// Which clock stamped an event, and so how far its time can be trusted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The kernel, where it happened: exact.
    Kernel,
    /// The kernel in CLOCK_REALTIME (captures, packet sockets), converted.
    Packet,
    /// The agent, when it read or noticed: the event lies in the interval given.
    Agent,
}

/// When something happened: somewhere in `[earliest, latest]`; both equal when known exactly.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Occurred {
    /// Not before this.
    pub earliest: Timestamp,
    /// Not after this.
    pub latest: Timestamp,
    /// Who said so.
    pub clock: Clock,
}

impl Occurred {
    /// Stamped by the kernel at `at`.
    pub const fn kernel(at: Timestamp) -> Self {
        Self {
            earliest: at,
            latest: at,
            clock: Clock::Kernel,
        }
    }

    /// Noticed by the agent at `latest`; it happened after `earliest`.
    pub const fn noticed(earliest: Timestamp, latest: Timestamp) -> Self {
        Self {
            earliest,
            latest,
            clock: Clock::Agent,
        }
    }
}
