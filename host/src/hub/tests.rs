//! The promises of downloads and uploads, against a server on this machine that plays the hub.

mod server;

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::server::{Ask, Reply, Server};
use super::*;
use crate::checksum;
use crate::exit::Status;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const ALL: Wanted<'static> = Wanted::Model { weights: true };

fn weights() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("pytorch_model.bin", b"a pickle".to_vec()),
        ("model.safetensors", weights()),
    ]
}

fn sha256(bytes: &[u8]) -> String {
    checksum::hexadecimal(&Sha256::digest(bytes))
}

fn of_git(bytes: &[u8]) -> String {
    let mut digest = sha1::Sha1::new();
    digest.update(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    checksum::hexadecimal(&digest.finalize())
}

/// A well hub: a listing, small files by git's names, large ones elsewhere.
fn well(ask: &Ask) -> Reply {
    at_commit(ask, COMMIT)
}

fn at_commit(ask: &Ask, commit: &str) -> Reply {
    let path = ask.path.as_str();
    if path.starts_with("/api/models/org/small/revision/") {
        let siblings: Vec<_> = files().iter().map(|(name, _)| json!({ "rfilename": name })).collect();
        return Reply::json(json!({ "sha": commit, "siblings": siblings }));
    }
    let file = path.strip_prefix(&format!("/org/small/resolve/{commit}/"));
    if let Some((name, bytes)) = file.and_then(|file| files().into_iter().find(|(name, _)| *name == file)) {
        if name == "model.safetensors" {
            return Reply::of(302)
                .header("location", format!("http://localhost:{}/storage/{name}", ask.port))
                .header("x-linked-etag", format!("\"{}\"", sha256(&bytes)))
                .header("x-linked-size", bytes.len());
        }
        return Reply::body(ask, &bytes).header("etag", format!("\"{}\"", of_git(&bytes)));
    }
    if let Some((_, bytes)) =
        path.strip_prefix("/storage/").and_then(|file| files().into_iter().find(|(name, _)| *name == file))
    {
        return Reply::body(ask, &bytes);
    }
    Reply::of(404).header("x-error-code", "RepoNotFound")
}

fn environment(server: &Server, cache: &Path) -> Environment {
    Environment {
        endpoint: server.address.clone(),
        cache: cache.to_owned(),
        token: Some("secret".to_owned()),
        offline: false,
        patience: Duration::from_millis(400),
        pause: Duration::from_millis(20),
    }
}

fn repository(environment: Environment) -> Repository {
    Repository::new(environment, Kind::Model, "org/small", None).unwrap()
}

fn download(server: &Server, cache: &Path) -> Result<std::path::PathBuf, Failure> {
    super::download::snapshot(&repository(environment(server, cache)), &ALL, &|| false)
}

/// Checks that a snapshot has the files of the hub, whole.
fn assert_whole(snapshot: &Path) {
    for (name, bytes) in files().iter().filter(|(name, _)| *name != "pytorch_model.bin") {
        assert!(fs::read(snapshot.join(name)).unwrap() == *bytes, "{name}");
    }
    assert!(!snapshot.join("pytorch_model.bin").exists(), "what is not needed is not downloaded");
}

/// Checks that nothing is used of what came, and that what is in the cache is whole or called incomplete.
fn assert_nothing_used(cache: &Path, environment: Environment) {
    assert_eq!(repository(environment).cached(&ALL).unwrap(), None);
    let blobs = cache.join("models--org--small/blobs");
    for blob in fs::read_dir(blobs).into_iter().flatten().flatten() {
        let (name, bytes) = (blob.file_name().into_string().unwrap(), fs::read(blob.path()).unwrap());
        assert!(name.ends_with(".incomplete") || [sha256(&bytes), of_git(&bytes)].contains(&name), "{name}");
    }
}

#[test]
fn a_download_is_in_the_cache_as_huggingface_hub_has_it_and_is_made_once() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(well);
    let snapshot = download(&server, cache.path()).unwrap();
    assert_whole(&snapshot);
    let place = cache.path().join("models--org--small");
    assert_eq!(snapshot, place.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(place.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(
        fs::read_link(snapshot.join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(sha256(&weights()))
    );
    // The storage is another host, and never sees the token.
    assert!(server.asked().iter().any(|ask| ask.path.starts_with("/storage/")));
    for ask in server.asked() {
        assert_eq!(ask.header("authorization").is_some(), !ask.path.starts_with("/storage/"), "{}", ask.path);
    }
    let before = server.asked().len();
    assert_eq!(download(&server, cache.path()).unwrap(), snapshot);
    assert_eq!(server.asked().len(), before, "what is there is used without a question");
    let offline = Environment { offline: true, ..environment(&server, cache.path()) };
    assert_eq!(super::download::snapshot(&repository(offline), &ALL, &|| false).unwrap(), snapshot);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let cache = tempfile::tempdir().unwrap();
    let times = AtomicUsize::new(0);
    let server = Server::start(move |ask| match ask.path.as_str() {
        "/storage/model.safetensors" if times.fetch_add(1, Ordering::Relaxed) < 3 => well(ask).cut(400_000),
        _ => well(ask),
    });
    assert_whole(&download(&server, cache.path()).unwrap());
    let ranges: Vec<_> = server.asked().iter().filter_map(|ask| ask.header("range")).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges.iter().all(|range| range != "bytes=0-"), "{ranges:?}");
}

#[test]
fn a_storage_that_knows_no_ranges_is_read_from_the_beginning() {
    let cache = tempfile::tempdir().unwrap();
    let times = AtomicUsize::new(0);
    let server = Server::start(move |ask| match ask.path.as_str() {
        "/storage/model.safetensors" if times.fetch_add(1, Ordering::Relaxed) < 1 => well(ask).cut(400_000),
        "/storage/model.safetensors" => Reply::of(200).bytes(&weights()),
        _ => well(ask),
    });
    assert_whole(&download(&server, cache.path()).unwrap());
}

#[test]
fn a_download_that_is_stopped_is_gone_on_with_by_the_next_process() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|ask| match ask.path.as_str() {
        "/storage/model.safetensors" if ask.header("range").is_none() => well(ask).slow(100_000),
        _ => well(ask),
    });
    let repository = repository(environment(&server, cache.path()));
    let incomplete = repository.blob(&format!("{}.incomplete", sha256(&weights())));
    let enough = || fs::metadata(&incomplete).is_ok_and(|file| file.len() > 200_000);
    let failure = super::download::snapshot(&repository, &ALL, &enough).unwrap_err();
    assert_eq!(failure.status(), Status::Interrupted);
    assert_nothing_used(cache.path(), environment(&server, cache.path()));
    let have = fs::metadata(&incomplete).unwrap().len();
    assert_whole(&download(&server, cache.path()).unwrap());
    let ranges: Vec<_> = server.asked().iter().filter_map(|ask| ask.header("range")).collect();
    assert_eq!(ranges, [format!("bytes={have}-")]);
}

