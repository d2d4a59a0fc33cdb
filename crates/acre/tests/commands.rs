//! Every operator's command against a real HTTP server with a stand-in behind it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests have threads and sockets")]

mod stand_in;

use acre::http::Limits;
use serde_json::Value;
use stand_in::{Server, TOKEN};

/// What a command said.
struct Said {
    code: u8,
    out: String,
    complaint: String,
}

fn acre(arguments: &[&str]) -> Said {
    let (mut out, mut complaint) = (Vec::new(), Vec::new());
    let code = acre::cli::run([&["acre"], arguments].concat(), &mut out, &mut complaint);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code, out: text(out), complaint: text(complaint) }
}

/// A server and its address.
fn server() -> (Server, String) {
    let server = Server::start(Limits::default());
    let address = server.unix();
    (server, address)
}

/// Runs a command that must succeed.
fn run(api: &str, line: &str) -> String {
    let arguments: Vec<&str> = ["--api", api].into_iter().chain(line.split(' ')).collect();
    let said = acre(&arguments);
    assert_eq!(said.code, 0, "{line}: {}", said.complaint);
    assert_eq!(said.complaint, "", "{line}");
    said.out
}

/// The same, as JSON.
fn json(api: &str, line: &str) -> Value {
    serde_json::from_str(&run(api, &format!("{line} --output json"))).expect("JSON")
}

/// Runs a command that must fail, and gives its exit code and its complaint.
fn refused(api: &str, line: &str) -> (u8, String) {
    let arguments: Vec<&str> = ["--api", api].into_iter().chain(line.split(' ')).collect();
    let said = acre(&arguments);
    assert_ne!(said.code, 0, "{line}");
    assert_eq!(said.out, "", "{line}");
    (said.code, said.complaint)
}

#[test]
fn pools_are_made_listed_shown_and_deleted() {
    let (_server, api) = server();
    let made = json(&api, "pool create fast --warn 8G --limit 9.5G --growth 512M");
    assert_eq!(made["warn_bytes"], 8_u64 << 30);
    assert_eq!(made["limit_bytes"], 19_u64 << 29);
    assert_eq!(made["growth_bytes"], 512 << 20);
    assert_eq!(made["raid"], "raid0");
    let list = run(&api, "pool list");
    assert!(list.starts_with("POOL"), "{list}");
    assert!(list.contains("fast") && list.contains("10 GiB") && list.contains("10%"), "{list}");
    assert_eq!(json(&api, "pool list").as_array().map(Vec::len), Some(1));
    assert!(run(&api, "pool show fast").contains("warn above     8 GiB"));
    assert_eq!(refused(&api, "pool create fast").0, 4);
    assert_eq!(run(&api, "pool delete fast"), "deleted\n");
    assert_eq!(refused(&api, "pool show fast"), (3, "acre: there is no pool \"fast\"\n".into()));
}

#[test]
fn disks_are_added_listed_and_shown_and_what_is_not_ours_needs_force() {
    let (_server, api) = server();
    let added = json(&api, "disk add /disks/a:10G");
    assert_eq!((added["path"].as_str(), added["size_bytes"].as_u64()), (Some("/disks/a"), Some(10 << 30)));
    assert_eq!(added["pool"], "default");
    let (code, complaint) = refused(&api, "disk add /disks/foreign");
    assert_eq!(code, 9);
    assert!(complaint.contains("--force"), "{complaint}");
    run(&api, "disk add /disks/foreign --force --pool other");
    assert!(run(&api, "disk list").contains("disk-2"));
    assert_eq!(json(&api, "disk list --pool other").as_array().map(Vec::len), Some(1));
    assert!(run(&api, "disk show disk-1").contains("reads      5"));
    assert_eq!(json(&api, "disk show 2")["counters"]["reads"], 5);
    assert_eq!(refused(&api, "disk show 9").0, 3);
    assert_eq!(refused(&api, "disk show nine").0, 2);
}

