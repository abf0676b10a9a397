//! One packet socket on one interface: opened, filtered, drained in batches, its losses counted.
//!
//! It knows packets, not TCP: what a packet says is decoded by the same code that reads capture
//! files.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use super::filter;

/// Packets taken per system call.
const BATCH: usize = 16;
/// Room per packet: GRO and GSO super-segments reach 64 KiB; what is longer (BIG TCP) is cut and
/// marked. Pages are only touched when a packet fills them.
const ROOM: usize = 128 * 1024;
/// Room for the control messages: a timestamp and the auxiliary data.
const CONTROL: usize = 128;
/// Asked of the kernel: at BIRD's full speed this is seconds of BGP.
const RECEIVE_BUFFER: libc::c_int = 32 * 1024 * 1024;

/// What the kernel says about a packet besides its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketInfo {
    /// Interface it was seen on.
    pub interface: u32,
    /// It leaves this host.
    pub outgoing: bool,
    /// CLOCK_REALTIME in nanoseconds, stamped by the kernel; none if it did not.
    pub realtime_nanos: Option<i64>,
    /// The VLAN id that the device took off, if it did.
    pub vlan: Option<u16>,
    /// Bytes that did not fit.
    pub cut: usize,
    /// It came from the wire, and nobody has verified its transport checksum: neither the device nor
    /// GRO did, and it is no packet of this machine's that has none yet.
    pub unverified: bool,
}

/// A packet socket bound to one interface, and its buffers' size in the batch.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: u32,
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PacketSocket {
    /// Opens a socket in the calling thread's network namespace that sees the BGP packets of
    /// `interface`, in both directions.
    ///
    /// The filter is attached before the socket is bound, so nothing else is ever queued.
    ///
    /// # Errors
    /// As socket(2) (`EPERM` without `CAP_NET_RAW`), setsockopt(2), bind(2) (`ENODEV` when the
    /// interface went away).
    pub fn open(interface: u32, ports: &[u16]) -> io::Result<Self> {
        // SAFETY: no pointers are passed. Protocol 0 receives nothing until bind.
        let fd = check(unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            )
        })
        .map_err(with_remedy)?;
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, interface };
        socket.attach(&filter::program(ports))?;
        // Beyond net.core.rmem_max with CAP_NET_ADMIN, else as much as that allows.
        if socket
            .set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)
            .is_err()
        {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER)?;
        }
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
        socket.bind()?;
        Ok(socket)
    }

    /// The interface it is bound to.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: &libc::c_int) -> io::Result<()> {
        // SAFETY: the option's value is an int that outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                ptr::from_ref(value).cast(),
                size_of_u32::<libc::c_int>(),
            )
        })?;
        Ok(())
    }

    fn attach(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which outlives the call, and does not write to it.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                ptr::from_ref(&program).cast(),
                size_of_u32::<libc::sock_fprog>(),
            )
        })?;
        Ok(())
    }

    fn bind(&self) -> io::Result<()> {
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL)
            .map_err(io::Error::other)?
            .to_be();
        address.sll_ifindex = i32::try_from(self.interface).map_err(io::Error::other)?;
        // SAFETY: the address is a sockaddr_ll of the length given.
        check(unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of_u32::<libc::sockaddr_ll>(),
            )
        })?;
        Ok(())
    }

    /// Packets the kernel could not queue since the last call.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn take_drops(&self) -> io::Result<u64> {
        // SAFETY: all-zero is a valid tpacket_stats.
        let mut stats: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut length = size_of_u32::<libc::tpacket_stats>();
        // SAFETY: value and length are ours and of matching size.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut stats).cast(),
                &raw mut length,
            )
        })?;
        Ok(u64::from(stats.tp_drops))
    }
}

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Packets.
    pub packets: usize,
    /// Octets in them, exceeded by one batch at most.
    pub octets: usize,
}

/// What was taken at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    /// How many packets.
    pub packets: usize,
    /// There may be more: the limit was reached.
    pub more: bool,
}

/// Buffers for one batch; one set serves every socket of a thread.
pub struct Batch {
    packets: Vec<u8>,
    control: Vec<[u64; CONTROL / 8]>,
    addresses: Vec<libc::sockaddr_ll>,
}

impl Default for Batch {
    fn default() -> Self {
        // SAFETY: all-zero is a valid sockaddr_ll.
        let address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        Self {
            packets: vec![0; BATCH * ROOM],
            control: vec![[0; CONTROL / 8]; BATCH],
            addresses: vec![address; BATCH],
        }
    }
}

