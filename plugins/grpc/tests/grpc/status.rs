//! The job's status for generic gRPC clients: what it says, and who is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use mdt_grpc::{Config, TlsFiles};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::authority::Authority;
use crate::grpc_client::{Client, runtime};
use crate::network::free_port;
use crate::processes::{Rank, Role};
use crate::setup::{LONG, TOKEN, backend, config, done, job, run_with, with};

const STATUS: &str = "mdt.job.v1.JobStatus";

/// The configuration of ranks that tell their status, and where.
fn with_status() -> (Config, u16) {
    let port = free_port();
    (Config { status_port: Some(port), ..config() }, port)
}

/// What a job of two ranks says at its port after two barriers.
fn during<T: Send>(config: Config, ask: impl Fn(&Connected) -> T + Sync) -> T {
    let job = Bootstrap { job: "a-name".into(), ..job(2) };
    let device =
        r#"{"kind":"gpu","name":"M9","library":"MLX 1","unified_memory":true,"threads":4,"fast_products":["bf16"]}"#;
    let job = with(&with(&job, "device", device), "host", "node");
    let mut answers = run_with(&job, config, |communicator| {
        done(communicator.barrier());
        done(communicator.barrier());
        let answer = (communicator.rank() == 0).then(|| ask(&communicator));
        done(communicator.barrier());
        answer
    });
    answers.remove(0).unwrap()
}

fn field(message: &DynamicMessage, name: &str) -> Value {
    message.get_field_by_name(name).unwrap_or_else(|| panic!("{name} in {:?}", message.descriptor())).into_owned()
}

fn list(value: &Value) -> Vec<DynamicMessage> {
    value.as_list().unwrap().iter().map(|value| value.as_message().unwrap().clone()).collect()
}

#[test]
fn a_client_that_knows_only_the_token_finds_out_how_the_job_is_doing_and_on_which_devices() {
    let (config, port) = with_status();
    during(config, |_| {
        let client = Client::connect(port, Some(TOKEN));
        let mut services = client.services().unwrap();
        services.sort();
        assert_eq!(services, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", STATUS]);
        let health = client.call("grpc.health.v1.Health", "Check").unwrap();
        assert_eq!(field(&health, "status"), Value::EnumNumber(1), "SERVING");

        let status = client.call(STATUS, "GetStatus").unwrap();
        assert_eq!(field(&status, "job"), Value::String("a-name".into()));
        assert_eq!(field(&status, "state"), Value::EnumNumber(2), "RUNNING");
        assert_eq!(field(&status, "world_size"), Value::U32(2));
        assert_eq!(field(&status, "collectives"), Value::U64(2));
        assert!(!status.has_field_by_name("fault"));
        let ranks = list(&field(&status, "ranks"));
        assert_eq!(ranks.len(), 2);
        for (rank, number) in ranks.iter().zip(0..) {
            assert_eq!(field(rank, "rank"), Value::U32(number));
            assert_eq!(field(rank, "present"), Value::Bool(true));
            assert_eq!(field(rank, "host"), Value::String("node".into()));
            let device = field(rank, "device").as_message().unwrap().clone();
            assert_eq!(field(&device, "name"), Value::String("M9".into()));
            assert_eq!(field(&device, "fast_products").as_list().unwrap(), [Value::String("bf16".into())]);
        }
        assert_eq!(field(&ranks[1], "transport"), Value::String("tcp".into()));
    });
}

#[test]
fn who_has_no_token_is_told_nothing_and_soon_let_go() {
    let (config, port) = with_status();
    during(config, |_| {
        for token in [None, Some("another secret of more than 32 characters"), Some("short"), Some("")] {
            let client = Client::connect(port, token);
            let refusal = client.services().unwrap_err();
            assert_eq!((refusal.code(), refusal.message()), (Code::Unauthenticated, ""), "{token:?}");
        }
        // An idle one.
        let begin = Instant::now();
        let mut idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
        idle.set_read_timeout(Some(LONG)).unwrap();
        let _ = idle.read_to_end(&mut Vec::new()); // an end by reset is an end
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    });
}

#[test]
fn ranks_that_have_not_come_are_seen_and_a_fault_names_its_rank() {
    let (config, port) = with_status();
    let job = job(2);
    thread::scope(|scope| {
        let (zero, config) = (job.clone(), config.clone());
        let first = scope.spawn(move || {
            let communicator = backend(config).unwrap().open(&zero).unwrap();
            done(communicator.barrier());
            communicator.abort("the disk is full");
            Client::connect(port, Some(TOKEN)).call(STATUS, "GetStatus").unwrap()
        });
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < LONG);
        }
        let status = Client::connect(port, Some(TOKEN)).call(STATUS, "GetStatus").unwrap();
        assert_eq!(field(&status, "state"), Value::EnumNumber(1), "MEETING");
        let present = list(&field(&status, "ranks")).iter().map(|rank| field(rank, "present")).collect::<Vec<_>>();
        assert_eq!(present, [Value::Bool(true), Value::Bool(false)]);

        let one = Bootstrap { rank: 1, ..job.clone() };
        let _one = scope.spawn(move || {
            let communicator = backend(crate::setup::config()).unwrap().open(&one).unwrap();
            done(communicator.barrier());
        });
        let status = first.join().unwrap();
        assert_eq!(field(&status, "state"), Value::EnumNumber(3), "FAILED");
        let fault = field(&status, "fault").as_message().unwrap().clone();
        assert_eq!(field(&fault, "message"), Value::String("rank 0 aborted: the disk is full".into()));
        assert_eq!(field(&fault, "rank"), Value::U32(0));
    });
}

