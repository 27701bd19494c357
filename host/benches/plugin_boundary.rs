//! What the plugin boundary costs: loading a library, and one call across.
//!
//!     cargo build --release --workspace && cargo bench --bench plugin_boundary
//!
//! Every loading is of a fresh copy of the file, because the linker opens a file only once.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use mdt_host::plugins::{Catalog, Tier};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::register::OptimizerComponent;
use mdt_plugin_api::{Kind, Optimizer, Setup, Update};
use serde_json::json;

const LOADS: usize = 31;
const CALLS: u32 = 1_000_000;

fn main() {
    // …/target/release/deps/plugin_boundary-hash
    let program = std::env::current_exe().expect("a running program has a path");
    let built = program.ancestors().nth(2).expect("benchmarks run from target/release/deps");
    let plugin = built.join(format!("{}mdt_optim{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
    assert!(plugin.exists(), "build the workspace first: cargo build --release --workspace");
    loading(&plugin);
    calling(built);
}

/// The linker's own time against that of scanning, checking, loading and checking layouts, in turns.
fn loading(plugin: &Path) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = |number: usize| -> PathBuf {
        let place = directory.path().join(number.to_string());
        std::fs::create_dir(&place).expect("a directory");
        std::fs::copy(plugin, place.join(plugin.file_name().expect("a file"))).expect("a copy");
        place
    };
    let (mut linker, mut scan, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..LOADS {
        let (first, second) = (copy(2 * round), copy(2 * round + 1));
        let file = first.join(plugin.file_name().expect("a file"));
        let begin = Instant::now();
        // SAFETY: the library is one of this workspace's own plugins.
        let library = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_LOCAL) }.expect("the plugin opens");
        linker.push(begin.elapsed().as_secs_f64());
        std::mem::forget(library);
        let begin = Instant::now();
        let tier = Tier { origin: "benchmark", directory: second, only_named_by: None };
        let catalog = Catalog::scan(vec![tier], None).expect("a catalog");
        scan.push(begin.elapsed().as_secs_f64());
        black_box(catalog.component(Kind::Optimizer, "adamw").expect("the plugin loads"));
        whole.push(begin.elapsed().as_secs_f64());
    }
    report("dlopen alone", &mut linker);
    report("scan: read the records", &mut scan);
    report("scan, check, dlopen, compare layouts", &mut whole);
}

/// The same calls on a loaded optimizer and on one that is linked in.
fn calling(built: &Path) {
    let tier = Tier { origin: "benchmark", directory: built.to_owned(), only_named_by: None };
    let catalog = Catalog::scan(vec![tier], None).expect("a catalog");
    let component = catalog.component(Kind::Optimizer, "adamw").expect("the plugin loads");
    let loaded = component.optimizer(&json!({}), &Setup::default()).expect("an optimizer").slices.expect("slices");
    let linked: Arc<dyn Optimizer> = Arc::new(Nothing);
    let across = across::optimizer(OptimizerComponent::new(Arc::clone(&linked))).expect("it crosses");
    let across = across.slices.expect("slices");
    let rules =
        [("nothing, called directly", &linked), ("nothing, across the boundary", &across), ("adamw, loaded", &loaded)];
    let update = Update { learning_rate: 1e-3, ..Update::first("w", &[1]) };
    for (name, optimizer) in rules {
        let (mut parameter, mut first, mut second) = ([1.0f32], [0.0f32], [0.0f32]);
        let mut times: Vec<_> = (0..LOADS)
            .map(|_| {
                per_call(|| {
                    let states: &mut [&mut [f32]] = &mut [&mut first, &mut second];
                    optimizer.update(&update, black_box(&mut parameter), &[0.5], states).expect("an update");
                })
            })
            .collect();
        report(&format!("one update() of one element: {name}"), &mut times);
    }
}

/// Seconds of one call.
fn per_call(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    (0..CALLS).for_each(|_| call());
    begin.elapsed().as_secs_f64() / f64::from(CALLS)
}

/// Prints the median of these seconds and their range.
fn report(name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let micro = |place: usize| times[place] * 1e6;
    let (least, median, most) = (micro(0), micro(times.len() / 2), micro(times.len() - 1));
    println!("{name:<58} {median:>10.4} µs ({least:.4} to {most:.4})");
}

struct Nothing;

impl Optimizer for Nothing {
    fn states(&self) -> Vec<mdt_plugin_api::StateSpec> {
        Vec::new()
    }

    #[inline(never)]
    fn update(&self, _: &Update<'_>, _: &mut [f32], _: &[f32], _: &mut [&mut [f32]]) -> mdt_plugin_api::Result<()> {
        Ok(())
    }
}
