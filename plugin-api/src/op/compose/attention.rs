//! Scaled dot-product attention.

use super::elementwise::kept;
use super::{Call, first, ints};
use crate::{Dtype, Result, Tensor};

pub fn attention(call: &Call<'_>) -> Result<Tensor> {
    let (attributes, visible) = (call.attributes(), visible(call)?);
    let (query, key, value) = (call.wide(0)?, call.wide(1)?, call.wide(2)?);
    let &[batch, heads, queries, width] = call.shape(0)? else { unreachable!("checked: queries have four axes") };
    let (groups, keys) = (call.shape(1)?[1], call.shape(1)?[2]);
    // The queries of the heads that share keys stand one after another, so that each group is one product.
    let by_group = |last: usize| ints(&[batch, groups, heads / groups * queries, last]);
    let by_head = |last: usize| ints(&[batch, heads, queries, last]);

    let (key, key_marks) = finite(&key, visible.is_some())?;
    let query = query.multiply(attributes.required("scale")?)?.reshape(&by_group(width))?;
    let mut scores = query.matmul(&key.transpose(&[0, 1, 3, 2])?)?;
    if let Some(marks) = key_marks {
        // What sees a key with an element that is not finite gets NaN, and only that.
        let marked = marks.sum_axes(&[3], false)?.reshape(&ints(&[batch, groups, 1, keys]))?.greater(0.0)?;
        scores = marked.select(&scores.number(f64::NAN)?, &scores)?;
    }
    scores = scores.reshape(&by_head(keys))?;
    if let Some(cap) = attributes.optional::<f64>("soft_cap")? {
        scores = (&scores / cap)?.tanh()?.multiply(cap)?;
    }
    if let Some(mask) = call.wide_or_none(4)? {
        scores = (&scores + &mask)?;
    }
    if let Some(visible) = &visible {
        scores = visible.select(&scores, &scores.number(f64::NEG_INFINITY)?)?;
    }
    let mut weights = match call.wide_or_none(5)? {
        Some(sinks) => {
            let column = sinks.reshape(&[1, heads as i64, 1, 1])?.broadcast_to(&by_head(1))?;
            first(&Tensor::concatenate(&[&scores, &column], 3)?.softmax(3)?, 3, keys)?
        }
        None => scores.softmax(3)?,
    };
    if let Some(rate) = attributes.optional::<f64>("dropout")? {
        let kept = kept(call, rate, &[batch, heads, queries, keys])?;
        weights = kept.select(&(&weights / (1.0 - rate))?, &weights.number(0.0)?)?;
    }
    let (value, value_marks) = finite(&value, visible.is_some())?;
    let result = weights.reshape(&by_group(keys))?.matmul(&value)?.reshape(&by_head(width))?;
    let (Some(marks), Some(visible)) = (value_marks, visible) else { return Ok(result) };
    // The same of values: how many of those that are not finite a query sees in each feature.
    let visible = visible.cast(Dtype::F32)?.broadcast_to(&by_head(keys))?.reshape(&by_group(keys))?;
    let marked = visible.matmul(&marks)?.reshape(&by_head(width))?.greater(0.0)?;
    marked.select(&result.number(f64::NAN)?, &result)
}

/// Which keys each query sees, bool, broadcast to `[B, H, T, S]`; none where all do.
fn visible(call: &Call<'_>) -> Result<Option<Tensor>> {
    let (queries, keys) = (call.shape(0)?[2] as i64, call.shape(1)?[2] as i64);
    let window = call.attributes().optional::<i64>("window")?;
    let mut conditions = Vec::new();
    if call.attributes().optional("causal")?.unwrap_or(false) || window.is_some() {
        let of_keys = Tensor::arange(call.compute, keys, Dtype::I32)?;
        let places = of_keys.slice(&[keys - queries], &[keys])?.reshape(&[1, 1, queries, 1])?;
        let distance = (&places - &of_keys.reshape(&[1, 1, 1, keys])?)?;
        conditions.push(distance.greater(-1.0)?);
        if let Some(window) = window.filter(|&window| window < keys) {
            conditions.push(distance.less(window as f64)?);
        }
    }
    if call.has(3) {
        let (segments, batch) = (call.input(3)?, call.shape(1)?[0] as i64);
        let own = segments.slice(&[0, keys - queries], &[batch, keys])?.reshape(&[batch, 1, queries, 1])?;
        conditions.push(own.equal(&segments.reshape(&[batch, 1, 1, keys])?)?);
    }
    let mut conditions = conditions.into_iter();
    let Some(first) = conditions.next() else { return Ok(None) };
    conditions.try_fold(first, |all, condition| all.logical_and(&condition)).map(Some)
}

/// Where something is hidden: x with 0 for elements that are not finite, since 0 · NaN is not 0, and 1 at their places.
fn finite(x: &Tensor, something_is_hidden: bool) -> Result<(Tensor, Option<Tensor>)> {
    if !something_is_hidden {
        return Ok((x.try_clone()?, None));
    }
    let is_finite = x.stop_gradient()?.abs()?.less(f64::INFINITY)?;
    Ok((is_finite.select(x, &x.number(0.0)?)?, Some(is_finite.logical_not()?.cast(Dtype::F32)?)))
}
