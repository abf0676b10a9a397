use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use super::*;

/// A socket behind which `serve` answers one connection; gives what it was asked.
fn bird(
    serve: impl FnOnce(&mut dyn FnMut() -> String, &mut dyn FnMut(&str) -> bool) + Send + 'static,
) -> (tempfile::TempDir, PathBuf, thread::JoinHandle<Vec<String>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bird.ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let answering = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        let mut asked = Vec::new();
        serve(
            &mut || {
                let mut line = String::new();
                let _ = reader.read_line(&mut line);
                asked.push(line.trim_end().to_owned());
                line
            },
            &mut |text| writer.write_all(text.as_bytes()).is_ok(),
        );
        asked
    });
    (folder, path, answering)
}

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn it_is_asked_read_only_and_its_peers_are_taken() {
    let (_folder, path, bird) = bird(|ask, say| {
        say("0001 BIRD 1.6.8 ready.\n");
        ask();
        say("0016 Access restricted\n");
        ask();
        say(include_str!("bird1.txt"));
    });
    let peers = ask_within(&path, LIMIT).await.unwrap();
    assert_eq!(peers.len(), 3, "{peers:?}");
    assert_eq!(bird.join().unwrap(), ["restrict", "show protocols all"]);
}

#[tokio::test]
async fn what_does_not_confirm_that_it_takes_no_orders_is_asked_nothing() {
    for (answer, result) in [
        ("9001 syntax error\n", "refused"),
        ("0000 \n", "garbage"),
        ("HTTP/1.1 400 Bad Request\r\n", "garbage"),
    ] {
        let (_folder, path, bird) = bird(move |ask, say| {
            say("0001 BIRD ready.\n");
            ask();
            say(answer);
            ask();
        });
        let failure = ask_within(&path, LIMIT).await.unwrap_err();
        assert_eq!(failure.result(), result, "{failure}");
        assert_eq!(bird.join().unwrap(), ["restrict", ""]);
    }
}

#[tokio::test]
async fn silence_and_answers_without_end_hold_nothing_up() {
    let (_folder, path, bird) = bird(|ask, _| {
        ask();
    });
    let short = Duration::from_millis(50);
    let failure = ask_within(&path, short).await.unwrap_err();
    assert_eq!(failure.result(), "silent", "{failure}");
    assert_eq!(bird.join().unwrap(), [""]);

    let (_folder, path, bird) = self::bird(|ask, say| {
        say("0001 BIRD ready.\n");
        ask();
        say("0016 Access restricted\n");
        ask();
        let row = "1002-a BGP t up x Established\n".repeat(10_000);
        while say(&row) {}
    });
    let failure = ask_within(&path, LIMIT).await.unwrap_err();
    assert_eq!(failure.result(), "garbage", "{failure}");
    bird.join().unwrap();

    let (_folder, path, bird) = self::bird(|ask, say| {
        say("0001 BIRD ready.\n");
        ask();
        say("0016 Access restricted\n");
        ask();
        say("1002-a BGP t up x Estab");
    });
    let failure = ask_within(&path, LIMIT).await.unwrap_err();
    assert_eq!(
        failure.result(),
        "garbage",
        "an answer that breaks off: {failure}"
    );
    bird.join().unwrap();

    let nobody = Path::new("/nowhere/bird.ctl");
    let failure = ask_within(nobody, LIMIT).await.unwrap_err();
    assert_eq!(failure.result(), "absent", "{failure}");
}

#[test]
fn a_socket_may_say_of_which_node_it_is() {
    let read = |text: &str| text.parse::<BirdSocket>();
    let socket = read("n1=/run/bird.ctl").unwrap();
    assert_eq!(socket.node.as_deref(), Some("n1"));
    assert_eq!(socket.to_string(), "n1=/run/bird.ctl");
    assert_eq!(read("/run/bird.ctl").unwrap().node, None);
    for wrong in ["bird.ctl", "=/run/bird.ctl", "n1=bird.ctl", ""] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
