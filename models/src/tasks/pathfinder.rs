//! Whether two discs lie on one dashed curve.

use std::f64::consts::TAU;

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Task, TaskError, When, expect_this_length,
};

/// Pixels that curves keep from each other, and from the edge.
const CLEARANCE: f64 = 2.5;
const MARGIN: f64 = 1.0;
/// Largest change of direction from dash to dash.
const BEND: f64 = 0.9;
/// Dash and gap, in pixels.
const DASH: f64 = 3.0;
const GAP: f64 = 2.0;
/// Half the width of a dash, and the radius of a disc.
const HALF_WIDTH: f64 = 0.5;
const DISC: f64 = 1.75;
/// Beginnings that are tried before a curve is made shorter, and continuations before a beginning is given up.
const BEGINNINGS: usize = 60;
const CONTINUATIONS: usize = 12;
const SMALLEST: usize = 8;

/// An image of `side` × `side` pixels from 0 to 1, row by row: two long dashed curves, `distractors` short ones, and two discs. The class
/// is 1 if the discs are the two ends of one long curve, and 0 if each is an end of another; both come with probability ½.
///
/// Both classes have the same curves, so that nothing but following a curve tells them apart. Sources: Linsley et al., *Learning
/// long-range spatial dependencies with horizontal gated recurrent units* (1805.08315); Tay et al., *Long Range Arena* (2011.04006). The
/// curves here are drawn anew and are not those of either.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pathfinder {
    /// Pixels in a row.
    #[serde(default = "side")]
    pub side: usize,
    /// Dashes of a long curve, as far as there is room for them. Default: three sixteenths of the side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashes: Option<usize>,
    /// Short curves, of a third as many dashes.
    #[serde(default = "distractors")]
    pub distractors: usize,
}

fn side() -> usize {
    32
}

fn distractors() -> usize {
    2
}

type Point = (f64, f64);

/// The two ends of every dash.
type Curve = Vec<(Point, Point)>;

impl Pathfinder {
    fn dashes(&self) -> usize {
        self.dashes.unwrap_or(self.side * 3 / 16)
    }

    /// A curve clear of `others`, of `dashes` dashes or as many as there is room for; at least one.
    fn curve(&self, dashes: usize, others: &[Curve], rng: &mut StdRng) -> Curve {
        for dashes in (1..=dashes.max(1)).rev() {
            for _ in 0..BEGINNINGS {
                let curve = self.walk(dashes, others, rng);
                if curve.len() == dashes {
                    return curve;
                }
            }
        }
        // No room at all: across whatever is there.
        let last = self.side as f64 - 1.0 - MARGIN;
        let start = (
            rng.random_range(MARGIN..last - DASH),
            rng.random_range(MARGIN..last),
        );
        vec![(start, ahead(start, 0.0, DASH))]
    }

    /// A curve from a random place, as far as it comes.
    fn walk(&self, dashes: usize, others: &[Curve], rng: &mut StdRng) -> Curve {
        let (low, high) = (MARGIN, self.side as f64 - 1.0 - MARGIN);
        let inside = |(x, y): Point| (low..=high).contains(&x) && (low..=high).contains(&y);
        let free = |dash: (Point, Point), own: &Curve| {
            // The dash before is as near as a gap.
            let own = own.split_last().map_or(&[][..], |(_, earlier)| earlier);
            let taken = others.iter().flatten().chain(own);
            inside(dash.0)
                && inside(dash.1)
                && taken.into_iter().all(|other| apart(dash, *other) >= CLEARANCE)
        };
        let mut curve = Curve::new();
        let mut start = (rng.random_range(low..high), rng.random_range(low..high));
        let mut direction = rng.random_range(0.0..TAU);
        while curve.len() < dashes {
            let continuation = (0..CONTINUATIONS).find_map(|_| {
                let turned = direction + rng.random_range(-BEND..BEND);
                let dash = (start, ahead(start, turned, DASH));
                free(dash, &curve).then_some((dash, turned))
            });
            let Some((dash, turned)) = continuation else {
                break;
            };
            curve.push(dash);
            (start, direction) = (ahead(dash.1, turned, GAP), turned);
        }
        curve
    }

    fn draw(&self, curves: &[Curve], discs: [Point; 2]) -> Vec<f32> {
        let strokes = curves.iter().flatten().map(|dash| (*dash, HALF_WIDTH));
        let discs = discs.map(|disc| ((disc, disc), DISC));
        let strokes: Vec<_> = strokes.chain(discs).collect();
        let pixel = |index: usize| {
            let point = ((index % self.side) as f64, (index / self.side) as f64);
            // White inside, and half a pixel of grey on either side of the edge.
            let white = |(stroke, half): &((Point, Point), f64)| half + 0.5 - distance(point, *stroke);
            strokes.iter().map(white).fold(0.0, f64::max).min(1.0) as f32
        };
        (0..self.side * self.side).map(pixel).collect()
    }
}

fn ahead((x, y): Point, direction: f64, length: f64) -> Point {
    (x + length * direction.cos(), y + length * direction.sin())
}

