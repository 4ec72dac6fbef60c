//! Points and lines over two axes, as SVG.

use std::fmt::Write;

use crate::html::escape;

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub caption: String,
    across: &'static str,
    up: &'static str,
    scale: Scale,
    series: Vec<Series>,
    levels: Vec<f64>,
    band: Option<(f64, f64)>,
    mark: Option<f64>,
}

/// How values stand on the upright axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Logarithmic, between these.
    Log(f64, f64),
    /// Logarithmic, between the powers of ten around the values.
    LogFit,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    joined: bool,
}

impl Plot {
    /// An empty one.
    pub fn new(caption: &str, across: &'static str, up: &'static str, scale: Scale) -> Plot {
        Plot {
            caption: caption.to_owned(),
            across,
            up,
            scale,
            series: Vec::new(),
            levels: Vec::new(),
            band: None,
            mark: None,
        }
    }

    /// Adds points.
    pub fn points(&mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        self.add(name, points.into_iter().collect(), false);
    }

    /// Adds a line.
    pub fn line(&mut self, name: &str, points: Vec<(f64, f64)>) {
        self.add(name, points, true);
    }

    fn add(&mut self, name: &str, mut points: Vec<(f64, f64)>, joined: bool) {
        points.retain(|(x, y)| x.is_finite() && y.is_finite());
        self.series.push(Series {
            name: name.to_owned(),
            points,
            joined,
        });
    }

    /// Adds a horizontal line.
    pub fn level(&mut self, at: f64) {
        self.levels.push(at);
    }

    /// Shades from one place to another.
    pub fn band(&mut self, from: f64, to: f64) {
        self.band = Some((from, to));
    }

    /// Adds a vertical line.
    pub fn mark(&mut self, at: f64) {
        self.mark = Some(at);
    }

    /// From where to where it goes across.
    pub fn range(&self) -> (f64, f64) {
        let all = self
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(|(x, _)| *x));
        let all = all.chain(self.band.into_iter().flat_map(|(from, to)| [from, to]));
        let (low, high) = ends(all).unwrap_or((0.0, 1.0));
        if high > low {
            (low, high)
        } else {
            (low - 0.5, high + 0.5)
        }
    }

    fn heights(&self) -> (f64, f64) {
        match self.scale {
            Scale::Log(low, high) => (low, high),
            Scale::LogFit => {
                let all = self
                    .series
                    .iter()
                    .flat_map(|series| series.points.iter().map(|(_, y)| y.max(1e-3)));
                let (low, high) = ends(all).unwrap_or((1.0, 10.0));
                let (low, high) = (low.log10().floor(), high.log10().ceil());
                (10f64.powf(low), 10f64.powf(high.max(low + 1.0)))
            }
        }
    }

    /// It as an `<svg>` element; `index` makes its names its own on the page.
    pub fn svg(&self, index: usize) -> String {
        let (left, right) = self.range();
        let (bottom, top) = self.heights();
        let x = |value: f64| LEFT + (value.clamp(left, right) - left) / (right - left) * (RIGHT - LEFT);
        let y = |value: f64| {
            let share = (value.clamp(bottom, top).log10() - bottom.log10()) / (top.log10() - bottom.log10());
            BOTTOM - share * (BOTTOM - TOP)
        };
        let mut svg = String::new();
        // A String takes everything: these writes cannot fail.
        let _ = write!(
            svg,
            "<svg viewBox=\"0 0 860 380\" role=\"img\" aria-labelledby=\"t{index}\"><title id=\"t{index}\">{}</title>",
            escape(&self.caption)
        );
        if let Some((from, to)) = self.band {
            let _ = write!(
                svg,
                "<rect class=\"band\" x=\"{:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                x(from),
                x(to) - x(from),
                BOTTOM - TOP
            );
        }
        let mut power = bottom.log10().round() as i32;
        while 10f64.powi(power) <= top * 1.001 {
            let (value, at) = (10f64.powi(power), y(10f64.powi(power)));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{value}</text>",
                LEFT - 8.0,
                at + 4.0
            );
            power += 1;
        }
        for step in 0..=4 {
            let value = left + (right - left) * f64::from(step) / 4.0;
            let text = if right - left < 20.0 {
                format!("{value:.1}")
            } else {
                format!("{value:.0}")
            };
            let anchor = ["start", "middle", "middle", "middle", "end"][step as usize];
            let _ = write!(
                svg,
                "<text text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                x(value),
                BOTTOM + 24.0
            );
        }
        let _ = write!(
            svg,
            "<text class=\"faint\" text-anchor=\"end\" x=\"{RIGHT}\" y=\"{:.1}\">{}</text><text class=\"faint\" text-anchor=\"end\" x=\"{:.1}\" y=\"16\">{}</text>",
            BOTTOM + 50.0,
            escape(self.across),
            LEFT - 8.0,
            escape(self.up)
        );
        for at in &self.levels {
            let _ = write!(
                svg,
                "<line class=\"level\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>",
                y(*at)
            );
        }
        if let Some(at) = self.mark {
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>",
                x(at)
            );
        }
        for (number, series) in self.series.iter().enumerate() {
            let colour = number % 4;
            if series.joined {
                let points: Vec<String> = series
                    .points
                    .iter()
                    .map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b)))
                    .collect();
                let _ = write!(
                    svg,
                    "<polyline class=\"line s{colour}\" points=\"{}\"/>",
                    points.join(" ")
                );
            } else {
                for (a, b) in &series.points {
                    let _ = write!(
                        svg,
                        "<circle class=\"p{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
                        x(*a),
                        y(*b)
                    );
                }
            }
            let _ = write!(
                svg,
                "<text class=\"p{colour}\" style=\"fill:currentColor\" x=\"{:.1}\" y=\"16\"><tspan class=\"p{colour}\">● </tspan>{}</text>",
                LEFT + 8.0 + 200.0 * number as f64,
                escape(&series.name)
            );
        }
        svg.push_str("</svg>");
        svg
    }
}

fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |ends, value| match ends {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

const LEFT: f64 = 70.0;
const RIGHT: f64 = 850.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 320.0;
