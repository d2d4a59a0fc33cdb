//! The commands about snapshots against a real HTTP server with a stand-in behind it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests have threads, clocks and sockets")]

mod stand_in;

use acre::control::ControlPlane;
use acre::http::Limits;
use serde_json::Value;
use stand_in::Server;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// A server with two volumes, and how to ask it.
struct Place {
    server: Server,
    api: String,
}

impl Place {
    fn new() -> Self {
        let server = Server::start(Limits::default());
        let place = Self { api: server.unix(), server };
        for line in ["pool create default", "volume create web 1G", "volume create db 2G"] {
            place.run(line);
        }
        place
    }

    fn say(&self, line: &str) -> (u8, String, String) {
        let arguments: Vec<&str> = ["acre", "--api", &self.api].into_iter().chain(line.split(' ')).collect();
        let (mut out, mut complaint) = (Vec::new(), Vec::new());
        let code = acre::cli::run(arguments, &mut out, &mut complaint);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (code, text(out), text(complaint))
    }

    /// Runs a command that must succeed.
    fn run(&self, line: &str) -> String {
        let (code, out, complaint) = self.say(line);
        assert_eq!((code, complaint.as_str()), (0, ""), "{line}");
        out
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --output json"))).expect("JSON")
    }

    /// Runs a command that must fail, and gives its exit code and its complaint.
    fn refused(&self, line: &str) -> (u8, String) {
        let (code, out, complaint) = self.say(line);
        assert_ne!(code, 0, "{line}: {out}");
        (code, complaint)
    }

    /// The status and the body of a raw request.
    fn http(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut stream = UnixStream::connect(self.server.folder.path().join("api.sock")).expect("it listens");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).unwrap_or("nothing").into(), body.into())
    }
}

#[test]
fn snapshots_are_taken_listed_shown_renamed_and_deleted() {
    let place = Place::new();
    place.server.stand_in.write("web", 64 << 20);
    let before = acre::calendar::now_unix_seconds();
    let made = place.json("snapshot create web@mon db@mon");
    let times = [&made[0], &made[1]].map(|made| made["created_unix_seconds"].as_u64().unwrap());
    assert!(times[0] == times[1] && times[0] >= before && times[0] <= before + 30, "the server's clock says when");
    assert_eq!(made[0]["scheduled"], false);
    let list = place.run("snapshot list");
    assert!(list.starts_with("SNAPSHOT") && list.contains(&acre::calendar::iso(times[0])), "{list}");
    assert!(list.contains("web@mon") && list.contains("db@mon") && list.contains("64 MiB"), "{list}");
    assert_eq!(place.json("snapshot list db").as_array().map(Vec::len), Some(1));
    let shown = place.run("snapshot show web@mon");
    assert!(shown.contains("an operator") && shown.contains("size          1 GiB"), "{shown}");
    assert_eq!(place.json("snapshot rename web@mon tue")["name"], "web@tue");
    assert_eq!(place.json("snapshot rename web@tue web@wed")["name"], "web@wed");
    assert_eq!(place.refused("snapshot rename web@wed db@wed").0, 2);
    assert!(place.run("volume list").contains("SNAPSHOTS"));
    assert_eq!(place.run("snapshot delete web@wed db@mon"), "deleted web@wed\ndeleted db@mon\n");
    assert_eq!(place.json("snapshot list").as_array().map(Vec::len), Some(0));
}

#[test]
fn of_several_deletions_those_that_can_be_done_are_and_all_that_failed_is_told() {
    let place = Place::new();
    place.run("snapshot create web@a db@a");
    place.server.stand_in.attach("web@a");
    let (code, out, complaint) = place.say("snapshot delete web@a web@none db@a");
    assert_eq!((code, out.as_str()), (5, "deleted db@a\n"));
    assert_eq!(complaint.lines().count(), 2, "{complaint}");
    assert!(
        complaint.contains("acre: web@a is attached") && complaint.contains("acre: there is no snapshot \"web@none\"")
    );
    assert_eq!(place.run("snapshot delete web@a --force --output json"), "");
}

