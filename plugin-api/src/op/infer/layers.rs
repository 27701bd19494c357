//! Operations of whole layers.

use super::matrix::of_product;
use super::{Call, Outcome, broadcast, common_float, expect, one, refuse};
use crate::{Dtype, Result};

pub fn norm(call: &Call<'_>) -> Outcome {
    let (x, weight, bias) = (call.input(0)?, call.input(1)?, call.given(2));
    let Some(&width) = x.shape.last() else { return refuse("expected x [.., D]") };
    let fits = weight.shape == [width] && bias.is_none_or(|bias| bias.shape == [width]);
    expect(fits, "x [.., D], a weight [D] and, if any, a bias [D]")?;
    one(x.shape.clone(), common_float([x, weight].into_iter().chain(bias))?)
}

pub fn rope(call: &Call<'_>) -> Outcome {
    let (x, frequencies, positions) = (call.first()?, call.input(1)?, call.given(2));
    let expected = "x [B, H, T, D], float32 inverse frequencies [D/2] and, if any, int32 positions [B, T]";
    let &[batch, _, tokens, width] = &x.shape[..] else { return refuse(format!("expected {expected}")) };
    let fits = width % 2 == 0
        && frequencies.shape == [width / 2]
        && frequencies.dtype == Dtype::F32
        && positions.is_none_or(|positions| positions.shape == [batch, tokens] && positions.dtype == Dtype::I32);
    expect(fits, expected)?;
    if positions.is_some() && call.attributes.optional::<i64>("offset")?.unwrap_or(0) != 0 {
        return refuse("takes positions or an offset, not both");
    }
    one(x.shape.clone(), x.dtype)
}

pub fn attention(call: &Call<'_>) -> Outcome {
    let (query, key, value) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (segments, mask, sinks) = (call.given(3), call.given(4), call.given(5));
    let dtype = common_float([query, key, value].into_iter().chain(mask).chain(sinks))?;
    let expected = "query [B, H, T, D], key and value [B, H_kv, S, D] with H_kv dividing H";
    let (&[batch, heads, queries, width], &[key_batch, groups, keys, key_width]) = (&query.shape[..], &key.shape[..])
    else {
        return refuse(format!("expected {expected}"));
    };
    let fits =
        key.shape == value.shape && batch == key_batch && width == key_width && groups > 0 && heads % groups == 0;
    expect(fits, expected)?;
    let fits = segments.is_none_or(|segments| segments.shape == [batch, keys] && segments.dtype == Dtype::I32);
    expect(fits, "int32 segments [B, S]")?;
    let scores = [batch, heads, queries, keys];
    let fits = mask.is_none_or(|mask| {
        mask.shape.len() == 4
            && mask.shape[3] == keys
            && broadcast(&mask.shape, &scores).is_ok_and(|shape| shape == scores)
    });
    expect(fits, "a mask [B or 1, H or 1, T or 1, S]")?;
    expect(sinks.is_none_or(|sinks| sinks.shape == [heads]), "sinks [H]")?;
    let window = call.attributes.optional::<i64>("window")?;
    if let Some(window) = window.filter(|&window| window < 1) {
        return refuse(format!("attribute \"window\" cannot be {window}"));
    }
    let has_places = call.attributes.optional("causal")?.unwrap_or(false) || window.is_some() || segments.is_some();
    expect(!has_places || queries <= keys, "no more queries than keys where they have places")?;
    soft_cap(call)?;
    call.rate("dropout")?;
    if call.attributes.optional::<f64>("dropout")?.is_some() != call.attributes.optional::<i64>("key")?.is_some() {
        return refuse("takes the attributes \"dropout\" and \"key\" together");
    }
    one(query.shape.clone(), dtype)
}

fn soft_cap(call: &Call<'_>) -> Result<()> {
    match call.attributes.optional::<f64>("soft_cap")? {
        Some(cap) if cap.is_nan() || cap <= 0.0 => {
            refuse(format!("attribute \"soft_cap\" must be positive, not {cap}"))
        }
        _ => Ok(()),
    }
}

pub fn swiglu(call: &Call<'_>) -> Outcome {
    let (gate, up) = (call.input(0)?, call.input(1)?);
    expect(gate.shape == up.shape, "gate and up of one shape")?;
    one(gate.shape.clone(), common_float([gate, up])?)
}

pub fn cross_entropy(call: &Call<'_>) -> Outcome {
    let (logits, targets) = (call.first()?, call.input(1)?);
    let expected = "logits [N, V] with V at least 1 and int32 targets [N]";
    let &[rows, vocabulary] = &logits.shape[..] else { return refuse(format!("expected {expected}")) };
    expect(vocabulary > 0 && targets.shape == [rows] && targets.dtype == Dtype::I32, expected)?;
    one(vec![rows], Dtype::F32)
}

pub fn token_losses(call: &Call<'_>) -> Outcome {
    let (hidden, weight, targets, bias) = (call.input(0)?, call.input(1)?, call.input(2)?, call.given(3));
    let expected = "hidden states [N, D], a weight [V, D] with V at least 1, int32 targets [N] and, if any, a bias [V]";
    let (&[rows, width], &[vocabulary, columns]) = (&hidden.shape[..], &weight.shape[..]) else {
        return refuse(format!("expected {expected}"));
    };
    let fits = width == columns
        && vocabulary > 0
        && targets.shape == [rows]
        && targets.dtype == Dtype::I32
        && bias.is_none_or(|bias| bias.shape == [vocabulary]);
    expect(fits, expected)?;
    common_float([hidden, weight].into_iter().chain(bias))?;
    of_product(call, Dtype::F32)?;
    soft_cap(call)?;
    if let Some(at_a_time) = call.attributes.optional::<i64>("rows")?.filter(|&at_a_time| at_a_time < 1) {
        return refuse(format!("attribute \"rows\" cannot be {at_a_time}"));
    }
    one(vec![rows], Dtype::F32)
}

pub fn embedding(call: &Call<'_>) -> Outcome {
    let (weight, ids) = (call.first()?, call.input(1)?);
    let &[_, width] = &weight.shape[..] else { return refuse("expected a table [V, D] and int32 ids") };
    expect(ids.dtype == Dtype::I32, "a table [V, D] and int32 ids")?;
    one([&ids.shape[..], &[width]].concat(), weight.dtype)
}