#[test]
fn what_has_another_checksum_is_never_used() {
    let cache = tempfile::tempdir().unwrap();
    let wrong = || {
        let mut bytes = weights();
        bytes[100_000] ^= 1;
        bytes
    };
    let times = AtomicUsize::new(0);
    let server = Server::start(move |ask| match ask.path.as_str() {
        "/storage/model.safetensors" if times.fetch_add(1, Ordering::Relaxed) < 2 => Reply::of(200).bytes(&wrong()),
        _ => well(ask),
    });
    let failure = download(&server, cache.path()).unwrap_err();
    assert_eq!(failure.status(), Status::Input);
    assert!(failure.to_string().contains("what the hub sent is damaged"), "{failure}");
    assert_nothing_used(cache.path(), environment(&server, cache.path()));
    assert_whole(&download(&server, cache.path()).unwrap());
}

#[test]
fn each_refusal_is_one_error_that_says_what_to_do() {
    let refusals: [(u16, &str, &str, &[&str]); 6] = [
        (401, "", "no such repository", &["HF_TOKEN"]),
        (401, "GatedRepo", "gated", &["accept its conditions at", "as the user of your token"]),
        (403, "GatedRepo", "gated", &["accept its conditions at"]),
        (403, "", "may not do this", &["more rights"]),
        (404, "RepoNotFound", "no such repository", &["check the name"]),
        (404, "RevisionNotFound", "no revision \"main\"", &["model.revision"]),
    ];
    for (status, code, says, help) in refusals {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| Reply::of(status).header("x-error-code", code));
        let failure = download(&server, cache.path()).unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.status(), Status::Input, "{text}");
        assert!(text.contains(says) && help.iter().all(|help| text.contains(help)), "{status} {code}: {text}");
        assert_eq!(server.asked().len(), 1, "a refusal is not asked again");
        assert!(!text.contains("secret"), "{text}");
        assert_nothing_used(cache.path(), environment(&server, cache.path()));
    }
    // Without a token the first thing to try is one.
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::of(401).header("x-error-code", "GatedRepo"));
    let nobody = Environment { token: None, ..environment(&server, cache.path()) };
    let failure = super::download::snapshot(&repository(nobody), &ALL, &|| false).unwrap_err();
    assert!(failure.to_string().contains("set HF_TOKEN to a token of yours"), "{failure}");
}

