//! Attention over one long row, and the losses of many logits: how much arithmetic a second of one core does, whatever else runs on
//! the machine. Linux only: the time is read from `/proc`.
//!
//! `cargo bench -p mdt-plugin-mlx --bench long_context [-- THREADS]`

use std::sync::atomic::{AtomicU64, Ordering};

use mdt_mlx::fused::{self, AttentionExtras, AttentionOptions, TokenLosses};
use mlx_rs::error::Result;
use mlx_rs::transforms::{eval, fallible_vjp};
use mlx_rs::{Array, Device, random};

/// Values in [−1, 1), others with every call.
fn draw(shape: &[i32]) -> Array {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let key = random::key(DRAWN.fetch_add(1, Ordering::Relaxed)).unwrap();
    let values = random::uniform::<_, f32>(-1.0, 1.0, shape, Some(&key)).unwrap();
    values.eval().unwrap();
    values
}

/// Seconds that all threads of this process have run.
fn seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit(' ').rev().skip(13).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

/// Prints how fast values alone, and values and gradients, are computed, of so many operations each.
fn report(name: &str, work: [f64; 2], inputs: &[Array], function: impl Fn(&[Array]) -> Result<Array>) {
    let cotangent = draw(function(inputs).unwrap().shape());
    let forward = || eval([&function(inputs).unwrap()]).unwrap();
    let both = || {
        let (values, gradients) =
            fallible_vjp(|x: &[Array]| Ok(vec![function(x)?]), inputs, std::slice::from_ref(&cotangent)).unwrap();
        eval(values.iter().chain(&gradients)).unwrap();
    };
    let rate = |work: f64, run: &dyn Fn()| {
        let (start, mut runs) = (seconds(), 0.0);
        while seconds() < start + 0.5 {
            run();
            runs += 1.0;
        }
        work * runs / (seconds() - start) / 1e9
    };
    let [once, twice] = [rate(work[0], &forward), rate(work[0] + work[1], &both)];
    println!("{name:64} {once:6.0} GFLOP/s {twice:6.0} GFLOP/s");
}

fn attention(tokens: i32, heads: [i32; 2], width: i32, window: Option<i32>, soft_cap: Option<f32>) {
    let name = format!("attention {heads:?} × {tokens} × {width}, window {window:?}, cap {soft_cap:?}");
    let options = AttentionOptions { scale: 0.18, causal: true, window, soft_cap, ..AttentionOptions::default() };
    let rows = |heads: i32| {
        let x = draw(&[1, tokens, heads, width]).transpose_axes(&[0, 2, 1, 3]).unwrap();
        x.eval().unwrap();
        x
    };
    let (all, seen) = (f64::from(tokens), f64::from(window.unwrap_or(tokens)));
    // Pairs of a query and a key that it sees; two products forwards, five backwards.
    let pairs = all * seen - seen * seen / 2.0;
    let product = 2.0 * pairs * f64::from(heads[0]) * f64::from(width);
    report(&name, [2.0 * product, 5.0 * product], &[rows(heads[0]), rows(heads[1]), rows(heads[1])], |x| {
        fused::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options)
    });
}

fn losses(rows: i32, vocabulary: i32, width: i32) {
    let targets = Array::from_slice(&(0..rows).map(|row| row * 7919 % vocabulary).collect::<Vec<_>>(), &[rows]);
    let tile = TokenLosses::tile(rows, vocabulary, width, false);
    let options = TokenLosses { scale: 1.0, soft_cap: None, tile, rounds: false };
    let product = 2.0 * f64::from(rows) * f64::from(vocabulary) * f64::from(width);
    let inputs = [draw(&[rows, width]), draw(&[vocabulary, width])];
    let name = format!("losses {rows} × {vocabulary} × {width}, tiles of {tile:?}");
    report(&name, [product, 3.0 * product], &inputs, |x| fused::token_losses(&x[0], &x[1], &targets, None, &options));
    let name = format!("losses {rows} × {vocabulary} × {width}, all logits");
    report(&name, [product, 2.0 * product], &inputs, |x| fused::cross_entropy(&fused::linear(&x[0], &x[1])?, &targets));
}

fn main() {
    Device::set_default(&Device::cpu());
    fused::start(std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(0)).unwrap();
    println!("{:64} {:>14} {:>14}", "a second of one core", "forward", "with backward");
    attention(2048, [8, 4], 32, None, None);
    attention(8192, [8, 4], 32, None, None);
    attention(32_768, [8, 4], 32, None, None);
    attention(32_768, [8, 4], 32, Some(4096), None);
    attention(8192, [8, 4], 32, None, Some(50.0));
    attention(8192, [8, 2], 128, None, None);
    attention(8192, [4, 1], 256, None, None);
    losses(2048, 8192, 256);
    losses(8192, 8192, 256);
    losses(2048, 32_768, 1024);
}
