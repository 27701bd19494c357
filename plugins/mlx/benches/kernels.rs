//! Each fused operation against its composition of MLX operations, forward and backward, on the shapes of `llama_step`.
//!
//! `cargo bench -p mdt-plugin-mlx --bench kernels [-- THREADS]`

use std::time::Instant;

use mdt_mlx::fused::{self, AttentionExtras, AttentionOptions, composed};
use mlx_rs::error::Result;
use mlx_rs::transforms::{eval, fallible_vjp};
use mlx_rs::{Array, Device, random};

type Function<'a> = &'a dyn Fn(&[Array]) -> Result<Vec<Array>>;

fn options() -> AttentionOptions {
    AttentionOptions { scale: 0.18, causal: true, ..AttentionOptions::default() }
}

fn draw(shape: &[i32]) -> Array {
    let values = random::uniform::<_, f32>(-1.0, 1.0, shape, Some(&random::key(7).unwrap())).unwrap();
    values.eval().unwrap();
    values
}

/// Median milliseconds of one forward and backward pass.
fn time(function: Function<'_>, inputs: &[Array], rounds: usize) -> f64 {
    let mut times: Vec<f64> = (0..=rounds)
        .map(|_| {
            let outputs = function(inputs).unwrap();
            let cotangents: Vec<Array> = outputs.iter().map(|out| draw(out.shape())).collect();
            let start = Instant::now();
            let (values, gradients) = fallible_vjp(|x: &[Array]| function(x), inputs, &cotangents).unwrap();
            eval(values.iter().chain(&gradients)).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn compare(name: &str, fused: Function<'_>, composed: Function<'_>, inputs: &[Array]) {
    let (fast, slow) = (time(fused, inputs, 9), time(composed, inputs, 3));
    println!("{name:36} {fast:9.3} ms  {slow:9.3} ms  {:6.1} ×", slow / fast);
}

/// [B, H, T, D] the way a projection gives it.
fn heads(count: i32) -> Array {
    let x = draw(&[8, 256, count, 32]).transpose_axes(&[0, 2, 1, 3]).unwrap();
    x.eval().unwrap();
    x
}

fn main() {
    Device::set_default(&Device::cpu());
    fused::start(std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(0)).unwrap();
    let ids: Vec<i32> = (0..2048).map(|i| i * 7919 % 8192).collect();
    let targets = Array::from_slice(&ids, &[2048]);
    println!("{:36} {:>12}  {:>12}", "forward + backward", "fused", "composed");
    compare(
        "cross_entropy 2048 × 8192",
        &|x| Ok(vec![fused::cross_entropy(&x[0], &targets)?]),
        &|x| Ok(vec![composed::cross_entropy(&x[0], &targets)?]),
        &[draw(&[2048, 8192])],
    );
    compare(
        "swiglu 2048 × 768",
        &|x| Ok(vec![fused::swiglu(&x[0], &x[1])?]),
        &|x| Ok(vec![composed::swiglu(&x[0], &x[1])?]),
        &[draw(&[2048, 768]), draw(&[2048, 768])],
    );
    compare(
        "rms_norm 2048 × 256",
        &|x| Ok(vec![fused::rms_norm(&x[0], &x[1], 1e-5)?]),
        &|x| Ok(vec![composed::rms_norm(&x[0], &x[1], 1e-5)?]),
        &[draw(&[2048, 256]), draw(&[256])],
    );
    let inv_freq: Vec<f32> = (0..16).map(|i| 1e4f32.powf(-i as f32 / 16.0)).collect();
    let positions = Array::from_slice(&(0..256).collect::<Vec<i32>>(), &[256]);
    let tables = fused::rope_tables(&positions, &Array::from_slice(&inv_freq, &[16]), 1.0).unwrap();
    compare(
        "rope 8 × 8 × 256 × 32",
        &|x| Ok(vec![fused::rope(&x[0], &tables)?]),
        &|x| Ok(vec![composed::rope(&x[0], &tables)?]),
        &[heads(8)],
    );
    compare(
        "causal attention 8 × 8/4 × 256 × 32",
        &|x| Ok(vec![fused::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options())?]),
        &|x| Ok(vec![composed::attention(&x[0], &x[1], &x[2], AttentionExtras::default(), &options())?]),
        &[heads(8), heads(4), heads(4)],
    );
    compare(
        "embedding 2048 of 8192 × 256",
        &|x| Ok(vec![fused::embedding(&x[0], &targets)?]),
        &|x| Ok(vec![composed::embedding(&x[0], &targets)?]),
        &[draw(&[8192, 256])],
    );
    compare(
        "linear 2048 × 256 by 768",
        &|x| Ok(vec![fused::linear(&x[0], &x[1])?]),
        &|x| Ok(vec![composed::linear(&x[0], &x[1])?]),
        &[draw(&[2048, 256]), draw(&[768, 256])],
    );
    compare(
        "linear 2048 × 256 by 8192",
        &|x| Ok(vec![fused::linear(&x[0], &x[1])?]),
        &|x| Ok(vec![composed::linear(&x[0], &x[1])?]),
        &[draw(&[2048, 256]), draw(&[8192, 256])],
    );
}
