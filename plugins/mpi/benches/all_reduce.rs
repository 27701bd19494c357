//! Sums of f32 by this plugin, and by the library's own `MPI_Allreduce`, in turns:
//!
//! ```text
//! cargo bench --manifest-path plugins/mpi/Cargo.toml --no-run     # prints the program
//! mpirun -n 2 PROGRAM
//! ```

use std::time::{Duration, Instant};

use mdt_mpi::{Config, Mpi};
use mdt_plugin_api::prelude::*;
use mpi_sys as mpi;

const ROUNDS: usize = 15;

fn main() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let (Some(rank), Some(world_size)) = (number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE")) else {
        return eprintln!("start it with mpirun");
    };
    let backend = Mpi::create(Config::default(), &Setup::default()).expect("a backend");
    let ranks = backend.open(&Bootstrap { rank, world_size, ..Bootstrap::default() }).expect("the ranks");
    if rank == 0 {
        println!("{world_size} ranks, medians of {ROUNDS} in ms: bytes, this plugin, MPI_Allreduce");
    }
    for shift in [10, 16, 20, 24, 26, 28] {
        let elements = (1usize << shift) / 4;
        let mut buffers = vec![Buffer::from(vec![1f32; elements])];
        let (own, mut sums) = (vec![1f32; elements], vec![0f32; elements]);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let mut work = ranks.all_reduce(buffers, ReduceOp::Sum).expect("a collective");
            buffers = match work.wait(Duration::from_secs(60)).expect("a result") {
                Outcome::Done(buffers) => buffers,
                Outcome::TimedOut => panic!("it takes too long"),
            };
            ours.push(begin.elapsed());
            let begin = Instant::now();
            // SAFETY: the plugin's thread makes no call meanwhile, and the memory has so many elements.
            unsafe {
                let (own, sums, count) = (own.as_ptr().cast(), sums.as_mut_ptr().cast(), elements as i32);
                mpi::MPI_Allreduce(own, sums, count, mpi::RSMPI_FLOAT, mpi::RSMPI_SUM, mpi::RSMPI_COMM_WORLD);
            }
            theirs.push(begin.elapsed());
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[ROUNDS / 2].as_secs_f64() * 1e3
        };
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        if rank == 0 {
            println!("{:>10} {ours:>9.3} {theirs:>9.3}", 1 << shift);
        }
    }
}
