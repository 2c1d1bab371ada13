//! The pictures of `spillway ssm`: functions, eigenvalues, memories, errors and outputs.

use super::memory::Memory;
use super::report::{Report, SystemReport, difference, percent};
use super::spectrum::Mode;
use super::system::Named;
use super::views::FINE;
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::{count, short};
use crate::kit::ink::{Ink, Mark, Stroke};
use crate::kit::picture::Figure;
use std::f64::consts::TAU;

/// Width over height of the area between the axes, with labels of four characters: circles on it are round.
const ASPECT: f64 = 1.85;
/// Samples of the picture in which single ones are seen.
const CLOSE: usize = 36;
/// The rate whose outputs are drawn.
const DRAWN_RATE: usize = 4;

fn chart(x: Axis, y: Axis, layers: Vec<Layer>) -> Chart {
    Chart {
        x,
        y,
        exponential: None,
        layers,
    }
}

/// Samples from 0 to `end`, with room for its label.
fn samples(name: &str, end: f64) -> Axis {
    Axis::new(name, Scale::Linear).range(0.0, 1.03 * end)
}

/// What the first numbers of a state weigh the past by.
pub fn functions(system: &SystemReport) -> Figure {
    let mut layers = Vec::new();
    for function in system
        .functions
        .iter()
        .filter(|function| !function.meant.is_empty())
    {
        layers.push(Layer::line(
            format!("n = {}, meant", function.index),
            function.meant.clone(),
            Stroke::FAINT,
        ));
    }
    for (series, function) in system.functions.iter().enumerate() {
        layers.push(Layer::line(
            format!("n = {}", function.index),
            function.heard.clone(),
            Stroke::nth(series),
        ));
    }
    let end = system
        .functions
        .first()
        .and_then(|function| function.heard.last())
        .map_or(1.0, |last| last.0);
    let which = match system.named {
        Named::Diagonal(..) => "Real parts of the modes that turn most slowly.",
        Named::Measure(_) => "The first numbers of the state.",
    };
    let meant = match system.named.window() {
        Some(_) => {
            " Grey: the functions that the measure asks for, which end with the window; the system comes close to them."
        }
        None => "",
    };
    Figure::new(
        system.named.name(),
        format!("{which} A sample of this age counts so much, per unit of time.{meant}"),
        chart(
            samples("age (samples)", end),
            Axis::new("weight", Scale::Linear),
            layers,
        )
        .draw(),
    )
}

/// The eigenvalues: continuous, discrete, and as times.
pub fn spectra(report: &Report) -> [Figure; 3] {
    [
        continuous_spectrum(report),
        discrete_spectrum(report),
        lifetimes(report),
    ]
}

/// A point for each mode that has a place, in each system's colour.
fn dots(report: &Report, place: impl Fn(&Mode) -> Option<(f64, f64)>) -> Vec<Layer> {
    let systems = report.systems.iter().enumerate();
    let layer = |(series, system): (usize, &SystemReport)| Layer::Dots {
        name: system.named.name().into(),
        points: system.modes.iter().filter_map(&place).collect(),
        ink: Ink::Series(series),
        mark: Mark::nth(series),
    };
    systems.map(layer).collect()
}

fn continuous_spectrum(report: &Report) -> Figure {
    let mut layers = vec![Layer::At(0.0, "no decay".into())];
    layers.extend(dots(report, |mode| Some(mode.continuous.into())));
    // As much below as above the middle line, also where no mode turns.
    let modes = report.systems.iter().flat_map(|system| &system.modes);
    let fastest = modes.map(|mode| mode.continuous[1].abs()).fold(0.0, f64::max);
    let high = if fastest > 0.0 { 1.08 * fastest } else { 1.0 };
    let x = Axis::new("real part (per unit of time)", Scale::Linear);
    let y = Axis::new("imaginary part", Scale::Linear).range(-high, high);
    Figure::new(
        "Before sampling: λ",
        "Each point is one mode. Further to the left it forgets faster; further from the middle line it turns faster.",
        chart(x, y, layers).draw(),
    )
}

