//! `certs new`: certificates that nobody else can read, a later host under the same authority, and nothing overwritten.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mdt_tests::{Run, assert_says, run, tree};

fn certs(out: &Path, arguments: &[&str]) -> Run {
    let out = out.display().to_string();
    run([&["certs", "new", "--out", &out], arguments].concat())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file that was made").permissions().mode() & 0o777
}

#[test]
fn each_host_has_a_directory_to_copy_with_a_key_that_only_its_owner_can_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("certs");
    let made = certs(&out, &["node1,10.0.0.1", "10.0.0.2", "fe80::7%eth0"]).success();
    for host in ["node1", "10.0.0.2", "fe80::7"] {
        let place = out.join(host);
        assert_eq!(mode(&place), 0o700);
        assert_eq!(mode(&place.join("host.key")), 0o600);
        assert_eq!(fs::read(place.join("ca.pem")).unwrap(), fs::read(out.join("ca.pem")).unwrap());
        assert_says(&fs::read_to_string(place.join("host.pem")).unwrap(), &["BEGIN CERTIFICATE"]);
        assert!(!place.join("ca.key").exists(), "the authority's key stays where it is");
    }
    assert_eq!(mode(&out.join("ca.key")), 0o600);
    assert_says(
        &made.stdout,
        &[
            "for node1, 10.0.0.1, valid until ",
            &format!("scp -r {} node1:JOB/tls", out.join("node1").display()),
            r#"tls = { ca = "tls/ca.pem", cert = "tls/host.pem", key = "tls/host.key" }"#,
        ],
    );
}

#[test]
fn a_host_that_comes_later_has_the_same_authority_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path();
    certs(out, &["node1"]).success();
    let before = tree(out);
    let failure = certs(out, &["node2", "node1"]).failure(7);
    assert_says(&failure, &["node1 has a certificate already", "nothing was changed"]);
    assert_eq!(tree(out), before);
    let later = certs(out, &["--days", "30", "node2"]).success();
    assert!(!later.stdout.contains("made the authority"), "{}", later.stdout);
    let after = tree(out);
    assert_eq!(after.len(), before.len() + 3);
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
    assert_eq!(fs::read(out.join("node2/ca.pem")).unwrap(), fs::read(out.join("ca.pem")).unwrap());
}

#[test]
fn half_an_authority_or_another_key_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    certs(&one, &["node1"]).success();
    certs(&two, &["node1"]).success();
    fs::copy(two.join("ca.key"), one.join("ca.key")).expect("a copy");
    assert_says(&certs(&one, &["node2"]).failure(7), &["not that of the key in ca.key"]);
    fs::remove_file(one.join("ca.key")).expect("the key");
    assert_says(&certs(&one, &["node2"]).failure(7), &["there is ca.pem and no ca.key"]);
    assert!(!one.join("node2").exists());
}

#[test]
fn what_is_no_host_is_a_usage_error_before_anything_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("certs");
    for host in ["", "node 1", "../up", "a/b", "node1,", "node1:5"] {
        assert_says(&certs(&out, &[host]).failure(2), &["is neither a host name nor an IP address"]);
    }
    assert_says(&certs(&out, &["node1", "node1"]).failure(2), &["node1 is named twice"]);
    assert!(!out.exists());
}