impl Batch {
    /// Hands every packet that waits in `socket` to `take`, oldest first, and stops when `limit` is
    /// reached.
    ///
    /// # Errors
    /// As recvmmsg(2); `ENETDOWN` once when the interface goes down, after which the socket goes on
    /// working.
    pub fn drain(
        &mut self,
        socket: &PacketSocket,
        limit: Limit,
        mut take: impl FnMut(PacketInfo, &[u8]),
    ) -> io::Result<Drained> {
        let (mut drained, mut octets) = (Drained::default(), 0);
        loop {
            let count = self.receive(socket, &mut |info, packet| {
                octets += packet.len();
                take(info, packet);
            })?;
            drained.packets += count;
            if count < BATCH {
                return Ok(drained);
            }
            if drained.packets >= limit.packets || octets >= limit.octets {
                drained.more = true;
                return Ok(drained);
            }
        }
    }

    fn receive(
        &mut self,
        socket: &PacketSocket,
        take: &mut impl FnMut(PacketInfo, &[u8]),
    ) -> io::Result<usize> {
        let mut vectors: Vec<libc::iovec> = self
            .packets
            .chunks_exact_mut(ROOM)
            .map(|room| libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: ROOM,
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.control)
            .zip(&mut self.addresses)
            .map(|((vector, control), address)| {
                // SAFETY: all-zero is a valid mmsghdr.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = ptr::from_mut(address).cast();
                header.msg_hdr.msg_namelen = size_of_u32::<libc::sockaddr_ll>();
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = CONTROL as _;
                header
            })
            .collect();
        // SAFETY: every header points to buffers of `self` that live through the call and are not
        // touched meanwhile; MSG_TRUNC makes the lengths those of the packets.
        let received = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(headers.len()).unwrap_or(0),
                (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
                ptr::null_mut(),
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(0)
            } else {
                Err(error)
            };
        }
        let received = usize::try_from(received).unwrap_or(0);
        let packets = self.packets.chunks_exact(ROOM).zip(&self.addresses);
        for (header, (room, address)) in headers.iter().zip(packets).take(received) {
            let length = header.msg_len as usize;
            let bytes = room.get(..length).unwrap_or(room);
            let mut info = PacketInfo {
                interface: socket.interface,
                outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
                realtime_nanos: None,
                vlan: None,
                cut: length.saturating_sub(ROOM),
                unverified: false,
            };
            read_control(&header.msg_hdr, &mut info);
            take(info, bytes);
        }
        Ok(received)
    }
}

/// Takes the timestamp, the VLAN tag and what is known of the checksum from a message's control data.
fn read_control(header: &libc::msghdr, info: &mut PacketInfo) {
    // SAFETY: the kernel filled the header in; CMSG_FIRSTHDR and CMSG_NXTHDR stay within its
    // control buffer, and each payload is read unaligned and only after its type and length were
    // checked.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            #[cfg_attr(
                target_env = "gnu",
                expect(clippy::unnecessary_cast, reason = "musl's is a socklen_t")
            )]
            let length = found.cmsg_len as usize;
            let holds = |size: usize| length >= libc::CMSG_LEN(0) as usize + size;
            let data = libc::CMSG_DATA(message);
            if found.cmsg_level == libc::SOL_SOCKET
                && found.cmsg_type == libc::SCM_TIMESTAMPNS
                && holds(size_of::<libc::timespec>())
            {
                let time: libc::timespec = ptr::read_unaligned(data.cast());
                info.realtime_nanos = Some(time.tv_sec * 1_000_000_000 + time.tv_nsec);
            } else if found.cmsg_level == libc::SOL_PACKET
                && found.cmsg_type == libc::PACKET_AUXDATA
                && holds(size_of::<libc::tpacket_auxdata>())
            {
                let auxiliary: libc::tpacket_auxdata = ptr::read_unaligned(data.cast());
                if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    info.vlan = Some(auxiliary.tp_vlan_tci & 0x0fff);
                }
                let settled = libc::TP_STATUS_CSUM_VALID | libc::TP_STATUS_CSUMNOTREADY;
                info.unverified = !info.outgoing && auxiliary.tp_status & settled == 0;
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
}

/// Says what an operator can do about it.
fn with_remedy(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let words = "packets may not be read (EPERM): run as root or with CAP_NET_RAW";
    io::Error::new(error.kind(), words)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The size of `T` as the socket calls want it.
fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}
