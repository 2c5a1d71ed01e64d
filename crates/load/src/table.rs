//! The report as text for a terminal.

use std::fmt::Write;

use crate::report::{Percentiles, Report};

/// The report as a table of fixed-width columns, with a line feed at the end of each line.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    let load = &report.load;
    let rate = load.rate_per_s.map_or(String::new(), |rate| format!(", {rate} requests/s asked for"));
    writeln!(text, "{} {}{}", report.target.api, report.target.url, report.target.path)?;
    writeln!(
        text,
        "{}, {} connections{rate}, {} texts a request, {:.2} s measured after {:.2} s of warm-up{}",
        load.kind,
        load.connections,
        load.texts_per_request,
        report.window_s,
        load.warm_up_s,
        if report.interrupted { ", interrupted" } else { "" },
    )?;
    writeln!(text)?;
    writeln!(text, "{:<12}{:>12}", "requests", report.requests)?;
    writeln!(text, "{:<12}{:>12}", "ok", report.ok)?;
    if let Some(deadline_ms) = report.deadline_ms {
        writeln!(text, "{:<12}{:>12}  (within {deadline_ms} ms)", "  in time", report.ok_within_deadline)?;
    }
    writeln!(text, "{:<12}{:>12}", "refused", report.refused)?;
    writeln!(text, "{:<12}{:>12}", "failed", report.failed)?;
    for (kind, count) in &report.errors {
        let sample = report.error_samples.get(kind).map_or("", String::as_str);
        // An answer may hold anything; a terminal is shown no control characters.
        let sample: String = sample.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
        writeln!(text, "{:<24}{count:>12}  {sample}", format!("  {kind}"))?;
    }
    writeln!(text)?;
    writeln!(text, "{:<12}{:>12}{:>12}", "", "requests/s", "texts/s")?;
    rates(text, "throughput", report.requests_per_s, report.texts_per_s)?;
    if report.deadline_ms.is_some() {
        rates(text, "goodput", report.goodput_requests_per_s, report.goodput_texts_per_s)?;
    }
    writeln!(text)?;
    writeln!(text, "{:<12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}", "ms", "mean", "P50", "P95", "P99", "P99.9", "max")?;
    let open = load.rate_per_s.is_some();
    percentiles(text, "ok", report.latency_ms)?;
    percentiles(text, "  from sent", report.service_ms.filter(|_| open))?;
    percentiles(text, "refused", report.refused_latency_ms)?;
    percentiles(text, "failed", report.failed_latency_ms)?;
    percentiles(text, "lateness", report.generator.lateness_ms)?;
    writeln!(text)?;
    footer(text, report)
}

fn rates(text: &mut String, name: &str, requests: f64, texts: f64) -> std::fmt::Result {
    writeln!(text, "{name:<12}{requests:>12.1}{texts:>12.1}")
}

fn percentiles(text: &mut String, name: &str, values: Option<Percentiles>) -> std::fmt::Result {
    let Some(values) = values else { return Ok(()) };
    write!(text, "{name:<12}")?;
    for value in [values.mean, values.p50, values.p95, values.p99, values.p999, values.max] {
        write!(text, "{value:>10.2}")?;
    }
    writeln!(text)
}

fn footer(text: &mut String, report: &Report) -> std::fmt::Result {
    const MIB: f64 = 1024.0 * 1024.0;
    if let Some(server) = &report.server {
        if let Some(cpu_s) = server.cpu_s {
            write!(text, "server: {cpu_s:.2} s of processor time")?;
        } else {
            write!(text, "server: no processor time")?;
        }
        if let Some(each) = server.cpu_s_per_1000_texts {
            write!(text, ", {each:.3} s per 1,000 texts")?;
        }
        if let (Some(low), Some(high)) = (server.rss_min_bytes, server.rss_max_bytes) {
            write!(text, ", memory {:.1} to {:.1} MiB", low as f64 / MIB, high as f64 / MIB)?;
        }
        writeln!(text, "{}", if server.lost { "; its process ended during the run" } else { "" })?;
    }
    if let Some(idle) = &report.idle {
        writeln!(
            text,
            "idle connections: {} wanted, {} opened, {} open at the end",
            idle.connections_wanted, idle.connections_opened, idle.connections_open_at_end
        )?;
    }
    let generator = &report.generator;
    write!(
        text,
        "generator: {}, {} connections at most, {} opened",
        if generator.kept_up { "kept up" } else { "did not keep up" },
        generator.connections_peak,
        generator.connections_opened
    )?;
    if let Some(each) = generator.cpu_us_per_request {
        write!(text, ", {each:.1} us of processor time a request")?;
    }
    writeln!(text)?;
    for note in &generator.notes {
        writeln!(text, "note: {note}")?;
    }
    Ok(())
}