#[test]
fn clones_are_made_and_flattened_whatever_they_are_called() {
    let place = Place::new();
    place.server.stand_in.write("web", 64 << 20);
    place.run("snapshot create web@mon");
    assert_eq!(place.json("clone web@mon test")["origin"], "web@mon");
    let shown = place.run("volume show test");
    assert!(
        shown.contains("origin        web@mon\n") && shown.contains("64 MiB of it with what it began from"),
        "{shown}"
    );
    assert_eq!(place.json("clone web@mon flatten")["name"], "flatten");
    let flattened: Value = serde_json::from_str(&place.run("clone --output json flatten flatten")).expect("JSON");
    assert_eq!(flattened["flattening_percent"], 0);
    assert!(place.run("volume show flatten").contains("web@mon, being cut loose: 0%"));
    let cancelled: Value =
        serde_json::from_str(&place.run("clone --output json flatten --cancel flatten")).expect("JSON");
    assert!(cancelled["flattening_percent"].is_null());
    assert!(place.refused("clone flatten --cancel flatten").1.contains("not being flattened"));
    assert!(place.refused("clone web@mon test2 --cancel").1.contains("acre clone flatten --cancel"));
    place.run("snapshot create flatten@mon");
    assert_eq!(place.json("clone flatten@mon again")["origin"], "flatten@mon");
    assert_eq!(place.refused("clone flatten web").0, 2);
    assert!(place.run("snapshot show web@mon").contains("test flatten"));
    assert!(place.refused("clone web test2").1.contains("an '@' and the snapshot's name"));
    assert_eq!(place.refused("clone web@mon a@b").0, 2);
}

#[test]
fn a_volume_is_rolled_back_and_deleted_with_its_snapshots_only_when_that_is_said() {
    let place = Place::new();
    place.run("snapshot create web@mon db@mon");
    assert_eq!(place.json("volume rollback db@mon")["origin"], "db@mon");
    place.server.stand_in.write("web", 1 << 20);
    assert_eq!(place.refused("volume rollback web@mon").0, 5);
    place.run("volume rollback web@mon --force");
    assert_eq!(place.refused("volume rollback web@tue --force").0, 3);
    let (code, complaint) = place.refused("volume delete web --force");
    assert!(code == 9 && complaint.contains("--snapshots"), "{complaint}");
    assert_eq!(place.run("volume delete web --snapshots --force"), "deleted\n");
    assert_eq!(place.json("snapshot list").as_array().map(Vec::len), Some(1));
}

#[test]
fn a_diff_is_fetched_to_its_end_and_what_was_cut_between_answers_is_one_again() {
    let place = Place::new();
    place.run("snapshot create web@mon web@tue");
    let diff = place.json("diff web@mon web@tue");
    assert_eq!(diff["ranges"].as_array().map(Vec::len), Some(9));
    assert_eq!(
        (diff["ranges"][1]["offset_bytes"].as_u64(), diff["ranges"][1]["length_bytes"].as_u64()),
        (Some(8192), Some(8192))
    );
    assert_eq!((diff["data_bytes"].as_u64(), diff["zero_bytes"].as_u64()), (Some(9 * 4096), Some(4096)));
    assert!(diff["next_offset_bytes"].is_null());
    let table = place.run("diff web@mon web");
    assert!(table.contains("web compared with web@mon: 9 ranges, 36 KiB of data and 4 KiB of zeroes\n"), "{table}");
    let table = place.run("diff web@mon web --limit 2");
    assert!(table.contains("… more from --offset 12288 on\n"), "{table}");
    assert_eq!(place.json("diff web@mon web --offset 64k")["ranges"].as_array().map(Vec::len), Some(2));
    assert!(place.json("diff --full web@tue")["from"].is_null());
    assert!(place.refused("diff web@mon").1.contains("--full"));
    assert_eq!(place.refused("diff web web@mon").0, 2);
    assert_eq!(place.refused("diff web@mon web@tue --full").0, 2);
    assert_eq!(place.refused("diff web@none web").0, 3);
}