#[test]
fn volumes_go_through_their_whole_life() {
    let (server, api) = server();
    run(&api, "pool create default");
    let made = json(&api, "volume create vm-1 1.5T --region-size 16k --warn 1G --limit 2G");
    assert_eq!((made["size_bytes"].as_u64(), made["region_bytes"].as_u64()), (Some(3 << 39), Some(16 << 10)));
    assert_eq!(made["used_bytes"], 0);
    let set = json(&api, "volume set vm-1 --limit none --read-only true");
    assert_eq!((set["limit_bytes"].is_null(), set["read_only"].as_bool()), (true, Some(true)));
    assert_eq!(set["warn_bytes"], 1 << 30);
    assert_eq!(json(&api, "volume resize vm-1 2T")["size_bytes"], 2_u64 << 40);
    let (code, complaint) = refused(&api, "volume resize vm-1 1G");
    assert_eq!(code, 9);
    assert!(complaint.contains("--shrink"), "{complaint}");
    assert_eq!(json(&api, "volume resize vm-1 1G --shrink")["size_bytes"], 1 << 30);
    assert_eq!(json(&api, "volume rename vm-1 web")["name"], "web");
    assert_eq!(refused(&api, "volume show vm-1").0, 3);
    server.stand_in.write("web", 64 << 20);
    let list = run(&api, "volume list --pool default");
    assert!(list.contains("web") && list.contains("64 MiB") && list.contains("6%"), "{list}");
    assert!(run(&api, "volume show web").contains("attached     agent-0"));
    let (code, complaint) = refused(&api, "volume delete web");
    assert_eq!(code, 5);
    assert!(complaint.contains("--force"), "{complaint}");
    assert_eq!(run(&api, "volume delete web --force --output json"), "");
    assert_eq!(json(&api, "volume list").as_array().map(Vec::len), Some(0));
}

#[test]
fn a_map_is_fetched_until_there_is_as_much_as_was_wanted() {
    let (_server, api) = server();
    run(&api, "pool create default");
    run(&api, "volume create a 1G");
    let extents = |line: &str| json(&api, line)["extents"].as_array().map(Vec::len);
    assert_eq!(extents("volume map a"), Some(10));
    assert_eq!(extents("volume map a --all"), Some(10));
    assert_eq!(extents("volume map a --limit 3"), Some(3));
    assert_eq!(extents("volume map a --offset 512k"), Some(2));
    let table = run(&api, "volume map a --limit 2");
    assert!(table.contains("disk-1+1048576"), "{table}");
    assert!(table.contains("more from --offset 131072 on"), "{table}");
    assert!(table.contains("5 regions of 64 KiB mapped (320 KiB) in 5 extents, fragmentation 0.250"), "{table}");
}

#[test]
fn status_and_audit_are_shown_and_an_audit_that_finds_something_fails() {
    let (server, api) = server();
    run(&api, "pool create default");
    let status = run(&api, "status");
    assert!(status.contains("127.0.0.1:10809") && status.contains("1 h 1 min"), "{status}");
    assert_eq!(json(&api, "status")["pools"][0]["name"], "default");
    assert!(run(&api, "audit").contains("clean: every region has one owner"));
    server.stand_in.damage();
    let said = acre(&["audit", "--api", &api]);
    assert_eq!(said.code, 10);
    assert!(said.out.contains("NOT CLEAN") && said.out.contains("owned by volume-1 and by volume-2"), "{}", said.out);
    let said = acre(&["audit", "--api", &api, "--output", "json"]);
    assert_eq!(said.code, 10);
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()["double_units"], 4);
}

#[test]
fn what_makes_no_sense_is_refused_before_or_by_the_server_with_the_way_out() {
    let (_server, api) = server();
    run(&api, "pool create default");
    for line in ["volume create a", "volume create a 1X", "volume set a", "pool", "volume map a --limit 0", "frob"] {
        assert_eq!(refused(&api, line).0, 2, "{line}");
    }
    let (code, complaint) = refused(&api, "volume create a/b 1G");
    assert_eq!(code, 2);
    assert!(complaint.contains("letters, digits"), "{complaint}");
    assert!(refused(&api, "volume create a 1X").1.contains("1.5T"));
    assert_eq!(refused(&api, "volume show a/../../pools").0, 3);
    assert_eq!(refused(&api, "volume create a 1G --pool none").0, 3);
}

#[test]
fn over_tcp_the_token_is_asked_for() {
    let (server, _) = server();
    let said = acre(&["--api", &server.tcp, "--token", "wrong", "pool", "list"]);
    assert_eq!(said.code, 8);
    assert!(said.complaint.contains("api-token"), "{}", said.complaint);
    let said = acre(&["--api", &server.tcp, "--token", TOKEN, "pool", "list", "--output", "json"]);
    assert_eq!((said.code, said.out.as_str()), (0, "[]\n"));
}

#[test]
fn a_server_that_is_not_there_is_said_so_with_the_way_to_start_one() {
    for nowhere in ["unix:/nowhere/api.sock", "127.0.0.1:1"] {
        let said = acre(&["--api", nowhere, "--token", "any", "status"]);
        assert_eq!(said.code, 7);
        assert!(said.complaint.contains(nowhere) && said.complaint.contains("acre serve"), "{}", said.complaint);
    }
    let said = acre(&["--api", "nonsense", "status"]);
    assert_eq!(said.code, 2);
}

#[test]
fn completions_help_and_the_openapi_document_need_no_server() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(acre(&["completions", shell]).out.contains("volume"));
    }
    let help = acre(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes"), "{}", help.out);
    assert!(serde_json::from_str::<Value>(&acre(&["openapi"]).out).unwrap()["paths"].is_object());
}