/// A channel with TLS, with a certificate of these files or without one.
fn encrypted(files: &TlsFiles, shows_certificate: bool, port: u16) -> (tokio::runtime::Runtime, Option<Channel>) {
    let runtime = runtime();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut client = match shows_certificate {
        false => builder.with_no_client_auth(),
        true => {
            let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
        }
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(client));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let channel = runtime.block_on(Endpoint::from_static("http://status").connect_with_connector(connect));
    (runtime, channel.ok())
}

#[test]
fn with_tls_a_client_needs_a_certificate_as_well() {
    let (config, port) = with_status();
    let tls = Authority::new("status").host("all", &["127.0.0.1", "localhost"]);
    during(Config { tls: Some(tls.clone()), ..config }, |_| {
        let (runtime, channel) = encrypted(&tls, true, port);
        let client = Client::over(runtime, channel.unwrap(), Some(TOKEN));
        let status = client.call(STATUS, "GetStatus").unwrap();
        let ranks = list(&field(&status, "ranks"));
        assert_eq!(field(&ranks[1], "transport"), Value::String("tls".into()));

        let (runtime, channel) = encrypted(&tls, false, port);
        // With TLS 1.3 the refusal may come after what the client has sent first.
        if let Some(channel) = channel {
            assert!(Client::over(runtime, channel, Some(TOKEN)).services().is_err());
        }
    });
}

#[test]
fn the_status_is_given_to_other_machines_only_with_encryption_or_consent() {
    let (config, _) = with_status();
    let config = Config { status_address: "0.0.0.0".into(), ..config };
    let error = backend(config).unwrap().open(&job(2)).err().unwrap();
    assert_eq!(error.message(), "0.0.0.0 is not a loopback address, and without comm.tls nothing is encrypted");
}

/// The preface of HTTP/2 and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a flooding client sends again and again.
fn floods() -> Vec<Vec<u8>> {
    let request = [0x83, 0x86, 0x84]; // POST, http, /
    let streams = || (0..500u32).map(|index| 2 * index + 1);
    let resets = streams().flat_map(|id| [frame(1, 4, id, &request), frame(3, 0, id, &[0, 0, 0, 8])].concat());
    let requests = streams().flat_map(|id| frame(1, 5, id, &request));
    // Headers that never end, and one that is too long.
    let continued = frame(1, 0, 1, &request).into_iter().chain((0..200).flat_map(|_| frame(9, 0, 1, &[0x82; 1000])));
    let settings = (0..2000).flat_map(|_| frame(4, 0, 0, &[]));
    let pings = (0..2000).flat_map(|_| frame(6, 0, 0, &[7; 8]));
    let floods = [resets.collect(), requests.collect(), continued.collect(), settings.collect(), pings.collect()];
    floods.into_iter().map(|flood: Vec<u8>| [PREFACE, &flood].concat()).chain([vec![0xff; 200_000]]).collect()
}

#[test]
fn floods_of_headers_resets_and_pings_change_nothing_for_ranks_or_for_who_has_the_token() {
    let (config, port) = with_status();
    let job = job(2);
    let mut ranks = [0, 1].map(|rank| Rank::with(&job, rank, Role::Reduces, &config));
    ranks.iter_mut().for_each(|rank| assert_eq!(rank.says(), "connected"));
    let before = ranks[0].resident_kib();
    let collectives = || {
        // Who has the token may have to try again, and gets in.
        let begin = Instant::now();
        loop {
            let client = Client::try_connect(port, Some(TOKEN));
            if let Some(status) = client.and_then(|client| client.call(STATUS, "GetStatus").ok()) {
                assert!(!status.has_field_by_name("fault"));
                break field(&status, "collectives").as_u64().unwrap();
            }
            assert!(begin.elapsed() < LONG, "the floods keep everybody out");
        }
    };
    let over = AtomicBool::new(false);
    let (done_before, done_after, after) = thread::scope(|scope| {
        for flood in floods() {
            let over = &over;
            scope.spawn(move || {
                let mut idle = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                    let _ = stream.write_all(&flood); // it may have been closed
                    idle.push(stream);
                    idle.truncate(20);
                }
            });
        }
        let done_before = collectives();
        thread::sleep(Duration::from_secs(2));
        let (done_after, after) = (collectives(), ranks[0].resident_kib());
        over.store(true, Ordering::Relaxed);
        (done_before, done_after, after)
    });
    assert!(done_after > done_before, "collectives have stopped: {done_before}, {done_after}");
    assert!(ranks.iter_mut().all(Rank::runs));
    if let (Some(before), Some(after)) = (before, after) {
        println!("memory of rank 0: {before} KiB before, {after} KiB after");
        assert!(after < before + (64 << 10), "{before} KiB before, {after} KiB after");
    }
}