#[test]
fn a_busy_or_faulty_hub_is_asked_again_after_the_pause_that_it_asks_for() {
    for (status, header) in [(429, Some("1")), (500, None), (503, None)] {
        let cache = tempfile::tempdir().unwrap();
        let times = AtomicUsize::new(0);
        let server = Server::start(move |ask| match times.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => header.into_iter().fold(Reply::of(status), |reply, pause| reply.header("retry-after", pause)),
            _ => well(ask),
        });
        let begin = Instant::now();
        assert_whole(&download(&server, cache.path()).unwrap());
        let asked_for: u64 = header.map_or(0, |pause| pause.parse().unwrap());
        assert!(begin.elapsed() >= Duration::from_secs(2 * asked_for), "{status}: {:?}", begin.elapsed());
    }
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::of(500));
    let text = download(&server, cache.path()).unwrap_err().to_string();
    assert!(text.contains("500 (a fault of the hub)") && text.contains("attempts"), "{text}");
}

#[test]
fn a_slow_link_is_waited_for_while_something_comes_and_a_dead_one_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|ask| match ask.path.as_str() {
        "/storage/model.safetensors" => well(ask).slow(100_000),
        _ => well(ask),
    });
    let begin = Instant::now();
    assert_whole(&download(&server, cache.path()).unwrap());
    assert!(begin.elapsed() > Duration::from_secs(1), "longer than the patience with silence");

    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|ask| match ask.path.as_str() {
        "/storage/model.safetensors" => well(ask).silent(),
        _ => well(ask),
    });
    let text = download(&server, cache.path()).unwrap_err().to_string();
    assert!(text.contains("a download does not get on") && text.contains("goes on from there"), "{text}");
    assert_nothing_used(cache.path(), environment(&server, cache.path()));
}

#[test]
fn a_revision_that_changes_during_a_download_mixes_nothing_and_the_cached_one_stays() {
    let cache = tempfile::tempdir().unwrap();
    let times = AtomicUsize::new(0);
    // After the first listing the branch is at another commit.
    let server = Server::start(move |ask| match ask.path.contains("/revision/") {
        true if times.fetch_add(1, Ordering::Relaxed) > 0 => at_commit(ask, LATER),
        _ => well(ask),
    });
    let first = download(&server, cache.path()).unwrap();
    assert!(first.ends_with(COMMIT));
    assert_eq!(download(&server, cache.path()).unwrap(), first, "a job goes on with what it began with");
    let server = Server::start(|ask| at_commit(ask, LATER));
    let named = Repository::new(environment(&server, cache.path()), Kind::Model, "org/small", Some(LATER)).unwrap();
    assert!(super::download::snapshot(&named, &ALL, &|| false).unwrap().ends_with(LATER));
    assert_eq!(fs::read_to_string(cache.path().join("models--org--small/refs/main")).unwrap(), COMMIT);
}

#[test]
fn offline_nothing_is_asked_and_what_is_missing_is_said() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(well);
    let offline = Environment { offline: true, ..environment(&server, cache.path()) };
    let text = super::download::snapshot(&repository(offline), &ALL, &|| false).unwrap_err().to_string();
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("models--org--small"), "{text}");
    assert!(server.asked().is_empty());
}

#[test]
fn processes_that_want_the_same_download_it_once() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|ask| match ask.path.as_str() {
        "/storage/model.safetensors" => well(ask).slow(300_000),
        _ => well(ask),
    });
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..4).map(|_| scope.spawn(|| download(&server, cache.path()).unwrap())).collect();
        ranks.into_iter().for_each(|rank| assert_whole(&rank.join().unwrap()));
    });
    let weights = server.asked().iter().filter(|ask| ask.path.starts_with("/storage/")).count();
    assert_eq!(weights, 1);
}

#[test]
fn names_that_are_none_and_files_outside_of_the_cache_are_refused() {
    for name in ["small", "org/small/more", "../up", "org/..", "org/a--b", "", "/org", "org/", "a b/c"] {
        assert!(!is_name(name), "{name}");
    }
    assert!(is_name("org/small-1.5B_chat"));
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_| {
        Reply::json(json!({ "sha": COMMIT, "siblings": [{ "rfilename": "additional_chat_templates/../../../../x" }] }))
    });
    assert!(download(&server, cache.path()).is_err());
    assert!(!cache.path().join("x").exists());
}

