//! Peers of n1's BIRD whose sessions end again and again, each when and how this program ends it.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use observer_tests::{
    agent::boot_nanos,
    crowd::{answer, listen, notification},
    lab::Node,
};
use socket2::SockRef;

/// How long a session stays at least: an incident is over by then, so that the next flap is one of its own.
const STAYS: Duration = Duration::from_millis(3_200);
/// How much longer at most, so that flaps of different peers fall together as chance has it.
const LONGER: u64 = 900;
/// How long one that is dialled says nothing, in turn: BIRD dials again after some two seconds, which is
/// shorter than, or with these near and longer than the pauses of those who poll.
const SILENT: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(1_500),
    Duration::from_millis(3_500),
];

/// How a peer ends its session, in turn.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Reset,
    Notification,
}

const ENDS: [End; 3] = [End::Fin, End::Reset, End::Notification];

/// A session that ended, and when that was about to be done: in nanoseconds since boot.
pub struct Flap {
    pub peer: Ipv4Addr,
    /// How many of this peer's were before it.
    pub number: usize,
    pub from: i128,
}

/// A peer by its number.
pub fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a01_0001 + number)
}

/// Sessions that are up again.
pub type Standing = Vec<TcpStream>;

/// `peers` behind the pod of `node`, `flaps` each; `ended` is told of every one at once. Gives all of them,
/// and the sessions as they are afterwards.
pub fn flap(
    node: &Node,
    peers: u32,
    flaps: usize,
    ended: &(dyn Fn(&Flap) -> Result<()> + Sync),
) -> Result<(Vec<Flap>, Standing)> {
    let speak = |number: u32, listener: &TcpListener| -> Result<(Vec<Flap>, TcpStream)> {
        let mut all = Vec::new();
        let mut turn = usize::try_from(number)?;
        let mut stream = answer(listener, Duration::ZERO)?;
        for done in 0..flaps {
            turn += 1;
            let longer = u64::from(number) * 37 + u64::try_from(turn)? * 271;
            thread::sleep(STAYS + Duration::from_millis(longer % LONGER));
            let flap = Flap {
                peer: peer(number),
                number: done,
                from: boot_nanos()?,
            };
            end(stream, *ENDS.iter().cycle().nth(turn).unwrap_or(&End::Fin))?;
            ended(&flap)?;
            all.push(flap);
            let silent = SILENT.iter().cycle().nth(turn / ENDS.len());
            stream = answer(listener, *silent.unwrap_or(&Duration::ZERO))?;
        }
        Ok((all, stream))
    };
    let listeners = (0..peers).map(|number| listen(node, peer(number)));
    let listeners = listeners.collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let speakers: Vec<_> = { (0..peers).zip(&listeners) }
            .map(|(number, listener)| {
                scope.spawn(move || {
                    let name = || peer(number).to_string();
                    speak(number, listener).with_context(name)
                })
            })
            .collect();
        let (mut all, mut standing) = (Vec::new(), Standing::new());
        for speaker in speakers {
            let spoken = speaker.join().map_err(|_| anyhow!("a peer panicked"))?;
            let (flaps, stream) = spoken?;
            all.extend(flaps);
            standing.push(stream);
        }
        Ok((all, standing))
    })
}

fn end(mut stream: TcpStream, how: End) -> io::Result<()> {
    match how {
        End::Reset => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        // Administrative Reset (RFC 4486 §4).
        End::Notification => stream.write_all(&notification(6, 4))?,
        End::Fin => {}
    }
    stream.shutdown(Shutdown::Write)?;
    // Closed with something unread, it would be reset after all; BIRD may do so itself.
    let mut unread = [0; 4096];
    while stream.read(&mut unread).is_ok_and(|count| count > 0) {}
    Ok(())
}
