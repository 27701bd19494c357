//! What takes as much memory as all logits, or as a table, is there once at most, or never.
//!
//! MLX counts memory for the whole process, so this has a process of its own.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../src/tests/setup.rs"]
mod setup;

use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use mdt_mlx::{Config, DeviceChoice, Mlx};
use mdt_plugin_api::{Compute, Handle, OpKind, Result, Tensor};

use self::setup::{cpu, tensor};

/// One test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// So many numbers, none of which is 0.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|number| (number % 17) as f32 * 0.1 - 0.75).collect()
}

/// The most memory in use for a loss and its gradients, beyond what was in use before.
fn growth(
    compute: &Rc<dyn Compute>,
    parameters: &[&Tensor],
    inputs: &[&Tensor],
    loss: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> u64 {
    mlx_rs::memory::reset_peak_memory().unwrap();
    let before = compute.memory().active_bytes;
    let mut function = |parameters: &[Handle], inputs: &[Handle]| {
        let all: Vec<Tensor> =
            parameters.iter().chain(inputs).map(|&handle| Tensor::borrowed(compute, handle)).collect();
        Ok(vec![loss(&all)?.sum()?.into_handle()?])
    };
    let handles = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.handle()).collect::<Vec<_>>();
    let result = compute.value_and_grad(&mut function, &handles(parameters), &handles(inputs)).unwrap();
    let all: Vec<Tensor> =
        result.values.into_iter().chain(result.gradients).map(|handle| Tensor::from_handle(compute, handle)).collect();
    compute.eval(&all.iter().map(Tensor::handle).collect::<Vec<_>>()).unwrap();
    compute.memory().peak_bytes - before
}

#[test]
fn many_logits_are_never_all_there() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let compute = cpu();
    let (rows, vocabulary, width) = (1024, 1 << 16, 8);
    let hidden = tensor(&compute, &[rows, width], &numbers(rows * width));
    let weight = tensor(&compute, &[vocabulary, width], &numbers(vocabulary * width));
    let targets = tensor(&compute, &[rows], &vec![7i32; rows]);
    let growth = growth(&compute, &[&hidden, &weight], &[&targets], |x| {
        Tensor::op(OpKind::TOKEN_LOSSES, &[&x[0], &x[1], &x[2]], &[])
    });
    let all = (rows * vocabulary * size_of::<f32>()) as u64;
    assert!(growth < all / 3, "{growth} bytes, of {all} for all logits");
}

#[test]
fn a_table_that_is_also_the_head_has_one_gradient() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let compute = cpu();
    let (vocabulary, width) = (1 << 15, 256);
    let table = tensor(&compute, &[vocabulary, width], &numbers(vocabulary * width));
    let ids = tensor(&compute, &[4], &[5i32, 9, 5, 1]);
    let growth = growth(&compute, &[&table], &[&ids], |x| {
        let hidden = Tensor::op(OpKind::EMBEDDING, &[&x[0], &x[1]], &[])?;
        Tensor::op(OpKind::TOKEN_LOSSES, &[&hidden, &x[0], &x[1]], &[])
    });
    let of_table = (vocabulary * width * size_of::<f32>()) as u64;
    assert!(growth < of_table * 3 / 2, "{growth} bytes, for a table of {of_table}");
    assert!(growth >= of_table, "{growth} bytes: the measure sees nothing");
}
