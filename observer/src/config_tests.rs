use clap::Parser;

use observer_core::config::ReachProbe;

use super::*;
use crate::cli::ConfigArgs;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: ConfigArgs,
}

fn flags(args: &[&str]) -> Settings {
    let all = std::iter::once("test").chain(args.iter().copied());
    Flags::try_parse_from(all).unwrap().config.settings
}

fn file(text: &str) -> Result<Settings> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    Settings::from_file(&path)
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = file(
        "node = \"from-file\"\nport = [1179]\nlog = \"debug\"\nforget_after = \"2d\"\n\
         metrics_listen = \"off\"\n",
    )
    .unwrap();
    let flags = flags(&["--node", "from-flag", "--log", "warn", "--netns", "a=b"]);
    let config = Config::from_settings(flags.over(file)).unwrap();
    assert_eq!(config.node.as_deref(), Some("from-flag"));
    assert_eq!(config.log, "warn");
    assert_eq!(config.ports(), [179, 1179]);
    assert_eq!(config.core().forget_after_secs, 2 * 86_400);
    assert_eq!(config.metrics_listen, Listen::Off);
    assert_eq!(config.api_listen.to_string(), "127.0.0.1:9743");
    assert_eq!(config.netns, ["a=b".parse().unwrap()]);
}

#[test]
fn a_listener_takes_brackets_around_any_address() {
    let parsed = |text: &str| text.parse::<Listen>().map(|listen| listen.to_string());
    assert_eq!(parsed("[10.0.0.1]:9742").unwrap(), "10.0.0.1:9742");
    assert_eq!(parsed("[fd00::1]:9742").unwrap(), "[fd00::1]:9742");
    for wrong in ["[10.0.0.1]", "[10.0.0.1:9742", "[]:9742", "10.0.0.1", "on"] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_own_namespace_is_observed_unless_only_others_are_named() {
    let node = |args: &[&str]| Config::from_settings(flags(args)).unwrap().node;
    assert_eq!(node(&[]), Some(host_name()));
    assert_eq!(node(&["--netns", "a"]), None);
    assert_eq!(node(&["--netns", "a", "--node", "n"]), Some("n".to_owned()));
}

#[test]
fn lists_are_split_as_in_the_environment() {
    let settings = flags(&["--port", "1179,2179", "--port", "179", "--netns", "a,b=c"]);
    let config = Config::from_settings(settings).unwrap();
    assert_eq!(config.ports(), [179, 1179, 2179]);
    assert_eq!(config.netns.len(), 2);
}

#[test]
fn routes_to_follow_are_named_once_each_and_none_is_all() {
    let config = |args: &[&str]| Config::from_settings(flags(args)).unwrap();
    let followed = config(&["--route-protocol", "felix,12", "--route-protocol", "bird"]);
    assert_eq!(followed.followed_routes().protocols, [12, 80]);
    assert!(!followed.core().all_routes);
    let tables = config(&["--route-table", "1000,254"]).followed_routes();
    assert_eq!(
        (tables.protocols.len(), tables.tables),
        (0, vec![254, 1_000])
    );
    assert!(config(&[]).core().all_routes);
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    for args in [
        vec![],
        vec![
            "--netns",
            "x=y",
            "--node",
            "n",
            "--port",
            "1179",
            "--route-protocol",
            "bird,77",
            "--route-table",
            "254",
            "--inventory",
            "/i.toml",
            "--forget-after",
            "90m",
            "--api-listen",
            "off",
            "--log-format",
            "json",
        ],
    ] {
        let config = Config::from_settings(flags(&args)).unwrap();
        let again = Config::from_settings(file(&config.to_toml().unwrap()).unwrap()).unwrap();
        assert_eq!(again, config);
    }
}

#[test]
fn errors_of_the_file_name_file_line_and_key() {
    for (text, parts) in [
        ("nod = \"x\"\n", ["agent.toml", "line 1", "nod"]),
        ("\nport = [70000]\n", ["agent.toml", "line 2", "70000"]),
        ("api_listen = \"9743\"\n", ["agent.toml", "line 1", "9743"]),
        (
            "forget_after = \"soon\"\n",
            ["agent.toml", "line 1", "soon"],
        ),
        ("netns = [\"a/b\"]\n", ["agent.toml", "line 1", "a/b"]),
        (
            "route_protocol = [\"brid\"]\n",
            ["agent.toml", "line 1", "brid"],
        ),
        ("log_format = \"xml\"\n", ["agent.toml", "line 1", "xml"]),
        ("node = \n", ["agent.toml", "line 1", "node"]),
    ] {
        let error = file(text).unwrap_err();
        assert!(error.is::<BadUsage>(), "{error}");
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{error}\ndoes not name {part}");
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    for (args, parts) in [
        (vec!["--port", "0"], ["--port", "between 1 and 65535"]),
        (vec!["--port", "1,2,3,4,5,6,7,8"], ["--port", "at most 7"]),
        (vec!["--route-table", "0"], ["--route-table", "254"]),
        (
            vec!["--route-table", "1,2,3,4,5,6,7,8,9"],
            ["--route-table", "at most 8"],
        ),
        (vec!["--netns", "a,b=a"], ["--netns b=a", "already taken"]),
        (
            vec!["--node", "a", "--netns", "a"],
            ["--netns a", "already taken"],
        ),
        (
            vec!["--api-listen", "0.0.0.0:1"],
            ["--api-listen", "loopback"],
        ),
        (vec!["--tls-cert", "c"], ["--tls-cert", "--tls-key"]),
        (
            vec!["--tls-client-ca", "c"],
            ["--tls-client-ca", "--tls-cert"],
        ),
    ] {
        let error = Config::from_settings(flags(&args)).unwrap_err();
        assert!(error.is::<BadUsage>(), "{error}");
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{error}\ndoes not name {part}");
        }
    }
}

#[test]
fn spans_are_read_and_shown() {
    for (text, secs) in [
        ("24h", 86_400),
        ("7d", 604_800),
        ("1h 30m", 5_400),
        ("45s", 45),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.0.as_secs(), secs);
        assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
    }
    for text in ["", "soon", "-1h", "0s", "10ms", "24"] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
}

