//! Frequencies of rotary positions, and how they are scaled.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`, in f32 where it works in f32: Su et al. 2021
//! (<https://arxiv.org/abs/2104.09864>), NTK-aware and linear scaling by kaiokendev, bloc97 and emozilla, YaRN by Peng et al. 2023
//! (<https://arxiv.org/abs/2309.00071>), LongRoPE, and Llama 3.1's. Powers and logarithms are those of the `libm` crate, which gives the
//! same bits on every machine.

use std::f64::consts::PI;

use mdt_plugin_api::{HostArray, ModelContext, Result, Tensor};

use crate::attention::features;
use crate::json::Object;

/// Rotary positions of a kind of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many features of each head are rotated, from the first on.
    width: usize,
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
    /// Each frequency divided by a factor of its own: by others in sequences longer than `original`, whose keys are others, too.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        attention_factor: f64,
        original: f64,
    },
}

/// What holds where a file says nothing, and which keys the family reads.
#[derive(Clone, Debug)]
pub struct RopeDefaults {
    /// Width of a head.
    pub head_dim: usize,
    /// `rope_theta`.
    pub theta: f64,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `original_max_position_embeddings`; `max_position_embeddings` where that is `None`.
    pub original: Option<usize>,
    /// Whether a part of each head may be rotated, `partial_rotary_factor`.
    pub partial: bool,
}

impl RopeDefaults {
    /// Without sizes.
    pub const PLAIN: Self = Self { head_dim: 0, theta: 10_000.0, max_positions: 0, original: None, partial: false };
}

/// Frequencies for one forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position, `[width / 2]`.
    pub inverse: Vec<f32>,
    /// What sine and cosine are multiplied by.
    pub scale: f64,
}

/// Rotary positions of one forward pass.
pub struct Rotation<'a> {
    /// Radians per position, `[width / 2]`.
    pub inverse_frequencies: &'a Tensor,
    /// What sine and cosine are multiplied by.
    pub scale: f64,
}

impl Rotation<'_> {
    /// Rotates x `[B, H, T, D]`, or the first of its features.
    pub fn of(&self, ctx: &ModelContext, x: &Tensor) -> Result<Tensor> {
        let (width, head_dim) = (2 * self.inverse_frequencies.shape()?[0], x.shape()?[3]);
        let rope = |x: &Tensor| ctx.rope(x, self.inverse_frequencies, self.scale);
        if width == head_dim {
            return rope(x);
        }
        Tensor::concatenate(&[&rope(&features(x, 0..width)?)?, &features(x, width..head_dim)?], -1)
    }
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4; `type` before
    /// 4.43, `rope_type` since).
    ///
    /// # Errors
    /// An unknown type, missing or impossible numbers; the error names the key.
    pub fn read(config: &Object<'_>, defaults: &RopeDefaults) -> Result<Self> {
        // transformers 5 reads both names too, and prefers the older one where something stands in it.
        let older = config.object("rope_scaling")?.filter(|object| !object.is_empty());
        let newer = config.object("rope_parameters")?;
        for kind in ["full_attention", "sliding_attention"] {
            if let Some(parameters) = newer.as_ref().filter(|parameters| parameters.contains(kind)) {
                return Err(parameters.refuse(kind, "is not here: this family has one kind of rotary positions"));
            }
        }
        Self::of_kind(config, older.or(newer), "rope_theta", defaults)
    }

    /// Reads those of one kind of layers, whose base stands in `theta` where it is not among `parameters`.
    ///
    /// # Errors
    /// Those of [`Rope::read`].
    pub fn of_kind(
        config: &Object<'_>,
        parameters: Option<Object<'_>>,
        theta: &str,
        defaults: &RopeDefaults,
    ) -> Result<Self> {
        let max_positions = config.size("max_position_embeddings")?.unwrap_or(defaults.max_positions);
        let parameters = parameters.as_ref();
        // Both places are read, and the one among the parameters goes before.
        let number = |key: &str, beside: &str| -> Result<Option<f64>> {
            let beside = config.positive(beside)?;
            Ok(parameters.map(|parameters| parameters.positive(key)).transpose()?.flatten().or(beside))
        };
        let theta = number("rope_theta", theta)?.unwrap_or(defaults.theta);
        let part = number("partial_rotary_factor", "partial_rotary_factor")?.unwrap_or(1.0);
        let width = (defaults.head_dim as f64 * part) as usize;
        if part != 1.0 && !defaults.partial {
            let why = format!("is {part}; this family rotates whole heads");
            return Err(config.refuse("partial_rotary_factor", why));
        }
        if width == 0 || width > defaults.head_dim || !width.is_multiple_of(2) {
            let why = format!("is {part}, which rotates {width} features of {}", defaults.head_dim);
            return Err(config.refuse("partial_rotary_factor", why));
        }
        let scaling = match parameters {
            Some(parameters) => {
                let original = defaults.original.unwrap_or(max_positions);
                Scaling::read(parameters, config, width, max_positions, original)?
            }
            None => Scaling::None,
        };
        Ok(Self { width, theta, max_positions, scaling })
    }

    /// The frequencies of a pass `[width / 2]` on the device, and what sine and cosine are multiplied by.
    pub fn frequencies(&self, ctx: &ModelContext) -> Result<(Tensor, f64)> {
        let on_device = |length: usize| -> Result<(Tensor, f64)> {
            let Frequencies { inverse, scale } = self.of_length(length);
            Ok((Tensor::from_host(ctx.compute(), &HostArray::new(&[inverse.len()], &inverse)?)?, scale))
        };
        let Scaling::Long { original, .. } = self.scaling else { return on_device(ctx.length()) };
        let original = original as usize;
        let (short, long) = (on_device(original)?.0, on_device(original + 1)?);
        if ctx.length() <= original {
            return Ok((short, long.1));
        }
        let positions = ctx.positions()?;
        // A part of a sequence that is generated: the whole is long. A packed row may be longer than all of its documents.
        if positions.shape()?.last().is_some_and(|&tokens| tokens < ctx.length()) {
            return Ok(long);
        }
        let is_long = positions.max()?.greater_equal(original as f64)?;
        Ok((is_long.select(&long.0, &short)?, long.1))
    }

    /// The length beyond which a sequence has other keys, where there is one.
    pub fn other_keys_beyond(&self) -> Option<usize> {
        match self.scaling {
            Scaling::Long { original, .. } => Some(original as usize),
            _ => None,
        }
    }

    /// Frequencies for a pass whose last position is `length - 1`; few kinds of scaling look at it.
    pub fn of_length(&self, length: usize) -> Frequencies {
        let plain = || inverse_frequencies(self.theta, self.width);
        let (inverse, scale) = match &self.scaling {
            Scaling::None => (plain(), 1.0),
            Scaling::Linear { factor } => {
                (plain().into_iter().map(|frequency| frequency / *factor as f32).collect(), 1.0)
            }
            Scaling::Dynamic { factor } => {
                let (longest, width) = (self.max_positions as f64, self.width as f64);
                let stretch = factor * (length as f64).max(longest) / longest - (factor - 1.0);
                (inverse_frequencies(self.theta * libm::pow(stretch, width / (width - 2.0)), self.width), 1.0)
            }
            &Scaling::Llama3 { factor, low, high, original } => {
                (plain().into_iter().map(|frequency| llama3(frequency, factor, low, high, original)).collect(), 1.0)
            }
            &Scaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original, truncate } => {
                // The dimension that turns this many times over the original length.
                let dimension = |turns: f64| {
                    self.width as f64 * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(self.theta))
                };
                let (mut first, mut last) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(self.width as f64 - 1.0));
                (yarn(&plain(), factor, first, last), attention_factor)
            }
            Scaling::Long { short, long, attention_factor, original } => {
                let factors = if length as f64 > *original { long } else { short };
                let divided = |(power, &factor): (f32, &f64)| 1.0 / (factor as f32 * power);
                (powers(self.theta, self.width).zip(factors).map(divided).collect(), *attention_factor)
            }
        };
        Frequencies { inverse, scale }
    }
}

