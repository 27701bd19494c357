use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn drawing(temperature: f64) -> Drawing {
    Drawing { temperature, ..Drawing::default() }
}

/// The tokens that may be drawn after these, with their probabilities.
fn probabilities(drawing: &Drawing, logits: &[f32], history: &[u32]) -> Vec<(usize, f64)> {
    let kept = drawing.kept(drawing.penalised(logits, history).as_deref().unwrap_or(logits));
    let sum: f64 = kept.iter().map(|candidate| candidate.score.exp()).sum();
    kept.iter().map(|candidate| (candidate.token, candidate.score.exp() / sum)).collect()
}

#[test]
fn the_tokens_that_may_be_drawn_and_their_probabilities_are_those_of_transformers() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sampling/cases.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let list = |name: &str| case[name].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
        let option = |name: &str, otherwise: f64| case["options"][name].as_f64().unwrap_or(otherwise);
        let drawing = Drawing {
            temperature: option("temperature", 1.0),
            top_k: case["options"]["top_k"].as_u64().map(|count| count as usize),
            top_p: option("top_p", 1.0),
            min_p: option("min_p", 0.0),
            repetition_penalty: option("repetition_penalty", 1.0),
            repetition_context: None,
        };
        let logits: Vec<f32> = list("logits").iter().map(|&logit| logit as f32).collect();
        let history: Vec<u32> = list("history").iter().map(|&token| token as u32).collect();
        let (tokens, shares): (Vec<_>, Vec<_>) = probabilities(&drawing, &logits, &history).into_iter().unzip();
        let expected: Vec<usize> = list("kept").iter().map(|&token| token as usize).collect();
        assert_eq!(tokens, expected, "{}", case["options"]);
        for (share, expected) in shares.iter().zip(list("probabilities")) {
            assert!((share / expected - 1.0).abs() < 2e-5, "{share} {expected}: {}", case["options"]);
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let logits = [0.0, 2.0_f32.ln(), f32::MIN, 5.0_f32.ln()];
    let mut stream = Stream::new(1, "test", 0);
    let mut counts = [0; 4];
    for _ in 0..8000 {
        let token = drawing(1.0).token(&logits, &[], &mut stream).unwrap();
        counts[token as usize] += 1;
        let expected = [1.0, 2.0, 0.0, 5.0_f32][token as usize] / 8.0;
        assert!((log_probability(&logits, token) - expected.ln()).abs() < 1e-6);
    }
    assert_eq!(counts[2], 0);
    for (count, expected) in [(counts[0], 1000), (counts[1], 2000), (counts[3], 5000)] {
        assert!((expected - 150..expected + 150).contains(&count), "{counts:?}");
    }
}

#[test]
fn a_temperature_of_0_takes_the_most_likely_token() {
    let mut stream = Stream::new(1, "test", 0);
    assert_eq!(drawing(0.0).token(&[1.0, 3.0, 2.0, 3.0], &[], &mut stream).unwrap(), 1);
    assert!(drawing(1.0).token(&[1.0, f32::NAN], &[], &mut stream).is_err());
    assert!(drawing(0.0).token(&[f32::INFINITY, 1.0], &[], &mut stream).is_err());
    assert!(drawing(0.0).token(&[], &[], &mut stream).is_err());
}

#[test]
fn the_penalty_reaches_as_far_back_as_it_is_told() {
    let logits = [4.0, 3.0, -1.0];
    let penalised = |context| {
        let drawing = Drawing { repetition_penalty: 2.0, repetition_context: context, ..Drawing::default() };
        drawing.penalised(&logits, &[0, 2, 2, 9]).unwrap()
    };
    assert_eq!(penalised(None), [2.0, 3.0, -2.0]);
    assert_eq!(penalised(Some(3)), [4.0, 3.0, -2.0]);
    assert_eq!(penalised(Some(1)), [4.0, 3.0, -1.0], "a token beyond the logits has none to change");
    assert_eq!(penalised(Some(0)), logits);
    let mut stream = Stream::new(1, "test", 0);
    let greedy = Drawing { repetition_penalty: 2.0, ..Drawing::default() };
    assert_eq!(greedy.token(&logits, &[0], &mut stream).unwrap(), 1);
}

/// The nucleus by its definition, over all tokens sorted.
fn nucleus(logits: &[f32], share: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let weight = |token: usize| f64::from(logits[token]).exp();
    let all: f64 = (0..logits.len()).map(weight).sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for token in order {
        if before / all >= share && !kept.is_empty() {
            break;
        }
        before += weight(token);
        kept.push(token);
    }
    kept.sort_unstable();
    kept
}

proptest! {
    #[test]
    fn top_p_keeps_the_fewest_tokens_that_are_enough(
        logits in prop::collection::vec(-4.0f32..4.0, 1..400), share in 0.001f64..0.999,
    ) {
        let drawing = Drawing { top_p: share, ..drawing(1.0) };
        let kept: Vec<usize> = drawing.kept(&logits).iter().map(|candidate| candidate.token).collect();
        prop_assert_eq!(kept, nucleus(&logits, share));
    }

    #[test]
    fn a_seed_draws_the_same_token_again_and_only_one_that_is_kept(
        logits in prop::collection::vec(-9.0f32..9.0, 1..100), seed in any::<u64>(), top_k in 1usize..9, min_p in 0.0f64..1.0,
    ) {
        let drawing = Drawing { top_k: Some(top_k), min_p, ..drawing(0.8) };
        let draw = || drawing.token(&logits, &[], &mut Stream::new(seed, "answer", 0)).unwrap();
        let token = draw();
        prop_assert_eq!(token, draw());
        prop_assert!(drawing.kept(&logits).iter().any(|candidate| candidate.token == token as usize));
    }
}
