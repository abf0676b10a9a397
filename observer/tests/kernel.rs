//! The kernel programs on the running kernel: what really happens to sockets and processes comes
//! out as the right events. Needs root; makes its own namespaces.

#[path = "kernel/lab.rs"]
mod lab;

use std::net::{TcpListener, TcpStream};

use lab::{Namespace, Observed, can_run};
use observer_core::event::{Fact, TcpState};

#[test]
fn a_connection_shows_both_ends_from_dial_to_close() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &["127.0.0.1"]);
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:179").expect("bind");
        let dialled = TcpStream::connect("127.0.0.1:179").expect("connect");
        let (accepted, _) = listener.accept().expect("accept");
        drop(dialled);
        drop(accepted);
    });
    let ended = |local_is_bgp: bool| {
        move |fact: &Fact| match fact {
            Fact::TcpState {
                socket,
                to: TcpState::Close,
                from,
                ..
            } if *from != TcpState::Listen && (socket.local.port() == 179) == local_is_bgp => {
                Some(*socket)
            }
            _ => None,
        }
    };
    observed.wait_fact("the dialler's end", ended(false));
    observed.wait_fact("the listener's end", ended(true));
    eprintln!("{:#?}", observed.events);
}
