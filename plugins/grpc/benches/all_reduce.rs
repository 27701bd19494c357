//! `all_reduce` of f32 between ranks on this machine: the median time and the bus bandwidth, which is the bytes that
//! each rank sends in the best algorithm over time, 2(n−1)/n of the payload.
//!
//!     cargo bench -p mdt-plugin-grpc [-- RANKS...]

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::{Config, Grpc};
use mdt_plugin_api::prelude::*;

/// Payloads in bytes, each with the number of times that it is reduced.
const SIZES: [(usize, usize); 6] =
    [(1 << 10, 2000), (64 << 10, 1000), (1 << 20, 200), (16 << 20, 40), (64 << 20, 15), (256 << 20, 5)];

fn main() {
    let ranks: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    // No secret: the ranks are threads of this process.
    let token = std::env::temp_dir().join(format!("mdt-bench-token-{}", std::process::id()));
    std::fs::write(&token, "0".repeat(64)).unwrap();
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let config = Config { token_file: Some(token.to_str().unwrap().to_owned()), ..Config::default() };
    println!("ranks      bytes       median     bus bandwidth");
    for &world_size in if ranks.is_empty() { &[2, 4] } else { ranks.as_slice() } {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        thread::scope(|scope| {
            for rank in 0..world_size {
                let values = [("address", "127.0.0.1".to_owned()), ("port", port.to_string())];
                let values = values.map(|(name, value)| (name.to_owned(), value)).into();
                let bootstrap = Bootstrap { rank, world_size, values, ..Bootstrap::default() };
                let config = config.clone();
                scope.spawn(move || measure(&bootstrap, config));
            }
        });
    }
    std::fs::remove_file(token).unwrap();
}

fn measure(bootstrap: &Bootstrap, config: Config) {
    let communicator = Grpc::create(config, &Setup::default()).unwrap().open(bootstrap).unwrap();
    for (bytes, times) in SIZES {
        let mut buffers = vec![Buffer::from(vec![1.0f32; bytes / 4])];
        let mut taken = Vec::new();
        for _ in 0..times + times / 5 {
            let begin = Instant::now();
            let outcome = communicator.all_reduce(buffers, ReduceOp::Sum).unwrap().wait(Duration::from_secs(60));
            taken.push(begin.elapsed());
            let Outcome::Done(reduced) = outcome.unwrap() else { panic!("a collective hangs") };
            buffers = reduced;
        }
        taken.drain(..times / 5); // to warm up
        taken.sort();
        if bootstrap.rank == 0 {
            let (median, n) = (taken[taken.len() / 2], f64::from(bootstrap.world_size));
            let bandwidth = bytes as f64 / median.as_secs_f64() * 2.0 * (n - 1.0) / n / 1e9;
            println!("{n:>5} {bytes:>10} {median:>12.1?} {bandwidth:>12.2} GB/s");
        }
    }
}
