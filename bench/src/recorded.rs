//! A table as a real BIRD sends it, taken down by this program as its peer. Needs root.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use observer_core::bgp::{AsWidth, Message};
use observer_tests::{
    crowd,
    lab::{Lab, Plan},
    transfer::{PROTOCOL, configure},
    wait,
};

use crate::routes::Table;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const LIMIT: Duration = Duration::from_mins(2);

/// `routes` and the node's own block.
pub fn table(routes: u32) -> Result<Table> {
    let lab = Lab::build(Plan::of(2))?;
    configure(&lab, routes)?;
    let n1 = lab.node(1)?;
    crowd::settle(n1, &["10.1.0.0/24"])?;
    crowd::dial(&lab, n1, &[PEER])?;
    let listener = crowd::listen(n1, PEER)?;
    lab.start(n1)?;
    wait::soon("BIRD announces them", LIMIT, || {
        lab.birdc(n1, &format!("enable {PROTOCOL}"))
    })?;
    let mut stream = crowd::answer(&listener, Duration::ZERO)?;
    let wanted = u64::from(routes) + 1;
    let mut table = Table::default();
    let begun = Instant::now();
    while table.routes < wanted {
        ensure!(begun.elapsed() < LIMIT, "{} of {wanted}", table.routes);
        take_down(&mut stream, &mut table)?;
    }
    Ok(table)
}

/// The next message, if it is an UPDATE that announces.
fn take_down(stream: &mut TcpStream, table: &mut Table) -> Result<()> {
    let mut message = vec![0; 19];
    stream.read_exact(&mut message)?;
    let length = message.get(16..18).and_then(|octets| octets.first_chunk());
    let length = length.map_or(0, |octets| u16::from_be_bytes(*octets));
    message.resize(length.max(19).into(), 0);
    if let Some(body) = message.get_mut(19..) {
        stream.read_exact(body)?;
    }
    let Ok(Message::Update(update)) = Message::decode(&message) else {
        return Ok(());
    };
    let facts = update.read(&mut (AsWidth::Four, false), &mut |_| {});
    let counts = facts.counts().filter(|count| count.announced);
    let routes: u64 = counts.map(|count| u64::from(count.count)).sum();
    if routes > 0 {
        table.bytes.extend(&message);
        table.count += 1;
        table.routes += routes;
    }
    Ok(())
}
