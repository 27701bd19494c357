//! Models that mlx-lm quantised: logits, generation, training beside them, and what is left of them.

use std::path::PathBuf;

use mdt_tests::{LoadedModel, arrays, integers, relative_difference, root};
use safetensors::SafeTensors;

/// Tokens of a row of the fixtures.
const LENGTH: usize = 40;
/// Tied 4 bits; 3 and 6 bits with biases and scales in bf16; 5 bits beside whole embeddings, with scales in f16.
const NAMES: [&str; 3] = ["tied", "mixed", "partly"];

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/quantised").join(name)
}

#[test]
fn logits_of_a_quantised_model_are_those_of_mlx_lm() {
    for name in NAMES {
        let file = fixture(&format!("{name}.logits.safetensors"));
        let [(_, theirs)] = <[_; 1]>::try_from(arrays(&file)).expect("one array of f32");
        let (ids, model) = (integers(&file, "input_ids"), LoadedModel::open(&fixture(name)));
        let difference = relative_difference(&model.logits(ids.len() / LENGTH, &ids), &theirs);
        println!("{name}: {difference:.1e}");
        assert!(difference < 1e-4, "{name}: {difference:e}");
        let tokens = integers(&file, "greedy");
        assert_eq!(model.greedy(&ids[..6], tokens.len()), tokens, "{name}");
        // Token by token, as generation has them: few rows are multiplied by another kernel.
        let ids = &ids[..LENGTH];
        let whole = model.hidden(ids);
        for pieces in [ids.chunks(1).collect::<Vec<_>>(), vec![&ids[..1], &ids[1..9], &ids[9..10], &ids[10..]]] {
            let difference = relative_difference(&model.hidden_in_pieces(&pieces), &whole);
            assert!(difference < 1e-5, "{name}, {} pieces: {difference:e}", pieces.len());
        }
    }
}

#[test]
fn weights_that_are_quantised_when_they_are_loaded_are_those_of_mlx_lm_bit_for_bit() {
    for (name, bits) in [("llama3", 4), ("bf16", 3)] {
        let model = LoadedModel::open_quantised(&root().join("tests/fixtures/models").join(name), bits, 32);
        let ours = model.quantised();
        let bytes = std::fs::read(fixture(&format!("of_{name}.safetensors"))).expect("the fixture");
        let theirs = SafeTensors::deserialize(&bytes).expect("arrays");
        let is_quantised = |name: &str| theirs.tensor(&name.replace(".weight", ".scales")).is_ok();
        let count = theirs.names().iter().filter(|name| is_quantised(name)).count();
        assert!(ours.len() == count && count > 30, "{name}: {} arrays, and {count}", ours.len());
        for (tensor, bytes) in ours {
            assert_eq!(bytes, theirs.tensor(&tensor).expect("the array").data(), "{name}: {tensor}");
        }
    }
}