fn discrete_spectrum(report: &Report) -> Figure {
    let turns = (0..=120).map(|i| TAU * f64::from(i) / 120.0);
    let circle = turns.map(|turn| (turn.cos(), turn.sin())).collect();
    let mut layers = vec![Layer::line("unit circle", circle, Stroke::plain(Ink::Grey, 1.5))];
    layers.extend(dots(report, |mode| Some(mode.discrete.into())));
    let caption = format!(
        "The same modes under {} with Δ = {}. With every sample a mode is multiplied by its ā: inside the circle it fades, on it it stays, \
         outside it would grow without end. Long memory is close to 1.",
        report.setting.rule.name(),
        short(report.setting.step)
    );
    let x = Axis::new("real part", Scale::Linear).range(-1.12 * ASPECT, 1.12 * ASPECT);
    let y = Axis::new("imaginary part", Scale::Linear).range(-1.12, 1.12);
    Figure::new("After sampling: ā", caption, chart(x, y, layers).draw())
}

fn lifetimes(report: &Report) -> Figure {
    let layers = dots(report, |mode| {
        let half_life = mode.half_life.filter(|life| *life > 0.0)?;
        Some((1000.0 * mode.frequency, half_life))
    });
    let x = Axis::new("turns in 1,000 samples", Scale::Linear);
    let y = Axis::new("half-life (samples)", Scale::Decimal);
    Figure::new(
        "The same in samples",
        "How long a mode keeps what it heard, and how fast it turns meanwhile. Modes that never fade have no place here.",
        chart(x, y, layers).draw(),
    )
}

/// The signal, and what is remembered of it at several moments.
pub fn memory(report: &Report, memory: &Memory) -> Figure {
    let signal = &report.signal.samples;
    let mut layers = vec![Layer::line(
        "the signal",
        series(signal),
        Stroke::plain(Ink::Grey, 3.5),
    )];
    for (index, snapshot) in memory.snapshots.iter().enumerate() {
        let points = snapshot
            .remembered
            .iter()
            .map(|(sample, value)| (*sample as f64, *value));
        let name = format!("remembered after {} samples", count(snapshot.heard as u64));
        layers.push(Layer::line(name, points.collect(), Stroke::nth(index)));
    }
    for snapshot in &memory.snapshots {
        layers.push(Layer::At(snapshot.heard as f64 - 1.0, String::new()));
    }
    Figure::new(
        memory.name.clone(),
        format!(
            "Weighs {}. Dashed: the moments at which the state was turned back into a signal.",
            memory.weighs
        ),
        chart(
            samples("sample", signal.len() as f64),
            around("value", signal, 0.35),
            layers,
        )
        .draw(),
    )
}

/// Error against age, of all memories.
pub fn errors(report: &Report) -> Figure {
    let memories = report.systems.iter().flat_map(|system| &system.memories);
    let line = |(index, memory): (usize, &Memory)| {
        Layer::line(memory.name.clone(), memory.by_age.clone(), Stroke::nth(index))
    };
    let oldest = |memory: &Memory| memory.by_age.last().map_or(1.0, |last| last.0);
    let end = memories.clone().map(oldest).fold(1.0, f64::max);
    let mut layers = vec![Layer::Level(1.0, "no better than the mean of the signal".into())];
    layers.extend(memories.enumerate().map(line));
    Figure::new(
        "Error by age",
        "Root mean square over moments in the second half of the signal, in standard deviations of the signal: 0 is a perfect memory.",
        chart(
            samples("age (samples)", end),
            Axis::new("error (standard deviations)", Scale::Linear).range(0.0, 1.3),
            layers,
        )
        .draw(),
    )
}

/// The kernel, the output, and the output from close by.
pub fn views(report: &Report, system: &SystemReport) -> [Figure; 3] {
    [kernel(system), output(report, system), three_views(system)]
}

fn kernel(system: &SystemReport) -> Figure {
    let (kernel, age) = (&system.views.kernel, system.reading_age);
    let shown = ((3.0 * age) as usize).clamp(CLOSE.min(kernel.len()), kernel.len());
    let layers = vec![
        Layer::line("K̄", series(&kernel[..shown]), Stroke::plain(Ink::Series(0), 2.0)),
        Layer::At(age, "the age that is read".into()),
    ];
    Figure::new(
        format!("{}: the kernel", system.named.name()),
        "What the output multiplies a sample by, by how long ago it was.",
        chart(
            samples("age (samples)", shown as f64),
            Axis::new("weight", Scale::Linear),
            layers,
        )
        .draw(),
    )
}