/// Distance from a point to the nearest point of a stretch.
fn distance((x, y): Point, ((ax, ay), (bx, by)): (Point, Point)) -> f64 {
    let (dx, dy) = (bx - ax, by - ay);
    let square = dx * dx + dy * dy;
    let along = match square > 0.0 {
        true => (((x - ax) * dx + (y - ay) * dy) / square).clamp(0.0, 1.0),
        false => 0.0,
    };
    (x - ax - along * dx).hypot(y - ay - along * dy)
}

/// Distance from one dash to another, by ends and middles: dashes are short.
fn apart(a: (Point, Point), b: (Point, Point)) -> f64 {
    let middle = |(from, to): (Point, Point)| ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
    let of = |points: (Point, Point), stretch| {
        let points = [points.0, middle(points), points.1];
        points.into_iter().map(move |point| distance(point, stretch))
    };
    of(a, b).chain(of(b, a)).fold(f64::INFINITY, f64::min)
}

impl Task for Pathfinder {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        if !(SMALLEST..=4096).contains(&self.side) {
            return Err(TaskError::option(
                "side",
                format!("{SMALLEST} to 4096"),
                self.side,
            ));
        }
        if self.dashes() == 0 || self.dashes() > self.side {
            let expected = format!("1 to the side {}", self.side);
            return Err(TaskError::option("dashes", expected, self.dashes()));
        }
        if self.distractors > self.side {
            let expected = format!("at most the side {}", self.side);
            return Err(TaskError::option("distractors", expected, self.distractors));
        }
        expect_this_length(length, self.side * self.side, "the pixels of an image")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(1),
            answer: Answer::Class(2),
            when: When::AtTheEnd,
        }
    }

    fn example(&self, length: usize, _: Item, rng: &mut StdRng) -> Example {
        let connected = rng.random_bool(0.5);
        let (long, short) = (self.dashes(), (self.dashes() / 3).max(1));
        let mut curves: Vec<Curve> = Vec::new();
        for dashes in [long; 2].into_iter().chain((0..self.distractors).map(|_| short)) {
            let curve = self.curve(dashes, &curves, rng);
            curves.push(curve);
        }
        let end = |curve: &Curve| curve.last().map_or((0.0, 0.0), |dash| dash.1);
        let begin = curves.first().and_then(|curve| curve.first());
        let begin = begin.map_or((0.0, 0.0), |dash| dash.0);
        let discs = [begin, end(&curves[usize::from(!connected)])];
        let pixels = self.draw(&curves, discs);
        let class = u32::from(connected);
        Example::once(Sequence::Values(pixels), Answers::Classes(vec![class]), length)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn curves_keep_clear_of_each_other_and_of_the_edge() {
        let task = Pathfinder {
            side: 32,
            dashes: None,
            distractors: 2,
        };
        let mut whole = 0;
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut curves: Vec<Curve> = Vec::new();
            for _ in 0..2 {
                let curve = task.curve(task.dashes(), &curves, &mut rng);
                whole += usize::from(curve.len() == 6);
                for dash in &curve {
                    let inside = |value: &f64| (MARGIN..=31.0 - MARGIN).contains(value);
                    assert!(
                        [dash.0.0, dash.0.1, dash.1.0, dash.1.1].iter().all(inside),
                        "{dash:?}"
                    );
                    let length = (dash.1.0 - dash.0.0).hypot(dash.1.1 - dash.0.1);
                    assert!((length - DASH).abs() < 1e-9);
                    assert!(
                        curves
                            .iter()
                            .flatten()
                            .all(|other| apart(*dash, *other) >= CLEARANCE)
                    );
                }
                curves.push(curve);
            }
        }
        assert!(whole > 70, "{whole} of 80 curves are as long as they should be");
    }

    #[test]
    fn both_classes_come_as_often_with_as_much_ink() {
        let task = Pathfinder {
            side: 16,
            dashes: None,
            distractors: 1,
        };
        task.check(256).unwrap();
        let (mut ink, mut count) = ([0.0; 2], [0; 2]);
        for seed in 0..600 {
            let example = task.example(256, Item::training(0), &mut StdRng::seed_from_u64(seed));
            let (Sequence::Values(pixels), Answers::Classes(answers)) = (&example.inputs, &example.answers)
            else {
                panic!("values");
            };
            assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
            count[answers[0] as usize] += 1;
            ink[answers[0] as usize] += pixels.iter().sum::<f32>();
        }
        assert!(count.iter().all(|count| (240..360).contains(count)), "{count:?}");
        let [a, b] = [0, 1].map(|class| ink[class] / count[class] as f32);
        assert!((a / b - 1.0).abs() < 0.05, "ink {a} and {b}");
    }

    #[test]
    fn the_smallest_and_the_fullest_images_are_drawn_too() {
        for task in [
            Pathfinder {
                side: 8,
                dashes: Some(8),
                distractors: 8,
            },
            Pathfinder {
                side: 64,
                dashes: None,
                distractors: 4,
            },
        ] {
            let length = task.side * task.side;
            task.check(length).unwrap();
            for seed in 0..10 {
                let example = task.example(length, Item::training(0), &mut StdRng::seed_from_u64(seed));
                assert!(matches!(&example.inputs, Sequence::Values(values) if values.len() == length));
            }
        }
        assert!(
            Pathfinder {
                side: 7,
                dashes: None,
                distractors: 0
            }
            .check(49)
            .is_err()
        );
    }
}
