//! `loss.svg`: the losses of training and evaluation over the steps.

use std::io::Write;
use std::path::Path;

use plotters::prelude::*;

use super::metrics::Line;
use crate::error::{Error, Result};
use crate::io::atomic;

const SIZE: (u32, u32) = (900, 540);
const TRAINING: RGBColor = RGBColor(120, 160, 210);
const EVALUATION: RGBColor = RGBColor(200, 80, 40);

/// Draws what is in `lines`.
pub(super) fn write(path: &Path, lines: &[Line]) -> Result<()> {
    let svg = draw(lines).map_err(|e| Error::file(path, format!("cannot be drawn: {e}")))?;
    atomic::write_file(path, |file| file.write_all(svg.as_bytes()).map_err(|e| Error::io(path, e)))
}

type Points = Vec<(f64, f64)>;

fn draw(lines: &[Line]) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let (training, evaluation) = points(lines);
    let (steps, losses) = ranges(&training, &evaluation);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&area);
        builder.margin(16).caption("Loss", ("sans-serif", 22)).x_label_area_size(44).y_label_area_size(60);
        let mut chart = builder.build_cartesian_2d(0.0..steps, losses.0..losses.1)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("loss (nats per token)")
            .label_style(("sans-serif", 14))
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .draw()?;
        for (name, points, colour) in [("training", training, TRAINING), ("evaluation", evaluation, EVALUATION)] {
            let dots = points.iter().map(|&point| Circle::new(point, 2, colour.filled())).collect::<Vec<_>>();
            chart.draw_series(dots)?;
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        area.present()?;
    }
    Ok(svg)
}

fn points(lines: &[Line]) -> (Points, Points) {
    let (mut training, mut evaluation) = (Points::new(), Points::new());
    for line in lines {
        match line {
            Line::Step { step, loss, .. } => training.push((*step as f64, *loss)),
            Line::Evaluation { step, eval_loss, .. } => evaluation.push((*step as f64, *eval_loss)),
        }
    }
    (training, evaluation)
}

/// The last step, and the least and greatest loss with some air around them.
fn ranges(training: &Points, evaluation: &Points) -> (f64, (f64, f64)) {
    let all = || training.iter().chain(evaluation);
    let steps = all().map(|&(step, _)| step).fold(1.0, f64::max);
    let least = all().map(|&(_, loss)| loss).fold(f64::INFINITY, f64::min);
    let greatest = all().map(|&(_, loss)| loss).fold(f64::NEG_INFINITY, f64::max);
    if least > greatest {
        return (steps, (0.0, 1.0));
    }
    let air = 0.05 * (greatest - least).max(0.01);
    (steps, ((least - air).max(0.0), greatest + air))
}