#[test]
fn schedules_are_set_shown_listed_and_taken_away() {
    let place = Place::new();
    let (code, complaint) = place.refused("snapshot schedule web");
    assert!(code == 3 && complaint.contains("--every 1h"), "{complaint}");
    assert!(place.refused("snapshot schedule none").1.contains("there is no volume"));
    let set = place.json("snapshot schedule web --every 15m --keep 24h:all,7d:hourly,90d:daily");
    assert_eq!((set["every_seconds"].as_u64(), set["keep"][2]["each_seconds"].as_u64()), (Some(900), Some(86_400)));
    place.run("snapshot schedule db --every 1h --keep 2w:6h");
    assert_eq!(place.run("snapshot schedule web"), "volume  web\nevery   15m\nkeep    1d:all,7d:hourly,90d:daily\n");
    let list = place.run("snapshot schedules");
    assert!(list.starts_with("VOLUME") && list.contains("14d:6h"), "{list}");
    assert_eq!(place.json("snapshot schedules").as_array().map(Vec::len), Some(2));
    assert!(place.run("snapshot schedule web --off").contains("those there are stay"));
    assert_eq!(place.refused("snapshot schedule web").0, 3);
    for wrong in
        ["--every 15m", "--keep 1d:all", "--every 30s --keep 1d:all", "--every 1h --keep 1d", "--off --every 1h"]
    {
        assert_eq!(place.refused(&format!("snapshot schedule web {wrong}")).0, 2, "{wrong}");
    }
}

#[test]
fn over_http_a_snapshot_is_named_with_a_plain_or_an_encoded_at() {
    let place = Place::new();
    assert_eq!(place.http("POST", "/v1/snapshots", r#"{"snapshots":["web@mon","db@mon"]}"#).0, "201");
    for path in ["/v1/snapshots/web@mon", "/v1/snapshots/web%40mon"] {
        let (status, body) = place.http("GET", path, "");
        assert!(status == "200" && body.contains("\"name\":\"web@mon\""), "{path}: {body}");
    }
    let count = |path: &str| place.http("GET", path, "").1.matches("\"id\":").count();
    assert_eq!((count("/v1/snapshots"), count("/v1/snapshots?volume=db")), (2, 1));
    assert_eq!(place.http("GET", "/v1/diff?from=web@mon&to=web&limit=1", "").0, "200");
    let cases = [
        ("GET", "/v1/snapshots/web", "", "400"),
        ("GET", "/v1/snapshots/web@tue", "", "404"),
        ("GET", "/v1/snapshots?pool=a", "", "400"),
        ("GET", "/v1/diff", "", "400"),
        ("POST", "/v1/snapshots", r#"{"snapshots":["web@mon"]}"#, "409"),
        ("POST", "/v1/snapshots", r#"{"snapshots":["web@x"],"scheduled":true}"#, "400"),
        ("PUT", "/v1/volumes/web/schedule", r#"{"every_seconds":60,"keep":[]}"#, "400"),
        ("POST", "/v1/clones", r#"{"snapshot":"web@mon","name":"new"}"#, "201"),
        ("POST", "/v1/volumes/new/flatten", "", "200"),
        ("DELETE", "/v1/volumes/new/flatten", "", "200"),
        ("DELETE", "/v1/volumes/new/flatten", "", "400"),
        ("POST", "/v1/volumes/web/rollback", r#"{"snapshot":"mon"}"#, "200"),
        ("POST", "/v1/snapshots/web@mon/rename", r#"{"new_name":"tue"}"#, "200"),
        ("DELETE", "/v1/snapshots/web%40tue?force=true", "", "204"),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = place.http(method, path, body);
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }
}

#[test]
fn as_many_snapshots_with_names_as_long_as_there_may_be_fit_into_one_request() {
    let place = Place::new();
    let names: Vec<String> = (0..256).map(|index| format!("none@{index:0>250}")).collect();
    let body = format!("{{\"snapshots\":[\"{}\"]}}", names.join("\",\""));
    let (status, answer) = place.http("POST", "/v1/snapshots", &body);
    assert_eq!(status, "404", "{answer}");
}

#[test]
fn a_schedule_is_kept_to_until_the_server_leaves() {
    let place = Place::new();
    place.run("snapshot schedule web --every 1h --keep 1d:all");
    let control = Arc::clone(&place.server.stand_in) as Arc<dyn ControlPlane>;
    let (leave, leaving) = tokio::sync::watch::channel(false);
    let keeper = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(acre::schedule::keep(control, Arc::new(AtomicU64::new(0)), leaving));
    });
    let wait = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let list = place.json("snapshot list web");
            let list = list.as_array().cloned().unwrap_or_default();
            if list.len() >= count {
                return list;
            }
            assert!(Instant::now() < deadline, "{list:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let first = wait(1);
    assert!(first[0]["name"].as_str().is_some_and(|name| name.starts_with("web@auto-")), "{first:?}");
    assert_eq!(first[0]["scheduled"], true);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(wait(1).len(), 1, "one, and not one a second");
    leave.send_replace(true);
    keeper.join().expect("it leaves");
}
