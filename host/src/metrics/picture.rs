//! `loss.svg`: the loss over the updates. The lines, axes and dots of one picture need no plotting library.

use super::read::Curve;
use crate::exit::Failure;
use crate::storage::unwritable;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Draws the curve to `<output_dir>/loss.svg` and returns that path.
///
/// # Errors
/// Status 7: the file cannot be written.
pub fn write_picture(output_dir: &Path, title: &str, curve: &Curve) -> Result<PathBuf, Failure> {
    let path = output_dir.join("loss.svg");
    fs::write(&path, draw(title, curve))
        .map_err(|error| unwritable("the picture of the loss cannot be written", &path, &error))?;
    Ok(path)
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 450.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// More points than pixels cost space and show nothing.
const MOST_POINTS: usize = 2000;

/// The picture as SVG: the loss of each update as a faint line, the smoothed loss over it, evaluations as dots.
fn draw(title: &str, curve: &Curve) -> String {
    let steps = curve.train.iter().chain(&curve.eval).map(|point| point.0);
    let losses = || curve.train.iter().chain(&curve.eval).map(|point| point.1);
    let x = Axis::over(0.0, steps.max().unwrap_or(1) as f64, LEFT, WIDTH - RIGHT, 1.0);
    let highest = losses().fold(f64::NEG_INFINITY, f64::max);
    let lowest = losses().fold(f64::INFINITY, f64::min);
    let (lowest, highest) = if lowest <= highest { (lowest.min(0.0), highest) } else { (0.0, 1.0) };
    let y = Axis::over(lowest, highest, HEIGHT - BOTTOM, TOP, 0.0);

    let mut svg = String::new();
    let mut add = |element: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "{element}");
    };
    add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">"
    ));
    add(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
    add(format_args!("<text x=\"{LEFT}\" y=\"26\" font-size=\"16\" font-weight=\"600\">{}</text>", escaped(title)));
    for tick in y.ticks() {
        let (at, edge) = (y.place(tick), WIDTH - RIGHT);
        add(format_args!("<path d=\"M{LEFT} {at:.1}H{edge}\" stroke=\"#e4e4e4\"/>"));
        let (left, middle) = (LEFT - 8.0, at + 4.0);
        add(format_args!("<text x=\"{left}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>", y.label(tick)));
    }
    let floor = HEIGHT - BOTTOM;
    for tick in x.ticks() {
        let (at, below) = (x.place(tick), floor + 18.0);
        add(format_args!("<path d=\"M{at:.1} {floor}v5\" stroke=\"#333\"/>"));
        add(format_args!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", x.label(tick)));
    }
    add(format_args!("<path d=\"M{LEFT} {TOP}V{floor}H{}\" fill=\"none\" stroke=\"#333\"/>", WIDTH - RIGHT));
    let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0);
    add(format_args!("<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">update</text>"));
    let middle = (TOP + floor) / 2.0;
    add(format_args!(
        "<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle})\">loss</text>"
    ));
    let line = |points: &[(u64, f64)]| {
        let points: Vec<_> = points
            .iter()
            .step_by(points.len().div_ceil(MOST_POINTS).max(1))
            .map(|&(step, loss)| format!("{:.1},{:.1}", x.place(step as f64), y.place(loss)))
            .collect();
        points.join(" ")
    };
    let style = "fill=\"none\" stroke=\"#2563eb\" stroke-linejoin=\"round\"";
    add(format_args!("<polyline {style} stroke-opacity=\"0.25\" points=\"{}\"/>", line(&curve.train)));
    add(format_args!("<polyline {style} stroke-width=\"2\" points=\"{}\"/>", line(&smoothed(&curve.train))));
    for &(step, loss) in &curve.eval {
        let (x, y) = (x.place(step as f64), y.place(loss));
        add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"#ea580c\"/>"));
    }
    let mut legend = vec![("#2563eb", "loss")];
    if !curve.eval.is_empty() {
        legend.push(("#ea580c", "eval_loss"));
    }
    for (place, (colour, text)) in legend.into_iter().enumerate() {
        let at = WIDTH - RIGHT - 90.0 * (place + 1) as f64;
        add(format_args!("<circle cx=\"{at}\" cy=\"22\" r=\"4\" fill=\"{colour}\"/>"));
        add(format_args!("<text x=\"{}\" y=\"26\">{text}</text>", at + 9.0));
    }
    add(format_args!("</svg>"));
    svg
}

/// A mean over a window of a twentieth of the run around each point, narrower at both ends.
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

/// A linear axis with ticks at 1, 2 or 5 times a power of ten.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    spacing: f64,
}

impl Axis {
    /// Values from `low` to `high`, drawn from pixel `from` to pixel `to`; ticks at least `least` apart.
    fn over(low: f64, high: f64, from: f64, to: f64, least: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
        Axis { low, high, from, to, spacing: (factor * power).max(least) }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        // Multiples, not a running sum: a sum would drift away from the labels.
        let first = (self.low / self.spacing).ceil();
        let count = (self.high / self.spacing + 1e-9).floor() - first;
        (0..=count as u64).map(move |place| (first + place as f64) * self.spacing)
    }

    fn label(&self, tick: f64) -> String {
        let decimals = (-self.spacing.log10().floor()).max(0.0) as usize;
        // Adding zero turns a minus zero into a plain one.
        format!("{:.decimals$}", tick + 0.0)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_picture_has_both_axes_the_raw_and_the_smoothed_line_and_the_evaluations() {
        let train: Vec<_> = (1..=400).map(|step| (step, 4.0 / (step as f64).sqrt())).collect();
        let svg = draw("a < b", &Curve { train, eval: vec![(200, 0.5), (400, 0.4)] });
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("r=\"3.5\"").count(), 2);
        for text in ["a &lt; b", ">update<", ">loss<", ">eval_loss<", ">0<", ">100<", ">400<", ">4<"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
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
            let svg = draw("t", &Curve { train: number(losses), eval: number(evaluations) });
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for points in svg.split("points=\"").skip(1) {
                let points = points.split('"').next().unwrap_or_default();
                for number in points.split([' ', ',']).filter(|text| !text.is_empty()) {
                    let number: f64 = number.parse().unwrap();
                    prop_assert!((-0.1..=WIDTH).contains(&number), "{svg}");
                }
            }
            prop_assert!(svg.matches("text-anchor=\"end\"").count() >= 2, "{svg}");
        }
    }
}
