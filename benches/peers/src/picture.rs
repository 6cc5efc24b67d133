//! The picture: for each kind and size, their time over ours of every peer at its best settings.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Report;
use crate::compare::{Row, Verdict};
use crate::table::work;
use crate::way::{Kind, Result, failed};

const WIDTH: u32 = 1_240;
const LINE: u32 = 22;
const MARGIN: u32 = 70;

/// What a picture can go wrong with.
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

pub(crate) fn draw(report: &Report, path: &Path) -> Result<()> {
    let panels: Vec<Vec<&Row>> =
        [(Kind::Latency, 64), (Kind::Latency, 1_024), (Kind::Throughput, 64), (Kind::Throughput, 1_024)]
            .into_iter()
            .map(|(kind, bytes)| {
                let wanted =
                    |row: &&Row| row.tuned && row.kind == kind && row.bytes == bytes && row.ratio.is_some();
                // A chart's lines go upwards, the table's downwards.
                report.rows.iter().rev().filter(wanted).collect()
            })
            .collect();
    let lines = panels.iter().map(Vec::len).max().unwrap_or(0).max(1) as u32;
    let height = 2 * (lines * LINE + MARGIN);
    let paint = || -> Drawn {
        let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, rows) in area.split_evenly((2, 2)).iter().zip(&panels) {
            if let Some(first) = rows.first() {
                draw_panel(
                    panel,
                    rows,
                    &format!(
                        "{}: their time / ours (green won, grey equal, red lost, blue not judged)",
                        work(first)
                    ),
                )?;
            }
        }
        area.present()?;
        Ok(())
    };
    paint().map_err(|error| failed(format!("drawing {}", path.display()), error))
}

fn draw_panel(area: &DrawingArea<SVGBackend<'_>, Shift>, rows: &[&Row], title: &str) -> Drawn {
    let ends = |row: &Row| {
        let ratio = row.ratio.unwrap_or(1.0);
        row.interval_95.map_or((ratio, ratio), |ends| (ends.low, ends.high))
    };
    let lowest = rows.iter().map(|row| ends(row).0).fold(0.5, f64::min) / 1.2;
    let highest = rows.iter().map(|row| ends(row).1).fold(2.0, f64::max) * 1.2;
    let name = |line: &SegmentValue<i32>| match line {
        SegmentValue::CenterOf(line) | SegmentValue::Exact(line) => {
            rows.get(*line as usize).map_or_else(String::new, |row| row.peer.into())
        }
        SegmentValue::Last => String::new(),
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(160)
        .build_cartesian_2d((lowest..highest).log_scale(), (0..rows.len() as i32 - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(rows.len())
        .y_label_formatter(&name)
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .draw()?;
    for (line, row) in rows.iter().enumerate() {
        let color = match row.verdict {
            Verdict::Won => RGBColor(46, 125, 50),
            Verdict::Equal => RGBColor(120, 120, 120),
            Verdict::Lost => RGBColor(198, 40, 40),
            Verdict::Unsettled | Verdict::Reference => RGBColor(144, 164, 210),
        };
        let line = line as i32;
        let ratio = row.ratio.unwrap_or(1.0);
        let (low, high) = ends(row);
        let corners = [
            (1.0_f64.min(ratio), SegmentValue::Exact(line)),
            (1.0_f64.max(ratio), SegmentValue::Exact(line + 1)),
        ];
        let mut bar = Rectangle::new(corners, color.mix(0.6).filled());
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let middle = SegmentValue::CenterOf(line);
        chart.draw_series([PathElement::new(
            vec![(low, middle.clone()), (high, middle)],
            BLACK.stroke_width(2),
        )])?;
    }
    // 1: neither is faster.
    let whole = vec![(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(whole, BLACK)])?;
    Ok(())
}
