//! Frequency against time: what a sound is made of, as a picture.
//!
//! ```text
//! P_j(k) = |Σ_n w_n x_{jh+n} e^{−2πikn/N}|²      N = 256, w_n = sin²(πn/N)
//! ```
//!
//! Two neighbouring k are a row, and the shade is 10 log₁₀ of their mean over the loudest of the picture, down to −70 dB.

use crate::kit::ink::Ink;
use crate::kit::picture::{Drawing, Entry, Figure, Sample, WIDTH, at};
use maud::html;
use spillway_models::audio::wav::Clip;
use std::f64::consts::PI;

/// Samples of a frame.
const FRAME: usize = 256;
/// Rows of the picture.
const BANDS: usize = FRAME / 4;
/// The fewest samples from one frame to the next.
const HOP: usize = 64;
/// The most frames of a picture; those of longer sounds lie further apart.
const FRAMES: usize = 240;
/// The faintest shade, in dB.
const FLOOR: f64 = -70.0;
/// Height of a row.
const ROW: f64 = 3.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 28.0;

/// The mean power of each band, frame after frame, lowest band first.
fn powers(samples: &[f32]) -> Vec<[f64; BANDS]> {
    let hop = samples.len().div_ceil(FRAMES).max(HOP);
    let window: Vec<f64> = (0..FRAME)
        .map(|n| (PI * n as f64 / FRAME as f64).sin().powi(2))
        .collect();
    let turns: Vec<(f64, f64)> = (0..FRAME)
        .map(|n| (2.0 * PI * n as f64 / FRAME as f64).sin_cos())
        .collect();
    let power = |frame: &[f64], k: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, value) in frame.iter().enumerate() {
            let (sine, cosine) = turns[n * k % FRAME];
            re += value * cosine;
            im -= value * sine;
        }
        re * re + im * im
    };
    let frame = |start: usize| {
        let samples = samples[start..].iter().take(FRAME).zip(&window);
        let frame: Vec<f64> = samples.map(|(x, w)| f64::from(*x) * w).collect();
        std::array::from_fn(|band| f64::midpoint(power(&frame, 2 * band), power(&frame, 2 * band + 1)))
    };
    // The last frame is the last that is whole, or the only one.
    let last = samples.len().saturating_sub(FRAME);
    (0..=last).step_by(hop).map(frame).collect()
}

/// The picture of a sound.
pub fn figure(clip: &Clip, title: &str) -> Figure {
    let powers = powers(&clip.samples);
    let loudest = powers.iter().flatten().copied().fold(0.0, f64::max);
    // In steps of the scale, so that what looks alike is drawn as one.
    let shade = |power: f64| {
        let decibels = 10.0 * (power / loudest).log10();
        match decibels.is_finite() {
            true => Ink::shade(1.0 - (decibels / FLOOR).clamp(0.0, 1.0)),
            false => Ink::shade(0.0),
        }
    };
    let width = (WIDTH - LEFT - 20.0) / powers.len().max(1) as f64;
    let bottom = TOP + ROW * BANDS as f64;
    let mut runs = Vec::new();
    for band in 0..BANDS {
        let y = bottom - ROW * (band + 1) as f64;
        let mut start = 0;
        for end in 1..=powers.len() {
            let ink = shade(powers[start][band]);
            if end == powers.len() || shade(powers[end][band]) != ink {
                runs.push((start, end - start, y, ink));
                start = end;
            }
        }
    }
    let rate = f64::from(clip.sample_rate);
    let seconds = clip.samples.len() as f64 / rate;
    let right = LEFT + width * powers.len() as f64;
    let body = html! {
        text.ink.name x="4" y="14" { "frequency (Hz)" }
        @for (start, count, y, ink) in runs {
            rect class={ "f " (ink.class()) } x=(at(LEFT + width * start as f64)) y=(at(y)) width=(at(width * count as f64 + 0.1))
                height=(at(ROW + 0.1)) {}
        }
        @for share in [0.0, 0.5, 1.0] {
            text.ink text-anchor="end" x=(at(LEFT - 6.0)) y=(at(bottom - share * (bottom - TOP) + 4.0)) { (format!("{:.0}", share * rate / 2.0)) }
            text.ink text-anchor="middle" x=(at(LEFT + share * (right - LEFT))) y=(at(bottom + 17.0)) { (format!("{:.2}", share * seconds)) }
        }
        text.ink.name text-anchor="middle" x=(at(f64::midpoint(LEFT, right))) y=(at(bottom + 36.0)) { "time (s)" }
    };
    let caption = format!(
        "Power by frequency and time: frames of {FRAME} samples, {} samples a second, in dB beside the loudest.",
        clip.sample_rate
    );
    let drawing = Drawing {
        size: (WIDTH, bottom + 44.0),
        body,
        legend: vec![Entry {
            text: "power (dB)".into(),
            sample: Sample::Scale([format!("{FLOOR:.0}"), String::new(), "0".into()]),
        }],
        is_table: false,
    };
    Figure::new(title, caption, drawing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_loudest_in_the_band_of_its_frequency() {
        for band in [1, 20, 62] {
            // In the middle of its two frequencies.
            let k = 2.0 * f64::from(band) + 0.5;
            let tone = (0..4000).map(|n| (2.0 * PI * k * f64::from(n) / FRAME as f64).sin() as f32);
            let powers = powers(&tone.collect::<Vec<_>>());
            assert_eq!(powers.len(), (4000 - FRAME) / HOP + 1);
            for frame in powers {
                let loudest = (0..BANDS).max_by(|a, b| frame[*a].total_cmp(&frame[*b]));
                assert_eq!(loudest, Some(band as usize));
                let all: f64 = frame.iter().sum();
                assert!(frame[band as usize] > 0.7 * all, "{frame:?}");
            }
        }
    }

    #[test]
    fn silence_and_a_single_sample_can_be_drawn() {
        for samples in [vec![0.0; 1000], vec![0.5], vec![0.1; 70_000]] {
            let clip = Clip {
                sample_rate: 8000,
                samples,
            };
            let file = figure(&clip, "sound").file();
            assert!(file.contains("frequency (Hz)") && !file.contains("NaN"), "{file}");
        }
    }
}
