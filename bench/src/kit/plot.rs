//! Layers drawn on a chart's axes.

use super::axis::{Fitted, UPWARDS, exponentials};
use super::format::significant;
use super::ink::{Ink, Mark, Stroke};
use super::layer::{Layer, spread};
use super::picture::{WIDTH, at, line, point};
use super::ticks::Tick;
use maud::{Markup, html};

pub(super) const HEIGHT: f64 = 330.0;
pub(super) const TOP: f64 = 24.0;
const BOTTOM: f64 = 48.0;
/// Width of a character of a tick's label, as large as it becomes on a narrow screen.
const CHARACTER: f64 = 8.6;
/// Marks on a curve.
const MARKS: usize = 9;
/// Points of a curve that say their values under the pointer.
const HOVERS: usize = 40;
/// Half the width of an interval's caps.
const CAP: f64 = 5.0;

/// Axes with their places on a drawing.
pub(super) struct Plot<'a> {
    x: Fitted<'a>,
    y: Fitted<'a>,
    y_ticks: Vec<Tick>,
    right: Option<(&'static str, Vec<Tick>)>,
    pub(super) left: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl<'a> Plot<'a> {
    pub(super) fn new(x: Fitted<'a>, y: Fitted<'a>, exponential: Option<&'static str>) -> Self {
        let height = HEIGHT - TOP - BOTTOM;
        let y_ticks = y.ticks(UPWARDS);
        let right = exponential.map(|name| (name, exponentials(&y, height)));
        let room = |ticks: &[Tick]| {
            let longest = ticks.iter().map(|tick| tick.label.chars().count()).max();
            30.0 + CHARACTER * longest.unwrap_or(1) as f64
        };
        let left = room(&y_ticks);
        let beside = right.as_ref().map_or(18.0, |(_, ticks)| room(ticks));
        Self {
            x,
            y,
            y_ticks,
            right,
            left,
            width: (WIDTH - left - beside).max(WIDTH / 4.0),
            height,
        }
    }

    /// Horizontal place of a value in the drawing.
    fn x(&self, value: f64) -> f64 {
        self.left + self.width * self.x.share(value)
    }

    fn y(&self, value: f64) -> f64 {
        let share = self.y.share(value);
        TOP + self.height * if self.y.axis.downwards { share } else { 1.0 - share }
    }

    /// Place of a point within the area between the axes, `x y` from its upper left corner.
    fn inner(&self, (x, y): (f64, f64)) -> String {
        format!("{} {}", at(self.x(x) - self.left), at(self.y(y) - TOP))
    }

    fn has(&self, (x, y): (f64, f64)) -> bool {
        self.x.has(x) && self.y.has(y)
    }

    pub(super) fn axes(&self) -> Markup {
        let (right, bottom) = (self.left + self.width, TOP + self.height);
        let x_ticks = self.x.ticks((self.width / 56.0) as usize);
        html! {
            @for tick in &self.y_ticks {
                @let y = self.y(tick.at);
                path.l.grid d=(format!("M{} {}H{}", at(self.left), at(y), at(right))) {}
                text.ink text-anchor="end" x=(at(self.left - 7.0)) y=(at(y + 4.5)) { (tick.label) }
            }
            @for tick in &x_ticks {
                @let x = self.x(tick.at);
                path.l.grid d=(format!("M{} {}V{}", at(x), at(TOP), at(bottom))) {}
                text.ink text-anchor="middle" x=(at(x)) y=(at(bottom + 18.0)) { (tick.label) }
            }
            @if let Some((name, ticks)) = &self.right {
                @for tick in ticks {
                    @let y = self.y(tick.at.ln());
                    path.l.grey d=(format!("M{} {}h5", at(right), at(y))) {}
                    text.ink x=(at(right + 8.0)) y=(at(y + 4.5)) { (tick.label) }
                }
                (upright(name, WIDTH - 6.0, TOP + self.height / 2.0))
            }
            path.l.grey d=(format!("M{} {}V{}H{}{}", at(self.left), at(TOP), at(bottom), at(right), if self.right.is_some() { format!("V{}", at(TOP)) } else { String::new() })) {}
            text.ink.name text-anchor="middle" x=(at(self.left + self.width / 2.0)) y=(at(HEIGHT - 9.0)) { (self.x.axis.name) }
            (upright(&self.y.axis.name, 15.0, TOP + self.height / 2.0))
        }
    }

    /// What is cut off at the axes.
    pub(super) fn area(&self, layer: &Layer) -> Markup {
        match layer {
            Layer::Line { name, points, stroke } => html! {
                g stroke-linecap="round" stroke-linejoin="round" {
                    @if !name.is_empty() { title { (name) } }
                    (line(&self.path(points), *stroke))
                }
            },
            Layer::Band { points, ink } => {
                let place = |x: f64, y: f64| {
                    // What is no number on a logarithmic axis lies below it.
                    let y = match y {
                        y if self.y.axis.holds(y) => y,
                        f64::INFINITY => self.y.high,
                        _ => self.y.low,
                    };
                    self.x.axis.holds(x).then(|| self.inner((x, y)))
                };
                let lower = points.iter().filter_map(|&(x, low, _)| place(x, low));
                let upper = points.iter().rev().filter_map(|&(x, _, high)| place(x, high));
                let outline: Vec<String> = lower.chain(upper).collect();
                html! {
                    @if outline.len() > 2 {
                        path class={ "f " (ink.class()) } opacity="0.16" d=(format!("M{}z", outline.join("L"))) {}
                    }
                }
            }
            Layer::Cells { edges, rows, .. } => self.cells(edges, rows),
            _ => html! {},
        }
    }

    /// Parts between gaps; a point alone is a dot.
    fn path(&self, points: &[(f64, f64)]) -> String {
        let holds = |place: &(f64, f64)| self.x.axis.holds(place.0) && self.y.axis.holds(place.1);
        let parts = points
            .split(|place| !holds(place))
            .filter(|part| !part.is_empty());
        let drawn = parts.map(|part| {
            let places: Vec<String> = part.iter().map(|place| self.inner(*place)).collect();
            format!(
                "M{}{}",
                places.join("L"),
                if places.len() == 1 { "h.1" } else { "" }
            )
        });
        drawn.collect()
    }

    /// The cells of a map, as one path for each shade: many heads make many cells.
    fn cells(&self, edges: &[f64], rows: &[(String, Vec<f64>)]) -> Markup {
        let mut paths = vec![String::new(); usize::from(super::ink::SHADES)];
        for (row, (_, shares)) in rows.iter().enumerate() {
            let (top, bottom) = (self.y(row as f64) - TOP, self.y(row as f64 + 1.0) - TOP);
            for (pair, share) in edges.windows(2).zip(shares) {
                let Ink::Shade(step) = Ink::shade(*share) else {
                    continue;
                };
                let (from, to) = (self.x(pair[0]) - self.left, self.x(pair[1]) - self.left);
                let cell = format!(
                    "M{} {}H{}V{}H{}z",
                    at(from),
                    at(top),
                    at(to),
                    at(bottom),
                    at(from)
                );
                paths[usize::from(step)].push_str(&cell);
            }
        }
        html! {
            @for (step, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
                path class={ "f h" (step) } shape-rendering="crispEdges" d=(path) {}
            }
            @for (row, (name, _)) in rows.iter().enumerate() {
                @let (a, b) = (self.y(row as f64) - TOP, self.y(row as f64 + 1.0) - TOP);
                rect.t width=(at(self.width)) y=(at(a.min(b))) height=(at((b - a).abs())) { title { (name) } }
            }
        }
    }

    /// What lies on the axes.
    pub(super) fn marks(&self, layer: &Layer) -> Markup {
        match layer {
            Layer::Line { name, points, stroke } => self.line_marks(name, points, *stroke),
            Layer::Dots {
                name,
                points,
                ink,
                mark,
            } => html! {
                @for place in points.iter().filter(|place| self.has(**place)) {
                    (point((self.x(place.0), self.y(place.1)), *ink, *mark, Some(&self.words(name, *place))))
                }
            },
            Layer::Interval {
                name,
                x,
                low,
                high,
                ink,
                mark,
            } if self.x.has(*x) => self.interval(name, *x, (*low, *high), *ink, *mark),
            Layer::Level(y, text) if self.y.has(*y) => {
                let (y, right) = (self.y(*y), self.left + self.width);
                html! {
                    (dashed(&format!("M{} {}H{}", at(self.left), at(y), at(right))))
                    text.grey text-anchor="end" x=(at(right - 3.0)) y=(at(y - 4.0)) { (text) }
                }
            }
            Layer::At(x, text) if self.x.has(*x) => {
                let x = self.x(*x);
                // Beside the line's head, on the side where there is room.
                let anchor = match (x - self.left) / self.width {
                    share if share < 0.2 => "start",
                    share if share > 0.8 => "end",
                    _ => "middle",
                };
                html! {
                    (dashed(&format!("M{} {}V{}", at(x), at(TOP - 4.0), at(TOP + self.height))))
                    text.grey text-anchor=(anchor) x=(at(x)) y=(at(TOP - 9.0)) { (text) }
                }
            }
            _ => html! {},
        }
    }

    fn line_marks(&self, name: &str, points: &[(f64, f64)], stroke: Stroke) -> Markup {
        let shown: Vec<(f64, f64)> = points.iter().copied().filter(|place| self.has(*place)).collect();
        html! {
            @if let Some(mark) = stroke.mark {
                @for place in spread(shown.len(), MARKS).map(|index| shown[index]) {
                    (point((self.x(place.0), self.y(place.1)), stroke.ink, mark, None))
                }
            }
            @for place in spread(shown.len(), HOVERS).map(|index| shown[index]) {
                circle.t cx=(at(self.x(place.0))) cy=(at(self.y(place.1))) r="6" { title { (self.words(name, place)) } }
            }
        }
    }

    fn interval(
        &self,
        name: &str,
        x: f64,
        (low, high): (Option<f64>, Option<f64>),
        ink: Ink,
        mark: Mark,
    ) -> Markup {
        let end = |value: Option<f64>, open: f64| {
            let value = value.filter(|value| self.y.axis.holds(*value)).unwrap_or(open);
            self.y(value.clamp(self.y.low, self.y.high))
        };
        let (bottom, top) = (end(low, self.y.low), end(high, self.y.high));
        let x_at = self.x(x);
        // An arrow's wings lie inside, a cap is straight.
        let tip = |y: f64, is_open: bool, inward: f64| {
            let wing = at(y + if is_open { 9.0 * inward } else { 0.0 });
            format!(
                "M{} {wing}L{} {}L{} {wing}",
                at(x_at - CAP),
                at(x_at),
                at(y),
                at(x_at + CAP)
            )
        };
        let path = format!(
            "M{} {}V{}{}{}",
            at(x_at),
            at(bottom),
            at(top),
            tip(bottom, low.is_none(), -1.0),
            tip(top, high.is_none(), 1.0)
        );
        let value =
            |end: Option<f64>, none: &str| end.map_or(none.to_string(), |value| significant(value, 4));
        let hover = format!(
            "{name}: {} {}, {} {} to {}",
            self.x.axis.quantity(),
            significant(x, 4),
            self.y.axis.quantity(),
            value(low, "below what was tried"),
            value(high, "beyond what was tried")
        );
        html! {
            g { title { (hover) }
                (line(&path, Stroke::plain(ink, 2.0)))
                @if low.is_some() && high.is_some() { (point((x_at, (bottom + top) / 2.0), ink, mark, None)) }
            }
        }
    }

    /// `window:64: position 1,448, loss 3.21`.
    fn words(&self, name: &str, (x, y): (f64, f64)) -> String {
        let name = if name.is_empty() {
            String::new()
        } else {
            format!("{name}: ")
        };
        format!(
            "{name}{} {}, {} {}",
            self.x.axis.quantity(),
            significant(x, 5),
            self.y.axis.quantity(),
            significant(y, 4)
        )
    }
}

fn dashed(path: &str) -> Markup {
    let stroke = Stroke {
        dash: "4 4",
        ..Stroke::plain(Ink::Grey, 1.0)
    };
    line(path, stroke)
}

fn upright(name: &str, x: f64, y: f64) -> Markup {
    html! {
        text.ink.name text-anchor="middle" transform=(format!("translate({} {})rotate(-90)", at(x), at(y))) { (name) }
    }
}
