//! What BIRD writes on its control socket, and what `show protocols all` says of its BGP peers. BIRD 1.6
//! and BIRD 2 alike.
//!
//! A reply is lines of four digits, a dash or a blank, and text; a line that begins with a blank goes on with
//! the digits of the one before; a blank after the digits ends the reply. Digits from 8000 on are errors.

use observer_core::event::{PeerType, configured::ConfiguredPeer};
use thiserror::Error;

/// Octets of one reply: ten times what a thousand peers need.
pub const MOST: usize = 16 << 20;
/// Peers taken at most: as many as a node may have.
const PEERS: usize = 16_384;

/// The row of a protocol.
const ROW: u16 = 1002;
/// What there is to say of the one before.
const DETAIL: u16 = 1006;

/// Why a reply tells nothing.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum Failure {
    /// It is none.
    #[error("what answers is not BIRD: '{0}'")]
    Garbage(String),
    /// It does not end, within what is read of it or what was sent.
    #[error("the answer breaks off, or is longer than {MOST} octets")]
    Endless,
    /// BIRD says that it does not.
    #[error("BIRD refused: {0}")]
    Refused(String),
}

/// One line of a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line<'a> {
    /// Its digits, as a number.
    pub code: u16,
    /// What follows.
    pub text: &'a str,
    /// Nothing follows it.
    pub last: bool,
}

/// Takes `line` apart; `before` is the code of the line before, if there was one.
pub fn line(line: &str, before: Option<u16>) -> Result<Line<'_>, Failure> {
    let line = line.trim_end_matches(['\r', '\n']);
    let garbage = || Failure::Garbage(line.chars().take(40).collect());
    if let Some(text) = line.strip_prefix(' ') {
        let code = before.ok_or_else(garbage)?;
        return Ok(Line {
            code,
            text,
            last: false,
        });
    }
    let (digits, rest) = line.split_at_checked(4).ok_or_else(garbage)?;
    if !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(garbage());
    }
    let code = digits.parse().map_err(|_| garbage())?;
    let (last, text) = match rest.split_at_checked(1) {
        Some((" ", text)) => (true, text),
        Some(("-", text)) => (false, text),
        None if rest.is_empty() => (true, ""),
        None | Some(_) => return Err(garbage()),
    };
    if code >= 8_000 {
        return Err(Failure::Refused(format!("{code} {text}")));
    }
    Ok(Line { code, text, last })
}

/// Reads the lines of `show protocols all`.
#[derive(Debug, Default)]
pub struct Protocols {
    peers: Vec<ConfiguredPeer>,
    /// The BGP protocol that details are of: its name, and whether it is switched off.
    of: Option<(String, bool)>,
}

impl Protocols {
    /// Takes up a line.
    pub fn take(&mut self, line: Line<'_>) {
        if line.code == ROW {
            let mut words = line.text.split_whitespace();
            let (name, kind) = (words.next(), words.next());
            // Its table, then how it is: a protocol that serves is `start` or `up`.
            let state = words.nth(1);
            self.of = name
                .filter(|_| kind == Some("BGP"))
                .map(|name| (name.to_owned(), state == Some("down")));
        } else if line.code == DETAIL
            && let Some((name, disabled)) = &self.of
        {
            let Some((key, value)) = line.text.trim_start().split_once(':') else {
                return;
            };
            let value = value.trim();
            match key {
                "Neighbor address" if self.peers.len() < PEERS => {
                    // A link-local one has its interface.
                    let address = value.split('%').next().unwrap_or_default();
                    if let Ok(address) = address.parse() {
                        self.peers.push(ConfiguredPeer {
                            protocol: name.clone(),
                            address,
                            asn: None,
                            peer_type: PeerType::of_protocol(name),
                            disabled: *disabled,
                        });
                    }
                }
                "Neighbor AS" => {
                    // The address comes before.
                    let last = self.peers.last_mut();
                    if let Some(peer) = last.filter(|peer| peer.protocol == *name) {
                        peer.asn = value.parse().ok();
                    }
                }
                _ => {}
            }
        }
    }

