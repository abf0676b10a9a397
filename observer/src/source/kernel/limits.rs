//! What the programs are given before they are loaded, in the room that there is for it.

use observer_abi::{MAX_PORTS, MAX_TABLES};

pub fn ports(wanted: &[u16]) -> Result<[u16; MAX_PORTS], String> {
    if wanted.is_empty() || wanted.contains(&0) {
        return Err("no BGP port is configured, or one of them is 0".to_owned());
    }
    if wanted.len() > MAX_PORTS {
        return Err(format!(
            "{} BGP ports are configured, at most {MAX_PORTS} can be observed",
            wanted.len()
        ));
    }
    let mut ports = [0; MAX_PORTS];
    for (slot, port) in ports.iter_mut().zip(wanted) {
        *slot = *port;
    }
    Ok(ports)
}

/// A bit for each; all where none is named.
pub fn protocols(wanted: &[u8]) -> [u32; 8] {
    let mut bits = [if wanted.is_empty() { u32::MAX } else { 0 }; 8];
    for protocol in wanted {
        if let Some(word) = bits.get_mut(usize::from(protocol >> 5)) {
            *word |= 1 << (protocol & 31);
        }
    }
    bits
}

pub fn tables(wanted: &[u32]) -> Result<[u32; MAX_TABLES], String> {
    let mut tables = [0; MAX_TABLES];
    if wanted.len() > MAX_TABLES || wanted.contains(&0) {
        return Err(format!(
            "{} routing tables are configured, or one of them is 0; at most {MAX_TABLES} can be picked",
            wanted.len()
        ));
    }
    for (slot, table) in tables.iter_mut().zip(wanted) {
        *slot = *table;
    }
    Ok(tables)
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, which is often 64 KiB. Where it cannot be lifted,
/// making the maps fails and says so.
pub fn lift_memory_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
