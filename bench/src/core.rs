//! The whole state machine: events a second, and how what an event costs grows with peers and routes.

use std::time::{Duration, Instant};

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
/// Routes that are rewritten in a turn.
const REWRITES: usize = 5_000;
/// Peers by way of whom the routes of a mirror lead.
const HOPS: u32 = 64;
/// By then what was lost at once is told as an incident.
const CORRELATED: Duration = Duration::from_secs(2);
/// Octets of a segment.
const SEGMENT: usize = 1448;

pub fn measure(turns: usize) -> Result<Vec<Figure>> {
    let mut figures = by_peers(turns)?;
    figures.extend(by_routes(turns)?);
    figures.extend(by_announcers(turns)?);
    figures.extend(by_withdrawers(turns)?);
    figures.extend(by_mirror(turns)?);
    figures.extend(by_losses(turns)?);
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

/// Meshes whose peers announce a route each, which the kernel has.
fn announcing() -> Result<Vec<(Mesh, u32)>> {
    let mut meshes = Vec::new();
    for peers in PEERS {
        let mut mesh = Mesh::new(peers)?;
        mesh.announce_each();
        mesh.dump(peers, peers);
        let known = (mesh.prefixes(), mesh.mirrored());
        let wanted = u64::from(peers);
        ensure!(known == (wanted, wanted), "{known:?} of {wanted}");
        meshes.push((mesh, peers));
    }
    Ok(meshes)
}

/// Routes that BIRD removes and writes anew, one of each peer, in turn.
fn by_announcers(turns: usize) -> Result<Vec<Figure>> {
    let what = "kernel's routes of so many peers removed and written";
    by_peer(turns, what, |mesh, number| mesh.rewrite(number, number))
}

/// Routes that their peers withdraw and announce anew, and BIRD removes and writes.
fn by_withdrawers(turns: usize) -> Result<Vec<Figure>> {
    let what = "routes of so many peers withdrawn and announced, and so in the kernel";
    by_peer(turns, what, Mesh::withdraw_and_announce)
}

fn by_peer(turns: usize, what: &str, act: impl Fn(&mut Mesh, u32)) -> Result<Vec<Figure>> {
    let mut meshes = announcing()?;
    let mut rates = vec![Vec::new(); meshes.len()];
    for _ in 0..turns {
        for ((mesh, peers), rates) in meshes.iter_mut().zip(&mut rates) {
            let (begun, before) = (Instant::now(), mesh.events);
            for number in (0..*peers).cycle().take(REWRITES) {
                act(mesh, number);
            }
            rates.push(float(mesh.events - before) / begun.elapsed().as_secs_f64());
        }
    }
    Ok(growth(what, &PEERS, "peers", "events/s", rates, f64::recip))
}

/// Routes that BIRD removes and writes anew, in mirrors of different sizes.
fn by_mirror(turns: usize) -> Result<Vec<Figure>> {
    let mut meshes = Vec::new();
    for routes in ROUTES {
        let mut mesh = Mesh::new(HOPS)?;
        mesh.dump(routes, HOPS);
        ensure!(mesh.mirrored() == u64::from(routes), "of {routes} routes");
        meshes.push((mesh, routes));
    }
    let mut rates = vec![Vec::new(); meshes.len()];
    for _ in 0..turns {
        for ((mesh, routes), rates) in meshes.iter_mut().zip(&mut rates) {
            let (begun, before) = (Instant::now(), mesh.events);
            let step = usize::try_from(*routes)?.div_ceil(REWRITES);
            let spread = (0..*routes).step_by(step).cycle();
            for number in spread.take(REWRITES) {
                mesh.rewrite(number, number % HOPS);
            }
            rates.push(float(mesh.events - before) / begun.elapsed().as_secs_f64());
        }
    }
    let what = "kernel's routes removed and written, among so many";
    Ok(growth(
        what,
        &ROUTES,
        "routes",
        "events/s",
        rates,
        f64::recip,
    ))
}

/// All sessions lost at once: until that is one incident.
fn by_losses(turns: usize) -> Result<Vec<Figure>> {
    let mut rates = vec![Vec::new(); PEERS.len()];
    for _ in 0..turns {
        for (peers, rates) in PEERS.into_iter().zip(&mut rates) {
            let mut mesh = Mesh::new(peers)?;
            let begun = Instant::now();
            for id in 0..mesh.len() {
                mesh.reset(id);
            }
            mesh.pass(CORRELATED);
            rates.push(f64::from(peers) / begun.elapsed().as_secs_f64());
            let incidents = mesh.observer.incidents().len();
            ensure!(incidents == 1, "{incidents} incidents of {peers} losses");
        }
    }
    let what = "sessions lost at once, until they are an incident";
    Ok(growth(what, &PEERS, "peers", "losses/s", rates, f64::recip))
}
