//! Training follows PyTorch: the same data, the same losses, the same weights.

use mdt_tests::{Job, root};
use serde_json::Value;

fn curve() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/training/curve.json")).expect("the fixture");
    let curve: Value = serde_json::from_str(&text).expect("JSON");
    curve.get("updates").unwrap_or(&curve).as_array().expect("a list").clone()
}

#[test]
fn twenty_updates_follow_the_losses_norms_and_rates_of_pytorch() {
    let job = Job::new();
    job.run().success();
    let (ours, theirs) = (job.updates(), curve());
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for (key, tolerance) in [("loss", 1e-4), ("grad_norm", 1e-4), ("lr", 1e-12)] {
            let (a, b) = (ours[key].as_f64().expect("a number"), theirs[key].as_f64().expect("a number"));
            assert!((a - b).abs() <= tolerance * b.abs(), "update {}: {key} is {a}, PyTorch has {b}", theirs["step"]);
        }
        for key in ["step", "tokens", "supervised_tokens"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
    }
}