fn output(report: &Report, system: &SystemReport) -> Figure {
    let (signal, age) = (&report.signal.samples, system.reading_age);
    let later = signal
        .iter()
        .enumerate()
        .map(|(k, value)| (k as f64 + age, *value));
    let later = later.take_while(|place| place.0 < signal.len() as f64).collect();
    let name = format!("the signal, {} samples later", short(age));
    let layers = vec![
        Layer::line(name, later, Stroke::plain(Ink::Grey, 3.5)),
        Layer::line(
            "the output",
            series(&system.views.recurrent),
            Stroke::plain(Ink::Series(0), 2.0),
        ),
    ];
    let caption = format!(
        "It answers with what the signal was {} samples ago, as far as the state remembers.",
        short(age)
    );
    let x = samples("sample", signal.len() as f64);
    Figure::new(
        format!("{}: the output", system.named.name()),
        caption,
        chart(x, around("value", signal, 0.35), layers).draw(),
    )
}

fn three_views(system: &SystemReport) -> Figure {
    let views = &system.views;
    let start = steepest(&views.recurrent, CLOSE);
    let range = start..(start + CLOSE).min(views.recurrent.len());
    let near = |values: &[f64]| range.clone().map(|k| (k as f64, values[k])).collect::<Vec<_>>();
    let fine = FINE * range.start..FINE * range.end;
    let integral = fine.map(|i| ((i + 1) as f64 / FINE as f64 - 1.0, views.continuous[i]));
    let dots = |name: &str, values: &[f64], series: usize, mark: Mark| Layer::Dots {
        name: name.into(),
        points: near(values),
        ink: Ink::Series(series),
        mark,
    };
    let layers = vec![
        Layer::line(
            "continuous: the integral",
            integral.collect(),
            Stroke::plain(Ink::Grey, 2.0),
        ),
        dots("recurrent: from state to state", &views.recurrent, 0, Mark::DOT),
        dots("convolutional: all at once", &views.convolved, 1, Mark::nth(4)),
    ];
    let caption = format!(
        "{CLOSE} samples where it changes most. Recurrence and convolution differ by {} of the largest output, recurrence and integral by {}.",
        difference(views.differences.recurrent_convolved),
        difference(views.differences.recurrent_continuous)
    );
    let (x, y) = (
        Axis::new("sample", Scale::Linear),
        Axis::new("output", Scale::Linear),
    );
    Figure::new(
        format!("{}: three ways to compute it", system.named.name()),
        caption,
        chart(x, y, layers).draw(),
    )
}

/// The output when a part of the samples is left out.
pub fn rate(report: &Report, system: &SystemReport) -> Option<Figure> {
    let at = system.rates.iter().find(|at| at.rate == DRAWN_RATE)?;
    let times = |values: &[f64]| -> Vec<(f64, f64)> {
        let place = |(k, value): (usize, &f64)| ((at.rate * (k + 1)) as f64 - 1.0, *value);
        values.iter().enumerate().map(place).collect()
    };
    let output = &system.views.recurrent;
    let layers = vec![
        Layer::line("every sample, Δ", series(output), Stroke::plain(Ink::Grey, 3.5)),
        Layer::line(
            format!("one in {}, {}Δ", at.rate, at.rate),
            times(&at.adapted),
            Stroke::nth(0),
        ),
        Layer::line(
            format!("one in {}, still Δ", at.rate),
            times(&at.unchanged),
            Stroke::nth(1),
        ),
    ];
    Some(Figure::new(
        system.named.name(),
        format!(
            "One sample in {}. With the step multiplied the output is off by {}, with the step as it was by {}.",
            at.rate,
            percent(Some(at.error)),
            percent(Some(at.error_unchanged))
        ),
        chart(
            samples("sample", report.signal.samples.len() as f64),
            around("output", output, 0.2),
            layers,
        )
        .draw(),
    ))
}

/// (index, value), thinned where there are more than a picture shows.
fn series(values: &[f64]) -> Vec<(f64, f64)> {
    const MOST: usize = 1200;
    let stride = values.len().div_ceil(MOST);
    let points = values.iter().enumerate().step_by(stride.max(1));
    points.map(|(k, value)| (k as f64, *value)).collect()
}

/// An axis that holds these values, with so large a part of their range as room on both sides. What leaves it is cut off.
fn around(name: &str, values: &[f64], room: f64) -> Axis {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = if low < high { room * (high - low) } else { 1.0 };
    Axis::new(name, Scale::Linear).range(low - room, high + room)
}

/// Where a range of so many samples begins that has the steepest change in its middle.
fn steepest(values: &[f64], wide: usize) -> usize {
    let change = |k: &usize| (values[k + 1] - values[*k]).abs();
    let found = (0..values.len().saturating_sub(1)).max_by(|a, b| change(a).total_cmp(&change(b)));
    found
        .unwrap_or(0)
        .saturating_sub(wide / 2)
        .min(values.len().saturating_sub(wide))
}
