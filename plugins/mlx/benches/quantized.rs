//! Products with quantised weights against MLX's own and against the product with the whole weight.
//!
//! `cargo bench -p mdt-plugin-mlx --bench quantized [-- THREADS]`

use std::time::Instant;

use mdt_mlx::fused::{self, Quantized, composed};
use mlx_rs::error::Result;
use mlx_rs::transforms::{eval, fallible_vjp};
use mlx_rs::{Array, Device, ops, random};

const WIDTH: i32 = 2048;
const GROUP_SIZE: i32 = 64;

fn draw(shape: &[i32]) -> Array {
    let values = random::uniform::<_, f32>(-1.0, 1.0, shape, Some(&random::key(7).unwrap())).unwrap();
    values.eval().unwrap();
    values
}

/// Median milliseconds.
fn time(rounds: usize, function: impl Fn() -> Result<Vec<Array>>) -> f64 {
    let mut times: Vec<f64> = (0..=rounds)
        .map(|_| {
            let start = Instant::now();
            eval(&function().unwrap()).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Forward and the gradient by x.
fn both(x: &Array, product: impl Fn(&Array) -> Result<Array>) -> Result<Vec<Array>> {
    let cotangent = ops::ones::<f32>(&[x.dim(0), WIDTH])?;
    let (values, gradients) =
        fallible_vjp(|x: &[Array]| Ok(vec![product(&x[0])?]), std::slice::from_ref(x), &[cotangent])?;
    Ok(values.into_iter().chain(gradients).collect())
}

fn main() {
    Device::set_default(&Device::cpu());
    fused::start(std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(0)).unwrap();
    let whole = draw(&[WIDTH, WIDTH]);
    println!("{WIDTH} × {WIDTH}, groups of {GROUP_SIZE}, milliseconds");
    for rows in [1, 4, 8, 16, 64, 512, 2048] {
        let x = draw(&[rows, WIDTH]);
        let forward = time(9, || Ok(vec![fused::linear(&x, &whole)?]));
        let gradient = time(5, || both(&x, |x| fused::linear(x, &mlx_rs::stop_gradient(&whole)?)));
        println!("whole weight, {rows:4} rows: forward {forward:8.3}, with gradient {gradient:8.3}");
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        let (words, scales, biases) = ops::quantize(&whole, GROUP_SIZE, bits).unwrap();
        eval([&words, &scales, &biases]).unwrap();
        let weight = Quantized { words: &words, scales: &scales, biases: &biases, group_size: GROUP_SIZE, bits };
        let ours = time(9, || Ok(vec![fused::dequantize(&weight)?]));
        let theirs = time(5, || Ok(vec![composed::dequantize(&weight)?]));
        println!("{bits} bits, made whole: {ours:8.3}, MLX's own {theirs:8.3}");
        for rows in [1, 4, 8, 16, 64, 512, 2048] {
            let x = draw(&[rows, WIDTH]);
            let forward = time(9, || Ok(vec![fused::quantized_linear(&x, &weight, None, false)?]));
            let gradient = time(5, || both(&x, |x| fused::quantized_linear(x, &weight, None, true)));
            let theirs = (rows == 1).then(|| time(9, || Ok(vec![composed::quantized_linear(&x, &weight, false)?])));
            let theirs = theirs.map_or(String::new(), |time| format!(", MLX's own {time:8.3}"));
            println!("{bits} bits, {rows:4} rows: forward {forward:8.3}, with gradient {gradient:8.3}{theirs}");
        }
    }
}
