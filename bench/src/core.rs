//! The whole state machine: events a second, and how what an event costs grows with peers and routes.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{
    measure::{Figure, float, growth},
    mesh::Mesh,
    routes::table,
};

const PEERS: [u32; 4] = [10, 100, 1_000, 5_000];
const ROUTES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Events of a turn.
const EVENTS: u64 = 400_000;
/// UPDATEs that are sent again and again into a table.
const AGAIN: usize = 20_000;
/// Octets of a segment.
const SEGMENT: usize = 1448;

pub fn measure(turns: usize) -> Result<Vec<Figure>> {
    let mut figures = by_peers(turns)?;
    figures.extend(by_routes(turns)?);
    Ok(figures)
}

/// KEEPALIVEs of all sessions in turn.
fn by_peers(turns: usize) -> Result<Vec<Figure>> {
    let mut meshes: Vec<Mesh> = PEERS.into_iter().map(Mesh::new).collect::<Result<_>>()?;
    let mut rates = vec![Vec::new(); meshes.len()];
    for _ in 0..turns {
        for (mesh, rates) in meshes.iter_mut().zip(&mut rates) {
            let (begun, before) = (Instant::now(), mesh.events);
            while mesh.events - before < EVENTS {
                for id in 0..mesh.len() {
                    mesh.exchange_keepalives(id);
                }
            }
            rates.push(float(mesh.events - before) / begun.elapsed().as_secs_f64());
        }
    }
    let what = "events of KEEPALIVEs";
    Ok(growth(what, &PEERS, "peers", "events/s", rates, f64::recip))
}

/// UPDATEs that replace routes, in tables of different sizes.
fn by_routes(turns: usize) -> Result<Vec<Figure>> {
    let mut meshes = Vec::new();
    for routes in ROUTES {
        let mut mesh = Mesh::new(1)?;
        let table = table(routes, true);
        for segment in table.bytes.chunks(SEGMENT) {
            mesh.say(0, false, segment);
        }
        ensure!(
            mesh.prefixes() == u64::from(routes),
            "{} of {routes} routes",
            mesh.prefixes()
        );
        meshes.push((mesh, table));
    }
    let mut rates = vec![Vec::new(); meshes.len()];
    for turn in 0..turns {
        for ((mesh, table), rates) in meshes.iter_mut().zip(&mut rates) {
            let updates: Vec<&[u8]> = table.messages().collect();
            let again = updates.iter().cycle().skip(turn * AGAIN).take(AGAIN);
            let begun = Instant::now();
            for update in again {
                mesh.say(0, false, update);
            }
            rates.push(float(u64::try_from(AGAIN)?) / begun.elapsed().as_secs_f64());
        }
    }
    Ok(growth(
        "UPDATEs into a table",
        &ROUTES,
        "routes",
        "messages/s",
        rates,
        f64::recip,
    ))
}
