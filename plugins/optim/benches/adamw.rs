//! The time of one update of five million parameters on one thread: `cargo bench -p mdt-plugin-optim`.
//!
//! Four arrays are read and three written, 28 bytes for each parameter; the throughput counts those.

use divan::counter::BytesCount;
use mdt_optim::AdamW;
use mdt_optim::adamw::Config;
use mdt_plugin_api::{Optimizer, Update};

const PARAMETERS: usize = 5_000_000;

fn main() {
    divan::main();
}

/// All in one slice, in memory.
#[divan::bench]
fn whole(bencher: divan::Bencher<'_, '_>) {
    update(bencher, PARAMETERS);
}

/// Slice by slice, each of which fits the second-level cache, as a host that splits the work may do it.
#[divan::bench]
fn in_slices(bencher: divan::Bencher<'_, '_>) {
    update(bencher, 16 * 1024);
}

fn update(bencher: divan::Bencher<'_, '_>, slice: usize) {
    let adamw = AdamW::new(Config::default()).expect("the defaults are valid");
    let gradient: Vec<f32> = (0..PARAMETERS).map(|index| (index % 1000) as f32 * 1e-5 - 5e-3).collect();
    let mut parameter = vec![0.1; PARAMETERS];
    let (mut mean, mut square) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
    let mut step = 0;
    bencher.counter(BytesCount::new(28 * PARAMETERS)).bench_local(|| {
        step += 1;
        let shape = [PARAMETERS];
        let update = Update { step, learning_rate: 1e-3, weight_decay: 0.01, ..Update::first("weight", &shape) };
        for start in (0..PARAMETERS).step_by(slice) {
            let range = start..PARAMETERS.min(start + slice);
            let states = &mut [&mut mean[range.clone()], &mut square[range.clone()]];
            adamw.update(&update, &mut parameter[range.clone()], &gradient[range], states).expect("equal lengths");
        }
    });
}
