//! What a job may rely on beside agreement with PyTorch (`tests/pytorch.rs`): the same bits however the work is cut.

use proptest::prelude::*;

use super::*;

fn sgd(momentum: f64, dampening: f64, nesterov: bool) -> Sgd {
    Sgd::new(Config { momentum, dampening, nesterov }).unwrap()
}

fn update(step: u64) -> Update<'static> {
    Update { step, learning_rate: 3e-2, weight_decay: 0.1, ..Update::first("weight", &[4, 50]) }
}

/// A parameter with its momentum, in the middle of a training.
#[derive(Clone, Debug)]
struct Trained {
    parameter: Vec<f32>,
    momentum: Vec<f32>,
}

impl Trained {
    fn bits(&self) -> Vec<u32> {
        [&self.parameter, &self.momentum].into_iter().flatten().map(|value| value.to_bits()).collect()
    }

    fn update(&mut self, sgd: &Sgd, range: std::ops::Range<usize>, step: u64, gradient: &[f32]) {
        let mut momentum = [&mut self.momentum[range.clone()]];
        let states = if sgd.states().is_empty() { &mut [][..] } else { &mut momentum[..] };
        sgd.update(&update(step), &mut self.parameter[range.clone()], &gradient[range], states).unwrap();
    }
}

/// Up to 200 elements, some of them zero or too small for a normal number, and a gradient for each.
fn trained() -> impl Strategy<Value = (Trained, Vec<f32>)> {
    let value = || prop_oneof![8 => -10f32..10.0, 1 => Just(0.0), 1 => -1e-39f32..1e-39];
    prop::collection::vec((value(), value(), value()), 1..200).prop_map(|elements| {
        let column = |pick: fn(&(f32, f32, f32)) -> f32| elements.iter().map(pick).collect::<Vec<_>>();
        (Trained { parameter: column(|e| e.0), momentum: column(|e| e.1) }, column(|e| e.2))
    })
}

proptest! {
    #[test]
    fn slices_updated_alone_give_the_bits_of_the_whole(
        (start, gradient) in trained(),
        mut cuts in prop::collection::vec(0usize..200, 0..6),
        step in 1u64..4,
    ) {
        let size = gradient.len();
        cuts.retain(|&cut| cut < size);
        cuts.extend([0, size]);
        cuts.sort_unstable();
        for sgd in [sgd(0.0, 0.0, false), sgd(0.9, 0.2, false), sgd(0.9, 0.0, true)] {
            let (mut whole, mut sliced, mut single) = (start.clone(), start.clone(), start.clone());
            whole.update(&sgd, 0..size, step, &gradient);
            cuts.windows(2).for_each(|cut| sliced.update(&sgd, cut[0]..cut[1], step, &gradient));
            (0..size).for_each(|index| single.update(&sgd, index..index + 1, step, &gradient));
            prop_assert_eq!(whole.bits(), sliced.bits());
            prop_assert_eq!(whole.bits(), single.bits());
        }
    }
}

#[test]
fn the_first_momentum_is_the_gradient_and_only_later_ones_are_dampened() {
    let sgd = sgd(0.5, 0.75, false);
    let update = |step| Update { step, learning_rate: 1.0, ..Update::first("weight", &[1]) };
    let (mut parameter, mut momentum) = ([8.0], [0.0]);
    sgd.update(&update(1), &mut parameter, &[4.0], &mut [&mut momentum]).unwrap();
    assert_eq!((parameter, momentum), ([4.0], [4.0]));
    sgd.update(&update(2), &mut parameter, &[4.0], &mut [&mut momentum]).unwrap();
    assert_eq!((parameter, momentum), ([1.0], [3.0]));
}

#[test]
fn without_momentum_nothing_is_kept_between_updates() {
    assert_eq!(sgd(0.0, 0.0, false).states(), []);
    assert_eq!(sgd(0.9, 0.0, false).states(), [StateSpec::zeros("momentum_buffer")]);
}

#[test]
fn states_and_gradients_that_do_not_fit_are_errors_and_nothing_is_written() {
    let mut parameter = [1.0; 4];
    let (plain, momentum) = (sgd(0.0, 0.0, false), sgd(0.9, 0.0, false));
    let mut message = |sgd: &Sgd, gradient: &[f32], states: &mut [&mut [f32]]| {
        let error = sgd.update(&update(1), &mut parameter, gradient, states).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Plugin);
        error.message().to_owned()
    };
    let extra = message(&plain, &[1.0; 4], &mut [&mut [0.0; 4]]);
    assert_eq!(extra, "expected 0 optimizer states, got 1");
    assert_eq!(message(&momentum, &[1.0; 4], &mut []), "expected 1 optimizer states, got 0");
    assert_eq!(message(&plain, &[1.0; 3], &mut []), "a slice of 4 parameters came with 3 gradients");
    let short = message(&momentum, &[1.0; 4], &mut [&mut [0.0; 3]]);
    assert_eq!(short, "a slice of 4 parameters came with 4 gradients and a state of 3");
    assert_eq!(parameter, [1.0; 4]);
}

#[test]
fn keys_that_cannot_work_are_refused_by_name() {
    let config = |momentum, dampening, nesterov| Config { momentum, dampening, nesterov };
    for (config, key) in [
        (config(1.0, 0.0, false), "optimizer.momentum"),
        (config(-0.1, 0.0, false), "optimizer.momentum"),
        (config(f64::NAN, 0.0, false), "optimizer.momentum"),
        (config(0.9, 1.5, false), "optimizer.dampening"),
        (config(0.9, f64::NAN, false), "optimizer.dampening"),
        (config(0.0, 0.0, true), "optimizer.nesterov"),
        (config(0.9, 0.1, true), "optimizer.nesterov"),
    ] {
        let error = Sgd::new(config).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Config);
        assert_eq!(error.context(), [("key".to_owned(), key.to_owned())]);
    }
}
