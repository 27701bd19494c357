//! Frequencies of rotary positions, and how they are scaled.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`, in f32 where it works in f32: Su et al. 2021
//! (<https://arxiv.org/abs/2104.09864>), NTK-aware and linear scaling by kaiokendev, bloc97 and emozilla, YaRN by Peng et al. 2023
//! (<https://arxiv.org/abs/2309.00071>), and Llama 3.1's. Powers and logarithms are those of the `libm` crate, which gives the
//! same bits on every machine.

use std::f64::consts::PI;

use mdt_plugin_api::Result;

use crate::json::Object;

/// Rotary positions of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    head_dim: usize,
    theta: f64,
    /// The longest sequence that the model was made for.
    max_positions: usize,
    scaling: Scaling,
}

/// How frequencies are scaled for sequences longer than those of pre-training.
#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// A larger base, for sequences beyond the model's length only. As in transformers, keys that already stand in a
    /// cache keep the rotation they got when the sequence was shorter.
    Dynamic {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a linear blend by number of turns between them.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp over dimensions between them.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original: f64,
        truncate: bool,
    },
}

/// Frequencies for one forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position, `[head_dim / 2]`.
    pub inverse: Vec<f32>,
    /// What sine and cosine are multiplied by.
    pub scale: f64,
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4; `type` before
    /// 4.43, `rope_type` since). Without `max_position_embeddings` the model is made for `max_positions`.
    ///
    /// # Errors
    /// An unknown type, missing or impossible numbers; the error names the key.
    pub fn read(config: &Object<'_>, head_dim: usize, max_positions: usize) -> Result<Self> {
        let max_positions = config.size("max_position_embeddings")?.unwrap_or(max_positions);
        // transformers 5 reads both names too, and prefers the older one where something stands in it.
        let older = config.object("rope_scaling")?.filter(|object| !object.is_empty());
        let parameters = older.or(config.object("rope_parameters")?);
        let theta = match parameters.map(|parameters| parameters.positive("rope_theta")).transpose()?.flatten() {
            Some(theta) => theta,
            None => config.positive("rope_theta")?.unwrap_or(10_000.0),
        };
        for object in parameters.iter().chain([config]) {
            if let Some(part) = object.number("partial_rotary_factor")?.filter(|&part| part != 1.0) {
                let why = format!("is {part}; rotating a part of each head is not implemented");
                return Err(object.refuse("partial_rotary_factor", why));
            }
        }
        let scaling = match parameters {
            Some(parameters) => Scaling::read(&parameters, config, head_dim, max_positions)?,
            None => Scaling::None,
        };
        Ok(Self { head_dim, theta, max_positions, scaling })
    }

    /// Frequencies for a pass whose last position is `length - 1`; only dynamic scaling looks at it.
    pub fn frequencies(&self, length: usize) -> Frequencies {
        let plain = || inverse_frequencies(self.theta, self.head_dim);
        let (inverse, scale) = match self.scaling {
            Scaling::None => (plain(), 1.0),
            Scaling::Linear { factor } => {
                (plain().into_iter().map(|frequency| frequency / factor as f32).collect(), 1.0)
            }
            Scaling::Dynamic { factor } => {
                let (longest, width) = (self.max_positions as f64, self.head_dim as f64);
                let stretch = factor * (length as f64).max(longest) / longest - (factor - 1.0);
                (inverse_frequencies(self.theta * libm::pow(stretch, width / (width - 2.0)), self.head_dim), 1.0)
            }
            Scaling::Llama3 { factor, low, high, original } => {
                (plain().into_iter().map(|frequency| llama3(frequency, factor, low, high, original)).collect(), 1.0)
            }
            Scaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original, truncate } => {
                // The dimension that turns this many times over the original length.
                let dimension = |turns: f64| {
                    self.head_dim as f64 * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(self.theta))
                };
                let (mut first, mut last) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(self.head_dim as f64 - 1.0));
                (yarn(&plain(), factor, first, last), attention_factor)
            }
        };
        Frequencies { inverse, scale }
    }
}

impl Scaling {
    fn read(parameters: &Object<'_>, config: &Object<'_>, head_dim: usize, max_positions: usize) -> Result<Self> {
        let name = match parameters.text("rope_type")? {
            Some(name) => name,
            None => parameters.text("type")?.unwrap_or("default"),
        };
        let needed = |key: &str| parameters.required(key, parameters.positive(key)?);
        // A length next to the other sizes goes before one among the rope parameters, as in transformers 5.
        let original = || -> Result<f64> {
            let original = match config.size("original_max_position_embeddings")? {
                Some(original) => Some(original),
                None => parameters.size("original_max_position_embeddings")?,
            };
            Ok(original.unwrap_or(max_positions) as f64)
        };
        Ok(match name {
            "default" => Self::None,
            "linear" => Self::Linear { factor: needed("factor")? },
            "dynamic" if head_dim <= 2 => {
                return Err(parameters.refuse("rope_type", "\"dynamic\" needs a head_dim above 2"));
            }
            "dynamic" => Self::Dynamic { factor: needed("factor")? },
            "llama3" => {
                let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
                if low >= high {
                    let why = format!("is {low}, which must be below high_freq_factor, {high}");
                    return Err(parameters.refuse("low_freq_factor", why));
                }
                Self::Llama3 { factor: needed("factor")?, low, high, original: original()? }
            }
            "yarn" => Self::read_yarn(parameters, max_positions, original()?)?,
            other => {
                let why = format!("is {other:?}; this model plugin knows default, linear, dynamic, llama3 and yarn");
                return Err(parameters.refuse("rope_type", why));
            }
        })
    }

    fn read_yarn(parameters: &Object<'_>, max_positions: usize, original: f64) -> Result<Self> {
        let factor = parameters.positive("factor")?.unwrap_or(max_positions as f64 / original);
        let magnitude = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * libm::log(factor) + 1.0 };
        // As in transformers, 0 stands for "not set" here.
        let nonzero =
            |key: &str| -> Result<Option<f64>> { Ok(parameters.number(key)?.filter(|&number| number != 0.0)) };
        let attention_factor = match parameters.number("attention_factor")? {
            Some(given) => given,
            None => match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
                (Some(above), Some(below)) => magnitude(above) / magnitude(below),
                _ => magnitude(1.0),
            },
        };
        Ok(Self::Yarn {
            factor,
            attention_factor,
            beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
            original,
            truncate: parameters.boolean("truncate")?.unwrap_or(true),
        })
    }
}

/// `1 / theta^(2i / D)`, rounded to f32 where PyTorch rounds.
fn inverse_frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim)
        .step_by(2)
        .map(|dimension| {
            let exponent = dimension as f32 / head_dim as f32;
            1.0 / (libm::pow(f64::from(theta as f32), f64::from(exponent)) as f32)
        })
        .collect()
}

fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Blends kept and divided frequencies; the ramp goes from 0 at dimension `first` to 1 at `last`.
fn yarn(plain: &[f32], factor: f64, first: f64, last: f64) -> Vec<f32> {
    let width = if first == last { 0.001 } else { last - first };
    plain
        .iter()
        .enumerate()
        .map(|(dimension, &frequency)| {
            let divided = ((dimension as f32 - first as f32) / width as f32).clamp(0.0, 1.0);
            frequency / factor as f32 * divided + frequency * (1.0 - divided)
        })
        .collect()
}

#[cfg(test)]
mod tests;