impl Scaling {
    fn read(
        parameters: &Object<'_>,
        config: &Object<'_>,
        width: usize,
        max_positions: usize,
        original: usize,
    ) -> Result<Self> {
        let name = match parameters.text("rope_type")? {
            Some(name) => name,
            None => parameters.text("type")?.unwrap_or("default"),
        };
        let needed = |key: &str| parameters.required(key, parameters.positive(key)?);
        // A length next to the other sizes goes before one among the rope parameters, as in transformers 5.
        let original = || -> Result<f64> {
            let given = match config.size("original_max_position_embeddings")? {
                Some(given) => Some(given),
                None => parameters.size("original_max_position_embeddings")?,
            };
            Ok(given.unwrap_or(original) as f64)
        };
        Ok(match name {
            "default" => Self::None,
            "linear" => Self::Linear { factor: needed("factor")? },
            "dynamic" if width <= 2 => {
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
            // Phi-3's files have had other names for it.
            "longrope" | "su" => Self::read_long(parameters, width, max_positions, original()?)?,
            "yarn" if parameters.contains("long_factor") => {
                Self::read_long(parameters, width, max_positions, original()?)?
            }
            "yarn" => Self::read_yarn(parameters, max_positions, original()?)?,
            other => {
                let why = format!(
                    "is {other:?}; this model plugin knows default, linear, dynamic, llama3, yarn \
                     and longrope"
                );
                return Err(parameters.refuse("rope_type", why));
            }
        })
    }

    /// Ding et al. 2024 (<https://arxiv.org/abs/2402.13753>).
    fn read_long(parameters: &Object<'_>, width: usize, max_positions: usize, original: f64) -> Result<Self> {
        let factors = |key: &str| -> Result<Vec<f64>> {
            let factors = parameters.required(key, parameters.numbers(key)?)?;
            if factors.len() != width / 2 {
                let why =
                    format!("has {} numbers for the {} pairs of features that are rotated", factors.len(), width / 2);
                return Err(parameters.refuse(key, why));
            }
            Ok(factors)
        };
        let factor = parameters.positive("factor")?.unwrap_or(max_positions as f64 / original);
        let attention_factor = match parameters.number("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + libm::log(factor) / libm::log(original)).sqrt(),
        };
        Ok(Self::Long { short: factors("short_factor")?, long: factors("long_factor")?, attention_factor, original })
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
fn inverse_frequencies(theta: f64, width: usize) -> Vec<f32> {
    powers(theta, width).map(|power| 1.0 / power).collect()
}

fn powers(theta: f64, width: usize) -> impl Iterator<Item = f32> {
    (0..width).step_by(2).map(move |feature| {
        let exponent = feature as f32 / width as f32;
        libm::pow(f64::from(theta as f32), f64::from(exponent)) as f32
    })
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
