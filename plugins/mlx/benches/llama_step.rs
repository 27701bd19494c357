//! One full fine-tuning step (forward, backward, every parameter) of a 5.2 M-parameter Llama, with fused operations and with MLX's own.
//!
//! `cargo bench -p mdt-plugin-mlx --bench llama_step [-- THREADS]`. Hidden 256, 4 layers, 8 heads, 4 key/value heads,
//! intermediate 768, vocabulary 8192, tied, batch 8 × 256, f32: the shape that README's figures are about.

use std::time::Instant;

use mdt_mlx::fused::{self, AttentionExtras, AttentionOptions, composed};
use mlx_rs::error::Result;
use mlx_rs::transforms::{eval, value_and_grad_with_argnums};
use mlx_rs::{Array, Device, random};

const HIDDEN: i32 = 256;
const LAYERS: usize = 4;
const HEADS: i32 = 8;
const KV_HEADS: i32 = 4;
const HEAD: i32 = HIDDEN / HEADS;
const INTERMEDIATE: i32 = 768;
const VOCABULARY: i32 = 8192;
const BATCH: i32 = 8;
const LENGTH: i32 = 256;
/// Parameters of a layer: two norms, four projections of attention, three of the MLP.
const PER_LAYER: usize = 9;

fn options() -> AttentionOptions {
    AttentionOptions { scale: (HEAD as f32).powf(-0.5), causal: true, ..AttentionOptions::default() }
}

fn parameters() -> Vec<Array> {
    let mut seed = 0;
    let mut draw = |shape: &[i32]| {
        seed += 1;
        let values = random::uniform::<_, f32>(-0.05, 0.05, shape, Some(&random::key(seed).unwrap())).unwrap();
        // The ones of a norm's weight come from here too: their values do not matter for time.
        values.eval().unwrap();
        values
    };
    let mut all = vec![draw(&[VOCABULARY, HIDDEN]), draw(&[HIDDEN])];
    for _ in 0..LAYERS {
        let kv = KV_HEADS * HEAD;
        all.extend([draw(&[HIDDEN]), draw(&[HIDDEN])]);
        all.extend([draw(&[HIDDEN, HIDDEN]), draw(&[kv, HIDDEN]), draw(&[kv, HIDDEN]), draw(&[HIDDEN, HIDDEN])]);
        all.extend([draw(&[INTERMEDIATE, HIDDEN]), draw(&[INTERMEDIATE, HIDDEN]), draw(&[HIDDEN, INTERMEDIATE])]);
    }
    all
}

/// The same model over either module.
macro_rules! loss {
    ($name:ident, $ops:ident, $rope_tables:path) => {
        fn $name(inputs: &[Array], tokens: &Array, targets: &Array) -> Result<Vec<Array>> {
            let positions: Vec<i32> = (0..LENGTH).collect();
            let inv_freq: Vec<f32> = (0..HEAD / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / HEAD as f32)).collect();
            let inv_freq = Array::from_slice(&inv_freq, &[HEAD / 2]);
            let tables = $rope_tables(&Array::from_slice(&positions, &[LENGTH]), &inv_freq, 1.0)?;
            let heads = |x: Array, heads: i32| x.reshape(&[BATCH, LENGTH, heads, HEAD])?.transpose_axes(&[0, 2, 1, 3]);
            let mut x = $ops::embedding(&inputs[0], tokens)?;
            for layer in inputs[2..].chunks(PER_LAYER) {
                let h = $ops::rms_norm(&x, &layer[0], 1e-5)?;
                let q = $ops::rope(&heads($ops::linear(&h, &layer[2])?, HEADS)?, &tables)?;
                let k = $ops::rope(&heads($ops::linear(&h, &layer[3])?, KV_HEADS)?, &tables)?;
                let v = heads($ops::linear(&h, &layer[4])?, KV_HEADS)?;
                let a = $ops::attention(&q, &k, &v, AttentionExtras::default(), &options())?;
                let a = a.transpose_axes(&[0, 2, 1, 3])?.reshape(&[BATCH, LENGTH, HIDDEN])?;
                let sum = x.add(&$ops::linear(&a, &layer[5])?)?;
                let h = $ops::rms_norm(&sum, &layer[1], 1e-5)?;
                let m = $ops::swiglu(&$ops::linear(&h, &layer[6])?, &$ops::linear(&h, &layer[7])?)?;
                x = sum.add(&$ops::linear(&m, &layer[8])?)?;
            }
            let h = $ops::rms_norm(&x, &inputs[1], 1e-5)?.reshape(&[-1, HIDDEN])?;
            let losses = $ops::cross_entropy(&$ops::linear(&h, &inputs[0])?, targets)?;
            Ok(vec![losses.sum(None)?])
        }
    };
}
loss!(fused_loss, fused, fused::rope_tables);
loss!(composed_loss, composed, composed::rope_tables);

fn measure(name: &str, loss: fn(&[Array], &Array, &Array) -> Result<Vec<Array>>, rounds: usize) -> f64 {
    let parameters = parameters();
    let ids: Vec<i32> = (0..BATCH * LENGTH).map(|i| (i * 7919 + i * i) % VOCABULARY).collect();
    let (tokens, targets) = (Array::from_slice(&ids, &[BATCH, LENGTH]), Array::from_slice(&ids, &[BATCH * LENGTH]));
    let arguments: Vec<i32> = (0..parameters.len() as i32).collect();
    let mut step = value_and_grad_with_argnums(|x: &[Array]| loss(x, &tokens, &targets), &arguments);
    let mut times = Vec::new();
    let mut last = 0.0;
    for _ in 0..=rounds {
        let start = Instant::now();
        let (value, gradients) = step(&parameters).unwrap();
        eval(value.iter().chain(&gradients)).unwrap();
        times.push(start.elapsed().as_secs_f64());
        last = value[0].item_exact::<f32>();
    }
    let times = &mut times[1..];
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let tokens = f64::from(BATCH * LENGTH);
    println!(
        "{name:10} median {:7.1} ms, best {:7.1} ms, {:6.0} tokens/s, loss {last}",
        median * 1e3,
        times[0] * 1e3,
        tokens / median
    );
    median
}

fn main() {
    Device::set_default(&Device::cpu());
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    fused::start(numbers.first().copied().unwrap_or(0)).unwrap();
    let fast = measure("fused", fused_loss, numbers.get(1).copied().unwrap_or(10));
    let slow = measure("composed", composed_loss, 3);
    println!("ratio {:.2}", slow / fast);
}
