//! When the intake is to look again, to the microsecond: tokio's timers go by whole milliseconds and round up,
//! which would double the millisecond for which an event is held.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use observer_core::time::Timestamp;
use tokio::io::{Interest, unix::AsyncFd};

use crate::source::clock::boottime_now;

/// A timerfd(2).
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<Timer>,
    set: Timestamp,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// As timerfd_create(2).
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?);
        Ok(Self {
            // SAFETY: the descriptor is `timer`'s own, opened above, and lives as long as it.
            timer: unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? },
            set: Timestamp::default(),
        })
    }

    /// Waits until `due`; now and then it comes back sooner. Cancelling it loses nothing.
    ///
    /// # Errors
    /// As timerfd_settime(2) and epoll(7), never in practice.
    pub async fn at(&mut self, due: Timestamp) -> io::Result<()> {
        if due <= boottime_now() {
            return Ok(());
        }
        if self.set != due {
            let at = TimeSpec::from(Duration::from_nanos(due.nanos()));
            let Timer(timer) = self.timer.get_ref();
            timer.set(
                Expiration::OneShot(at),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?;
            self.set = due;
        }
        self.timer.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Until `due`, however often it comes back sooner.
    async fn until(alarm: &mut Alarm, due: Timestamp) {
        while boottime_now() < due {
            alarm.at(due).await.unwrap();
        }
    }

    #[tokio::test]
    async fn it_rings_again_and_again_and_at_once_for_what_is_past() {
        let mut alarm = Alarm::new().unwrap();
        alarm.at(Timestamp::default()).await.unwrap();
        for _ in 0..3 {
            let due = boottime_now().after(Duration::from_millis(2));
            until(&mut alarm, due).await;
        }
    }

    #[tokio::test]
    async fn one_that_was_given_up_does_not_keep_the_next_from_ringing() {
        let mut alarm = Alarm::new().unwrap();
        let far = boottime_now().after(Duration::from_hours(1));
        let given_up = tokio::time::timeout(Duration::from_millis(5), alarm.at(far)).await;
        assert!(given_up.is_err(), "an hour went by");
        until(&mut alarm, boottime_now().after(Duration::from_millis(2))).await;
    }
}