    /// What they came to.
    pub fn peers(self) -> Vec<ConfiguredPeer> {
        self.peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reply: &str) -> Result<Vec<ConfiguredPeer>, Failure> {
        let (mut protocols, mut before) = (Protocols::default(), None);
        for text in reply.lines() {
            let line = line(text, before)?;
            before = Some(line.code);
            if line.last {
                break;
            }
            protocols.take(line);
        }
        Ok(protocols.peers())
    }

    fn told(reply: &str) -> Vec<String> {
        let peers = read(reply).unwrap();
        let told = peers.iter().map(|peer| {
            let of_type = peer.peer_type.map_or("-", PeerType::name);
            let asn = peer.asn.unwrap_or_default();
            let off = if peer.disabled { " off" } else { "" };
            format!("{} {} {of_type} {asn}{off}", peer.protocol, peer.address)
        });
        told.collect()
    }

    #[test]
    fn a_recorded_answer_of_bird_1_6_names_its_peers() {
        assert_eq!(
            told(include_str!("bird1.txt")),
            [
                "Mesh_10_0_0_2 10.0.0.2 node-to-node mesh 64512",
                "Node_10_0_0_9 10.0.0.9 node specific 64513 off",
                "Global_127_0_0_1_port_1791 127.0.0.1 global 64514",
            ]
        );
    }

    #[test]
    fn a_recorded_answer_of_bird_2_names_its_peers() {
        assert_eq!(
            told(include_str!("bird2.txt")),
            [
                "Mesh_10_0_0_2 10.0.0.2 node-to-node mesh 64512",
                "Node_10_0_0_9 10.0.0.9 node specific 64513 off",
                "Global_127_0_0_1_port_1791 127.0.0.1 global 64514",
                "Mesh_fd00__2 fd00::2 node-to-node mesh 64512",
            ]
        );
    }

    #[test]
    fn rows_without_digits_and_peers_without_address_are_read() {
        let reply = "2002-name proto table state since info\n1002-a BGP t up x\n b BGP t start x\n\
                     1006-  BGP state: Idle\n     Neighbor range: 10.0.0.0/8\n\
                     1002-c BGP t up x Established\n1006-    Neighbor address: fe80::2%eth0\n     \
                     Neighbor AS:      external\n0000 \n1002-d BGP t up\n";
        assert_eq!(told(reply), ["c fe80::2 - 0"]);
    }

    #[test]
    fn what_is_no_reply_is_said() {
        for (text, before) in [
            ("", None),
            ("HTTP/1.1 400", None),
            (" x", None),
            ("12x4 a", Some(1)),
        ] {
            let failed = line(text, before);
            assert!(
                matches!(failed, Err(Failure::Garbage(_))),
                "{text}: {failed:?}"
            );
        }
        assert!(matches!(line("0001\u{fe}", None), Err(Failure::Garbage(_))));
        let refused = Failure::Refused("8007 Access denied".to_owned());
        assert_eq!(line("8007 Access denied", None), Err(refused));
        let end = line("0000 ", Some(ROW)).unwrap();
        assert_eq!((end.code, end.last), (0, true));
        assert!(line("0000", None).unwrap().last);
    }

    #[test]
    fn no_damage_makes_more_of_it_than_it_said() {
        for whole in [include_str!("bird1.txt"), include_str!("bird2.txt")] {
            let most = read(whole).unwrap().len();
            for at in (0..whole.len())
                .step_by(5)
                .filter(|at| whole.is_char_boundary(*at))
            {
                let (before, after) = whole.split_at(at);
                let cut = read(before).map_or(0, |peers| peers.len());
                let hurt = read(&format!("{before}\u{fe}{after}")).map_or(0, |peers| peers.len());
                assert!(
                    cut <= most && hurt <= most,
                    "{at}: {cut} and {hurt} of {most}"
                );
            }
        }
    }
}
