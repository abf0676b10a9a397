//! Packets from one namespace to another and what they cost: one thread sends and receives, so that
//! the kernel's whole way from socket to socket is in that thread's processor time, and nothing else.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use observer_tests::netns;

use crate::measure::{float, processor_nanos};

const SOON: Duration = Duration::from_secs(5);
/// Datagrams in one go: far less than a receive buffer holds.
const BATCH: u64 = 64;
const DATAGRAMS: u64 = 20_480;
const QUESTIONS: u64 = 8_192;
/// KiB of a stream.
const STREAM: u64 = 128 << 10;

/// A namespace and an address in it.
#[derive(Debug)]
pub struct End {
    namespace: String,
    address: IpAddr,
}

impl End {
    pub fn new(namespace: &str, address: Ipv4Addr) -> Self {
        Self {
            namespace: namespace.to_owned(),
            address: address.into(),
        }
    }

    fn inside<T: Send>(&self, make: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
        netns::inside(&self.namespace, make)?
            .with_context(|| format!("{} in {}", self.address, self.namespace))
    }
}

/// Two sockets and what goes between them.
#[derive(Debug)]
pub enum Flow {
    /// 64 octets each, one way.
    Datagrams { from: UdpSocket, to: UdpSocket },
    /// An octet there and an octet back, over one TCP connection.
    Questions { from: TcpStream, to: TcpStream },
    /// As much as goes into one TCP connection.
    Stream { from: TcpStream, to: TcpStream },
}

impl Flow {
    pub fn datagrams(from: &End, to: &End) -> Result<Self> {
        let bind = |end: &End| {
            let address = (end.address, 0);
            end.inside(|| UdpSocket::bind(address))
        };
        let (from, to) = (bind(from)?, bind(to)?);
        to.set_read_timeout(Some(SOON))?;
        from.connect(to.local_addr()?)?;
        Ok(Self::Datagrams { from, to })
    }

    pub fn questions(from: &End, to: &End) -> Result<Self> {
        let (from, to) = connect(from, to)?;
        Ok(Self::Questions { from, to })
    }

    pub fn stream(from: &End, to: &End) -> Result<Self> {
        let (from, to) = connect(from, to)?;
        for end in [&from, &to] {
            end.set_nonblocking(true)?;
        }
        Ok(Self::Stream { from, to })
    }

    pub fn what(&self) -> &'static str {
        match self {
            Self::Datagrams { .. } => "UDP of 64 octets",
            Self::Questions { .. } => "TCP request and response",
            Self::Stream { .. } => "TCP stream",
        }
    }

    pub fn unit(&self) -> &'static str {
        match self {
            Self::Datagrams { .. } | Self::Questions { .. } => "ns of CPU each",
            Self::Stream { .. } => "ns of CPU per KiB",
        }
    }

    /// Nanoseconds of processor time for each datagram, question with its answer, or KiB.
    pub fn cost(&mut self) -> Result<f64> {
        // Neighbours are asked for and windows opened before the clock runs.
        self.run(BATCH)?;
        let amount = match self {
            Self::Datagrams { .. } => DATAGRAMS,
            Self::Questions { .. } => QUESTIONS,
            Self::Stream { .. } => STREAM,
        };
        let begun = processor_nanos()?;
        self.run(amount)?;
        Ok(float(processor_nanos()? - begun) / float(amount))
    }

    fn run(&mut self, amount: u64) -> Result<()> {
        match self {
            Self::Datagrams { from, to } => {
                let mut octets = [0; 64];
                for _ in 0..amount / BATCH {
                    for _ in 0..BATCH {
                        from.send(&octets)?;
                    }
                    for _ in 0..BATCH {
                        to.recv(&mut octets).context("a datagram was lost")?;
                    }
                }
                Ok(())
            }
            Self::Questions { from, to } => {
                let mut octet = [0; 1];
                for _ in 0..amount {
                    from.write_all(&octet)?;
                    to.read_exact(&mut octet)?;
                    to.write_all(&octet)?;
                    from.read_exact(&mut octet)?;
                }
                Ok(())
            }
            Self::Stream { from, to } => pump(from, to, amount << 10),
        }
    }
}

fn connect(from: &End, to: &End) -> Result<(TcpStream, TcpStream)> {
    let address = (to.address, 0);
    let listener = to.inside(|| TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    let from = from.inside(|| TcpStream::connect_timeout(&address, SOON))?;
    let (to, _) = listener.accept()?;
    for end in [&from, &to] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(SOON))?;
    }
    Ok((from, to))
}

/// That many octets, written when there is room and read when there are any.
fn pump(from: &mut TcpStream, to: &mut TcpStream, octets: u64) -> Result<()> {
    let begun = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    let (mut written, mut read) = (0, 0);
    while read < octets {
        let left = usize::try_from(octets - written)?.min(buffer.len());
        written += some(from.write(buffer.get(..left).unwrap_or_default()))?;
        read += some(to.read(&mut buffer))?;
        ensure!(begun.elapsed() < SOON, "{read} of {octets} octets");
    }
    Ok(())
}

/// How many, or none for now.
fn some(done: std::io::Result<usize>) -> Result<u64> {
    match done {
        Ok(count) => Ok(u64::try_from(count)?),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
