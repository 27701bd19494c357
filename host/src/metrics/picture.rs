//! `loss.svg`: the loss over the updates.

use super::read::Curve;
use crate::exit::Failure;
use crate::storage::{self, unwritable};
use crate::terminal::printable;
use plotters::prelude::*;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Draws the curve to `<output_dir>/loss.svg` and returns that path.
pub fn write_picture(output_dir: &Path, title: &str, curve: &Curve) -> Result<PathBuf, Failure> {
    let path = output_dir.join(super::PICTURE);
    let drawn = draw(title, curve).map_err(|error| io::Error::other(error.to_string()));
    drawn
        .and_then(|svg| storage::write(&path, svg.as_bytes()))
        .map_err(|error| unwritable("the picture of the loss cannot be written", &path, &error))?;
    Ok(path)
}

const SIZE: (u32, u32) = (1200, 675);
/// More points than pixels cost space and show nothing.
const MAX_POINTS: usize = 2000;

/// The picture as SVG: the loss of each update as a faint line, the smoothed loss over it, evaluations as dots.
fn draw(title: &str, curve: &Curve) -> Result<String, Box<dyn Error>> {
    let points = || curve.train.iter().chain(&curve.eval);
    let last = points().map(|point| point.0).max().unwrap_or(1);
    let lowest = points().fold(0.0, |lowest: f64, point| lowest.min(point.1));
    let highest = points().fold(f64::NEG_INFINITY, |highest, point| highest.max(point.1));
    let highest = if highest > lowest { highest } else { lowest + 1.0 };

    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(printable(title), ("sans-serif", 24))
        .margin(20)
        .x_label_area_size(50)
        .y_label_area_size(70)
        .build_cartesian_2d(0..last, lowest..highest)?;
    chart.configure_mesh().disable_x_mesh().light_line_style(WHITE).x_desc("update").y_desc("loss").draw()?;
    let thinned = |points: Vec<(u64, f64)>| {
        let step = points.len().div_ceil(MAX_POINTS).max(1);
        points.into_iter().step_by(step)
    };
    let dot = |colour: RGBColor| move |place: (i32, i32)| Circle::new(place, 5, colour.filled());
    chart.draw_series(LineSeries::new(thinned(curve.train.clone()), BLUE.mix(0.25)))?;
    chart
        .draw_series(LineSeries::new(thinned(smoothed(&curve.train)), BLUE.stroke_width(2)))?
        .label("loss")
        .legend(dot(BLUE));
    if !curve.eval.is_empty() {
        let evaluations = curve.eval.iter().map(|&point| Circle::new(point, 5, RED.filled()));
        chart.draw_series(evaluations)?.label("eval_loss").legend(dot(RED));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperRight).background_style(WHITE).draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}

/// The mean over a window of a twentieth of the run around each point, narrower at both ends.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let reach = points.len() / 40;
    let mut sums = vec![0.0];
    for &(_, loss) in points {
        sums.push(sums[sums.len() - 1] + loss);
    }
    let mean = |(place, &(step, _)): (usize, &(u64, f64))| {
        let reach = reach.min(place).min(points.len() - 1 - place);
        let (from, to) = (place - reach, place + reach + 1);
        (step, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_picture_has_both_axes_the_raw_and_the_smoothed_line_and_the_evaluations() {
        let train: Vec<_> = (1..=400).map(|step| (step, 4.0 / (step as f64).sqrt())).collect();
        let svg = draw("a < b", &Curve { train, eval: vec![(200, 0.5), (400, 0.4)] }).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        // One of each colour is in the legend.
        assert_eq!(svg.matches("<circle").count(), 4);
        for text in ["a &lt; b", "update", "loss", "eval_loss", "100", "400", "4.0"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is not in {svg}");
        }
    }

    #[test]
    fn smoothing_keeps_the_mean_of_a_noisy_constant_and_the_ends() {
        let points: Vec<_> = (0..400).map(|step| (step, if step % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let smooth = smoothed(&points);
        assert_eq!((smooth[0], smooth[399]), (points[0], points[399]));
        assert!(smooth[20..380].iter().all(|point| (point.1 - 2.0).abs() < 0.06));
    }

    proptest! {
        #[test]
        fn every_curve_gives_a_picture_inside_its_frame(
            losses in proptest::collection::vec(-5.0f64..1e6, 0..60),
            evaluations in proptest::collection::vec(0.0f64..10.0, 0..3),
        ) {
            let number = |losses: Vec<f64>| (1..).zip(losses).collect::<Vec<_>>();
            let svg = draw("t", &Curve { train: number(losses), eval: number(evaluations) }).unwrap();
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for points in svg.split(" points=\"").skip(1) {
                let points = points.split('"').next().unwrap_or_default();
                for number in points.split([' ', ',']).filter(|text| !text.is_empty()) {
                    prop_assert!((0..=SIZE.0 as i32).contains(&number.parse().unwrap()), "{svg}");
                }
            }
        }
    }
}