#[test]
fn changed_keys_are_named() {
    let config = |args: &[&str]| Config::from_settings(flags(args)).unwrap();
    let old = config(&["--node", "a"]);
    let new = config(&["--node", "a", "--btf", "/b", "--port", "1179"]);
    assert_eq!(old.differences(&new), ["btf", "port"]);
    assert!(old.differences(&old).is_empty());
}

#[test]
fn targets_are_asked_by_icmp_or_by_tcp_to_any_port_but_bgp_s() {
    let core = |args: &[&str]| Config::from_settings(flags(args)).map(|config| config.core());
    assert_eq!(core(&[]).unwrap().reach.probe, ReachProbe::Icmp);
    let tcp = core(&["--reach-probe", "tcp:8080"]).unwrap();
    assert_eq!(tcp.reach.probe, ReachProbe::Tcp(8080));
    let file = file("reach_probe = \"tcp:80\"\n").unwrap();
    let config = Config::from_settings(file).unwrap();
    assert_eq!(config.reach_probe.to_string(), "tcp:80");
    for bgp in [
        &["--reach-probe", "tcp:179"][..],
        &["--reach-probe", "tcp:1179", "--port", "1179"],
    ] {
        let refused = core(bgp).unwrap_err().to_string();
        assert!(refused.contains("BGP port"), "{refused}");
    }
    for wrong in ["tcp", "tcp:0", "tcp:65536", "udp:53", ""] {
        let all = ["test", "--reach-probe", wrong];
        assert!(Flags::try_parse_from(all).is_err(), "{wrong}");
    }
}
