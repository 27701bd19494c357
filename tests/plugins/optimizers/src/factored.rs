//! Second moments of a matrix as the means of its rows and of its columns, as Adafactor has them.

use mdt_plugin_api::prelude::*;

pub struct Factored;

crate::component!(Factored);

impl TypedStates for Factored {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        let count = StateSpec::zeros("count").with_shape(StateShape::Scalar).with_dtype(Dtype::U64);
        let axis = |name, length| StateSpec::zeros(name).with_shape(StateShape::Of(vec![length]));
        Ok(match parameter.shape[..] {
            [rows, columns] => vec![axis("rows", rows), axis("columns", columns), count],
            _ => vec![StateSpec::zeros("squares").with_dtype(Dtype::F64), count],
        })
    }
}

const DECAY: f64 = 0.9;

impl TypedSlices for Factored {
    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
        Granularity::Tensor
    }

    fn update(&self, update: &Update<'_>, param: &mut [f32], grad: &[f32], states: &mut [StateMut<'_>]) -> Result<()> {
        let (count, moments) = states.split_last_mut().ok_or_else(|| Error::plugin("no states"))?;
        let count = &mut count.elements::<u64>()?[0];
        *count += 1;
        if *count != update.step {
            return Err(Error::plugin(format!("update {} is number {count} of this state", update.step)));
        }
        match (moments, update.shape) {
            ([rows, columns], &[_, width]) => {
                let (rows, columns) = (rows.elements::<f32>()?, columns.elements::<f32>()?);
                let height = rows.len();
                let decay = DECAY as f32;
                rows.iter_mut().chain(columns.iter_mut()).for_each(|mean| *mean *= decay);
                for (place, g) in grad.iter().enumerate() {
                    rows[place / width] += (1.0 - decay) * g * g / width as f32;
                    columns[place % width] += (1.0 - decay) * g * g / height as f32;
                }
                let mean = rows.iter().sum::<f32>() / height as f32;
                for (place, (p, g)) in param.iter_mut().zip(grad).enumerate() {
                    let square = rows[place / width] * columns[place % width] / mean.max(1e-30);
                    *p -= update.learning_rate as f32 * g / (square.sqrt() + 1e-8);
                }
            }
            ([squares], _) => {
                for ((p, g), square) in param.iter_mut().zip(grad).zip(squares.elements::<f64>()?) {
                    *square = DECAY * *square + (1.0 - DECAY) * f64::from(g * g);
                    *p -= (update.learning_rate * f64::from(*g) / (square.sqrt() + 1e-8)) as f32;
                }
            }
            _ => return Err(Error::plugin("other states than were declared")),
        }
        Ok(())
    }
}