#[test]
fn an_upload_is_one_commit_of_small_files_and_of_large_ones_that_were_sent_before() {
    let (cache, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(model.path().join("config.json"), "{}").unwrap();
    fs::write(model.path().join("model.safetensors"), weights()).unwrap();
    fs::write(model.path().join(".secret"), "mine").unwrap();
    let server = Server::start(|ask| {
        let address = format!("http://localhost:{}", ask.port);
        match (ask.method.as_str(), ask.path.as_str()) {
            ("GET", "/api/models/org/small") => Reply::of(404),
            ("GET", "/api/whoami-v2") => Reply::json(json!({ "name": "me" })),
            ("POST", "/api/repos/create") => Reply::json(json!({ "url": "there" })),
            ("POST", "/api/models/org/small/preupload/main") => Reply::json(json!({ "files": [
                { "path": "config.json", "uploadMode": "regular" }, { "path": "model.safetensors", "uploadMode": "lfs" },
            ] })),
            ("POST", "/org/small.git/info/lfs/objects/batch") => {
                let object = &serde_json::from_slice::<Value>(&ask.body).unwrap()["objects"][0];
                let part = |n: u32| format!("{address}/part/{n}");
                let header = json!({ "chunk_size": "700000", "1": part(1), "2": part(2) });
                let upload = json!({ "href": format!("{address}/complete"), "header": header });
                Reply::json(
                    json!({ "objects": [{ "oid": object["oid"], "size": object["size"], "actions": { "upload": upload } }] }),
                )
            }
            ("PUT", "/part/1" | "/part/2") => Reply::of(200).header("etag", format!("\"{}\"", ask.body.len())),
            ("POST", "/complete") => Reply::json(json!({})),
            ("POST", "/api/models/org/small/commit/main") => Reply::json(json!({ "commitUrl": "the/commit" })),
            _ => Reply::of(404),
        }
    });
    let repository = repository(environment(&server, cache.path()));
    assert_eq!(push(&repository, model.path(), true, "first", &|| false).unwrap(), "the/commit");
    let asked = server.asked();
    let body = |path: &str| asked.iter().find(|ask| ask.path == path).map(|ask| ask.body.clone()).unwrap();
    let created: Value = serde_json::from_slice(&body("/api/repos/create")).unwrap();
    assert_eq!(created, json!({ "name": "small", "type": "model", "private": true, "organization": "org" }));
    assert!([body("/part/1"), body("/part/2")].concat() == weights());
    let complete: Value = serde_json::from_slice(&body("/complete")).unwrap();
    assert_eq!(
        complete["parts"],
        json!([{ "partNumber": 1, "etag": "\"700000\"" }, { "partNumber": 2, "etag": "\"500000\"" }])
    );
    let commit = String::from_utf8(body("/api/models/org/small/commit/main")).unwrap();
    let lines: Vec<Value> = commit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["value"], json!({ "content": "e30=", "path": "config.json", "encoding": "base64" }));
    assert_eq!(lines[2]["value"]["oid"], sha256(&weights()));
    assert_eq!(lines.len(), 3, "hidden files stay here");
    let storage = asked.iter().filter(|ask| ask.path.starts_with("/part/"));
    assert!(storage.clone().count() == 2 && storage.clone().all(|ask| ask.header("authorization").is_none()));

    let nobody = Environment { token: None, ..environment(&server, cache.path()) };
    let failure = push(&self::repository(nobody), model.path(), true, "first", &|| false).unwrap_err();
    assert!(failure.to_string().contains("HF_TOKEN"), "{failure}");
}

#[test]
fn the_environment_is_read_as_other_programs_of_the_hub_read_it() {
    let of = |pairs: &[(&str, &str)]| {
        let asked = Cell::new(0);
        let environment = Environment::of(&|name| {
            asked.set(asked.get() + 1);
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        assert!(asked.get() > 0);
        environment
    };
    let plain = of(&[("HOME", "/home/me")]);
    assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));
    assert_eq!(of(&[("HF_HOME", "/data/hf")]).cache, Path::new("/data/hf/hub"));
    assert_eq!(of(&[("HF_HOME", "/data/hf"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
    assert_eq!(of(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    let set = of(&[("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", " t\n"), ("HF_HUB_OFFLINE", "YES"), ("HOME", "/h")]);
    assert_eq!((set.endpoint.as_str(), set.token.as_deref(), set.offline), ("http://mirror", Some("t"), true));
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "written\n").unwrap();
    assert_eq!(of(&[("HF_HOME", &home.path().to_string_lossy())]).token.as_deref(), Some("written"));
}
