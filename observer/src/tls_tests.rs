use std::fs;

use axum::{Router, routing::get};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{config::Settings, server};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, PEM.
fn leaf(by: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn config(dir: &Path, client_ca: bool) -> Config {
    let settings = Settings {
        tls_cert: Some(dir.join("cert.pem")),
        tls_key: Some(dir.join("key.pem")),
        tls_client_ca: client_ca.then(|| dir.join("ca.pem")),
        ..Settings::default()
    };
    Config::from_settings(settings).unwrap()
}

/// What a client that trusts `ca` and shows `identity` is answered.
async fn ask(
    port: u16,
    ca: &Authority,
    identity: Option<(String, String)>,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let client = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_clients_of_the_named_authority_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let (certificate, key) = leaf(&ca);
    fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    fs::write(dir.path().join("key.pem"), key).unwrap();
    fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    for (client_ca, identity, answered) in [
        (false, None, true),
        (true, None, false),
        (true, Some(leaf(&other)), false),
        (true, Some(leaf(&ca)), true),
    ] {
        let acceptor = acceptor(&config(dir.path(), client_ca)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().route("/", get(|| async { "secret" }));
        tokio::spawn(server::serve(listener, acceptor, routes));
        let answer = ask(port, &ca, identity.clone()).await;
        let got = answer.as_ref().is_ok_and(|text| text.ends_with("secret"));
        assert_eq!(
            got,
            answered,
            "{client_ca} {}: {answer:?}",
            identity.is_some()
        );
    }
}

#[test]
fn files_that_make_no_sense_are_named_with_their_option() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let (certificate, key) = leaf(&ca);
    for (name, bad, option) in [
        ("cert.pem", Some("junk"), "--tls-cert"),
        ("cert.pem", None, "--tls-cert"),
        ("key.pem", Some("junk"), "--tls-key"),
        ("ca.pem", Some(""), "--tls-client-ca"),
    ] {
        fs::write(dir.path().join("cert.pem"), &certificate).unwrap();
        fs::write(dir.path().join("key.pem"), &key).unwrap();
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        match bad {
            Some(text) => fs::write(dir.path().join(name), text).unwrap(),
            None => fs::remove_file(dir.path().join(name)).unwrap(),
        }
        let error = acceptor(&config(dir.path(), true)).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(option) && error.contains(name), "{error}");
    }
}
