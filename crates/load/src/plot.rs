//! The report as a picture: latency over percentiles, and answers a second over time.
//!
//! Not a plotting library, because two line charts need a page of code and the libraries bring
//! font engines.

use std::fmt::Write;

use crate::report::Report;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const CHART_HEIGHT: f64 = 210.0;

/// The panel has a background of its own in either colour scheme, so that text is legible on any
/// page. The three line colours keep a contrast above 3 to both backgrounds.
const STYLE: &str = "\
.panel{fill:#ffffff}.ink{fill:#24292f}.grid{stroke:#d0d7de}.ok{stroke:#1f77d0}\
.refused{stroke:#b7791f}.failed{stroke:#d1344b}.line{fill:none;stroke-width:2}\
text{font:12px system-ui,sans-serif}.title{font-size:15px;font-weight:600}\
@media (prefers-color-scheme:dark){.panel{fill:#161b22}.ink{fill:#e6edf3}.grid{stroke:#3d444d}}";

/// An SVG document with both charts, axes labelled with units.
#[must_use]
pub fn svg(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_svg(&mut out, report);
    out
}

fn write_svg(out: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\"><style>{STYLE}</style><rect class=\"panel\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>"
    )?;
    let title = format!(
        "{} {}{}, {}, {} connections",
        report.target.api, report.target.url, report.target.path, report.load.kind, report.load.connections
    );
    label(out, LEFT, 28.0, "start", "ink title", &title)?;
    latency_chart(out, report)?;
    timeline_chart(out, report)?;
    out.push_str("</svg>\n");
    Ok(())
}

fn latency_chart(out: &mut String, report: &Report) -> std::fmt::Result {
    // The horizontal axis counts nines: 0, 90, 99, 99.9. The maximum has no place of its own on
    // it and is drawn one step beyond the last point.
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
    let finite: Vec<(f64, f64)> = report
        .latency_curve
        .iter()
        .filter(|point| point.percentile < 100.0)
        .map(|point| (nines(point.percentile), point.latency_ms))
        .collect();
    let last = finite.last().map_or(1.0, |point| point.0);
    let mut points = finite;
    points.extend(report.latency_ms.map(|latency| (last + 0.3, latency.max)));
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let chart = Chart::new(64.0, last + 0.3, top);
    chart.frame(out, "latency (ms)", "percentile of requests")?;
    for (percentile, name) in [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")] {
        if nines(percentile) <= last + 0.01 {
            chart.tick_x(out, nines(percentile), name)?;
        }
    }
    chart.tick_x(out, last + 0.3, "max")?;
    chart.line(out, "ok", &points)
}

fn timeline_chart(out: &mut String, report: &Report) -> std::fmt::Result {
    let texts = report.load.texts_per_request as f64;
    let series = |value: fn(&crate::TimelinePoint) -> f64| -> Vec<(f64, f64)> {
        report.timeline.iter().map(|point| (point.at_s, value(point))).collect()
    };
    let lines = [
        ("ok", series(|point| point.ok_per_s)),
        ("refused", series(|point| point.refused_per_s)),
        ("failed", series(|point| point.failed_per_s)),
    ];
    let top = lines.iter().flat_map(|(_, line)| line).map(|point| point.1).fold(0.0, f64::max);
    let chart = Chart::new(64.0 + CHART_HEIGHT + 90.0, report.window_s.max(0.001), top);
    let axis = if texts > 1.0 { format!("requests/s ({texts} texts each)") } else { "requests/s".to_owned() };
    chart.frame(out, &axis, "time since the start of the window (s)")?;
    let step = round_step(report.window_s.max(0.001));
    for index in 0..=(report.window_s / step) as u32 {
        let at = f64::from(index) * step;
        chart.tick_x(out, at, &number(at))?;
    }
    for (index, (class, line)) in lines.iter().enumerate() {
        let seen = line.iter().any(|point| point.1 > 0.0);
        if seen || index == 0 {
            chart.line(out, class, line)?;
            let x = WIDTH - RIGHT - 220.0 + index as f64 * 75.0;
            let y = chart.top - 12.0;
            write!(out, "<path class=\"line {class}\" d=\"M{x:.1} {:.1}h18\"/>", y - 4.0)?;
            label(out, x + 22.0, y, "start", "ink", class)?;
        }
    }
    Ok(())
}

struct Chart {
    top: f64,
    x_max: f64,
    y_step: f64,
    y_max: f64,
}

impl Chart {
    fn new(top: f64, x_max: f64, y_top: f64) -> Self {
        let y_step = round_step(y_top.max(1e-3));
        Self { top, x_max, y_step, y_max: (y_top / y_step).ceil().max(1.0) * y_step }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + CHART_HEIGHT * (1.0 - value / self.y_max)
    }

    fn frame(&self, out: &mut String, y_name: &str, x_name: &str) -> std::fmt::Result {
        let right = WIDTH - RIGHT;
        for index in 0..=(self.y_max / self.y_step).round() as u32 {
            let value = f64::from(index) * self.y_step;
            let y = self.y(value);
            write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>")?;
            label(out, LEFT - 8.0, y + 4.0, "end", "ink", &number(value))?;
        }
        label(out, LEFT, self.top - 12.0, "start", "ink", y_name)?;
        let middle = (LEFT + right) / 2.0;
        label(out, middle, self.top + CHART_HEIGHT + 40.0, "middle", "ink", x_name)
    }

    fn tick_x(&self, out: &mut String, value: f64, name: &str) -> std::fmt::Result {
        let (x, y) = (self.x(value), self.top + CHART_HEIGHT);
        write!(out, "<path class=\"grid\" d=\"M{x:.1} {y:.1}v5\"/>")?;
        label(out, x, y + 20.0, "middle", "ink", name)
    }

    fn line(&self, out: &mut String, class: &str, points: &[(f64, f64)]) -> std::fmt::Result {
        if points.is_empty() {
            return Ok(());
        }
        write!(out, "<polyline class=\"line {class}\" points=\"")?;
        for (x, y) in points {
            write!(out, "{:.1},{:.1} ", self.x(*x), self.y(*y))?;
        }
        out.push_str("\"/>");
        Ok(())
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives four to ten ticks up to `top`.
fn round_step(top: f64) -> f64 {
    let rough = top / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let lead = rough / power;
    power
        * if lead < 1.5 {
            1.0
        } else if lead < 3.5 {
            2.0
        } else if lead < 7.5 {
            5.0
        } else {
            10.0
        }
}

fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn label(out: &mut String, x: f64, y: f64, anchor: &str, class: &str, text: &str) -> std::fmt::Result {
    write!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">")?;
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // XML 1.0 has no way to write these.
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out.push_str("</text>");
    Ok(())
}
