//! A ring buffer of the kernel programs, and how to wait for it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::maps::{Map, MapData, MapError, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// Records taken from one ring per drain: about a millisecond of work.
const DRAIN_LIMIT: usize = 2048;

/// A ring buffer and what wakes us when it fills.
pub struct Ring {
    buffer: RingBuf<MapData>,
    /// Made on first use: it needs a running tokio, starting the source does not.
    wake_up: Option<AsyncFd<OwnedFd>>,
}

impl Ring {
    /// Over the map `map`.
    pub fn over(map: Map) -> Result<Self, MapError> {
        Ok(Self {
            buffer: RingBuf::try_from(map)?,
            wake_up: None,
        })
    }

    /// Readable when there may be records.
    pub fn wake_up(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        let fd = if let Some(fd) = self.wake_up.take() {
            fd
        } else {
            let duplicate = self.buffer.as_fd().try_clone_to_owned()?;
            // SAFETY: the `OwnedFd` is open, and is neither replaced nor closed while the `AsyncFd`
            // owns it: only a shared reference to it is ever given out.
            unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE)? }
        };
        Ok(self.wake_up.insert(fd))
    }

    /// Hands over each record; true where the limit was reached.
    pub fn drain(&mut self, mut record: impl FnMut(&[u8])) -> bool {
        for _ in 0..DRAIN_LIMIT {
            match self.buffer.next() {
                Some(bytes) => record(&bytes),
                None => return false,
            }
        }
        true
    }
}
