// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Which sockets are looked at: cheapest test first, because every TCP socket of the host passes.

use observer_abi::MAX_PORTS;

use crate::layout::PORTS;

/// Whether `port` (host order) is one that BGP is spoken on.
#[inline(always)]
pub fn is_bgp(port: u16) -> bool {
    let ports = PORTS.as_ptr().cast::<u16>();
    let mut found = false;
    let mut index = 0;
    while index < MAX_PORTS {
        // SAFETY: `index` is within the array; volatile because the loader sets it.
        let wanted = unsafe { ports.add(index).read_volatile() };
        found |= wanted != 0 && wanted == port;
        index += 1;
    }
    found
}
