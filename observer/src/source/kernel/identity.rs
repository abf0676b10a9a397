//! Which socket a record is about. On kernels that tell a socket's cookie (5.12 and later) that is
//! the cookie, the same that sock_diag shows. On older ones the probes see only the socket's
//! address, so it gets a number of our own from its birth to its end, or the cookie that sock_diag
//! gave for the same pair of ends.

use std::{collections::BTreeMap, net::SocketAddr};

use observer_core::event::{NetnsId, SocketId};

/// Our own numbers have this bit; cookies count from 1 and never reach it.
const OWN: u64 = 1 << 63;

/// Whether `id` is a number of our own, which sock_diag cannot be asked for.
pub const fn is_own(id: SocketId) -> bool {
    id.0 & OWN != 0
}

/// The two ends of a socket in a namespace.
pub type Ends = (NetnsId, SocketAddr, SocketAddr);

/// The sockets that have no cookie in the probes' records. Empty on kernels that tell it.
#[derive(Debug, Default)]
pub struct Identities {
    by_address: BTreeMap<u64, (SocketId, Option<Ends>)>,
    by_ends: BTreeMap<Ends, SocketId>,
    given: u64,
}

impl Identities {
    /// The identity of the socket at kernel address `address`.
    pub fn of(&mut self, address: u64, ends: Ends, born: bool, ended: bool) -> SocketId {
        if born {
            self.forget(address);
        }
        let id = match self.by_address.get(&address) {
            Some((id, _)) => *id,
            None => self.by_ends.get(&ends).copied().unwrap_or_else(|| {
                self.given += 1;
                SocketId(OWN | self.given)
            }),
        };
        self.forget(address);
        if ended {
            self.by_ends.remove(&ends);
        } else {
            // Before the kernel has chosen the local port, two sockets can look alike.
            let distinct = (ends.1.port() != 0).then_some(ends);
            self.by_address.insert(address, (id, distinct));
            if let Some(ends) = distinct {
                self.by_ends.insert(ends, id);
            }
        }
        id
    }

    /// The identity the probes use for the socket that sock_diag calls `cookie`.
    pub fn reconcile(&mut self, cookie: SocketId, ends: Ends) -> SocketId {
        *self.by_ends.entry(ends).or_insert(cookie)
    }

    fn forget(&mut self, address: u64) {
        if let Some((_, Some(ends))) = self.by_address.remove(&address) {
            self.by_ends.remove(&ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        (
            NetnsId(1),
            SocketAddr::from(([10, 0, 0, 1], port)),
            SocketAddr::from(([10, 0, 0, 2], 179)),
        )
    }

    #[test]
    fn what_sock_diag_saw_first_keeps_its_cookie() {
        let mut identities = Identities::default();
        let cookie = SocketId(17);
        assert_eq!(identities.reconcile(cookie, ends(1)), cookie);
        assert_eq!(identities.of(0xa, ends(1), false, false), cookie);
        assert_eq!(identities.of(0xa, ends(1), false, true), cookie);
        let next = identities.of(0xa, ends(1), true, false);
        assert!(is_own(next) && !is_own(cookie));
    }

    #[test]
    fn what_the_probes_saw_first_keeps_its_own_number() {
        let mut identities = Identities::default();
        let own = identities.of(0xa, ends(0), true, false);
        assert_eq!(identities.of(0xa, ends(1), false, false), own);
        assert_eq!(identities.reconcile(SocketId(17), ends(1)), own);
        assert_ne!(identities.of(0xb, ends(0), true, false), own);
    }

    #[test]
    fn nothing_is_kept_of_sockets_that_ended() {
        let mut identities = Identities::default();
        for _ in 0..3 {
            identities.of(0xa, ends(0), true, false);
            identities.of(0xa, ends(1), false, false);
            identities.of(0xa, ends(1), false, true);
        }
        assert!(identities.by_address.is_empty() && identities.by_ends.is_empty());
    }
}
