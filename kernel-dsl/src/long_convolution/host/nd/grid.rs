//! Transforms over all axes.
//!
//! The last axis is transformed as real signals are, to half as many points; the others as the complex ones that its points are. A point of
//! the last axis is a number at a root of z^M = i and a place of the others a number at one of w^N = 1, so that conjugates belong to signals
//! in reverse on all axes, and correlations are products with them, as on one axis.

use std::sync::Arc;

use pulp::{Simd, WithSimd};

use super::lanes::StridedMut;
use crate::long_convolution::host::butterfly::Point;
use crate::long_convolution::host::fft::{Plan, Sink, Source};
use crate::long_convolution::host::fourier::{Taps, end_of_taps};
use crate::long_convolution::nd::Problem;
use crate::long_convolution::problem::Reach;

/// What is transformed: an image by its positions, or a kernel by its lags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Image,
    Kernel,
}

/// Direction of a transform: from values to points, or from points to values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Down,
    Up,
}

/// The points of a transform over all axes.
pub(super) struct Grid {
    /// All axes but the last, with the plans of as many points as they have places.
    others: Vec<(Reach, Arc<Plan>)>,
    /// The last axis, and the plan of its transform.
    last: Reach,
    plan: Arc<Plan>,
}

impl Grid {
    pub fn of(problem: &Problem) -> Self {
        let axes = problem.axes.as_slice();
        let reaches = axes.iter().map(|axis| axis.reach());
        let mut reaches: Vec<Reach> = reaches.collect();
        // There is at least one axis.
        let last = reaches.pop().unwrap_or(Reach {
            ahead: 1,
            later: 0,
            shift: 1,
            positions: 1,
            time: 1,
        });
        let others = reaches.into_iter().map(|reach| {
            let places = reach.places().next_power_of_two();
            (reach, Plan::of(2 * places))
        });
        Self {
            others: others.collect(),
            plan: Plan::of(last.places()),
            last,
        }
    }

    /// What meets what on each axis.
    pub fn reaches(&self) -> impl Iterator<Item = &Reach> {
        self.others.iter().map(|(reach, _)| reach).chain([&self.last])
    }

    /// Points of memory for a transform.
    pub fn room(&self) -> usize {
        self.rows_from(0) * self.plan.room()
    }

    /// Places on the axes from `axis` on but the last.
    fn rows_from(&self, axis: usize) -> usize {
        let plans = self.others[axis..].iter().map(|(_, plan)| plan.points());
        plans.product()
    }

    /// The longest line on any axis but the last.
    pub fn longest(&self) -> usize {
        let points = self.others.iter().map(|(_, plan)| plan.points());
        points.max().unwrap_or(0)
    }

    /// The inverse of what transforms there and back multiply by.
    fn scale(&self) -> f32 {
        1.0 / (self.rows_from(0) * self.plan.points()) as f32
    }

    /// Values along an axis.
    fn extent(side: Side, reach: &Reach) -> usize {
        match side {
            Side::Image => reach.time,
            Side::Kernel => reach.lags(),
        }
    }

    /// Where values lie on an axis but the last.
    fn place(side: Side, (reach, plan): &(Reach, Arc<Plan>), index: usize) -> usize {
        match side {
            Side::Image => index,
            Side::Kernel => (index + plan.points() - reach.back()) % plan.points(),
        }
    }

    /// The rows of values, each with the row of the grid in which it lies.
    fn rows(&self, side: Side) -> impl Iterator<Item = (usize, usize)> {
        let counts = self.others.iter().map(|(reach, _)| Self::extent(side, reach));
        let count: usize = counts.product();
        (0..count).map(move |row| {
            let (mut rest, mut stride, mut found) = (row, 1, 0);
            for axis in self.others.iter().rev() {
                let extent = Self::extent(side, &axis.0);
                found += Self::place(side, axis, rest % extent) * stride;
                (rest, stride) = (rest / extent, stride * axis.1.points());
            }
            (row, found)
        })
    }

    /// The transform of values, over what was there before, or values from their transform, which is used up: a function of its own in the
    /// code for every level of instructions. There and back multiplies by the inverse of [`Grid::scale`], which taps make good.
    #[inline(always)]
    pub fn turn<S: Simd>(
        &self,
        simd: S,
        way: Way,
        side: Side,
        values: &mut [S::f32s],
        points: &mut [Point<S>],
        line: &mut [Point<S>],
    ) {
        simd.vectorize(Turn {
            grid: self,
            way,
            side,
            values: bytemuck::cast_slice_mut(values),
            points: bytemuck::cast_slice_mut(points),
            line: bytemuck::cast_slice_mut(line),
        });
    }

    /// The rows of the last axis.
    #[inline(always)]
    fn turn_rows<S: Simd>(
        &self,
        simd: S,
        way: Way,
        side: Side,
        values: &mut [S::f32s],
        points: &mut [Point<S>],
    ) {
        let (room, extent) = (self.plan.room(), Self::extent(side, &self.last));
        for (row, place) in self.rows(side) {
            let values = &mut values[row * extent..(row + 1) * extent];
            let points = &mut points[place * room..(place + 1) * room];
            match side {
                Side::Image => {
                    let mut row = StridedMut::<S> {
                        values,
                        first: 0,
                        stride: 1,
                    };
                    self.turn_row(simd, way, extent, &mut row, points);
                }
                Side::Kernel => {
                    let end = end_of_taps(&self.plan, &self.last);
                    self.turn_row(simd, way, end, &mut self.taps(simd, values), points);
                }
            }
        }
    }

    /// A row, of which the values from `end` on are 0.
    #[inline(always)]
    fn turn_row<S: Simd>(
        &self,
        simd: S,
        way: Way,
        end: usize,
        values: &mut (impl Source<S> + Sink<S>),
        points: &mut [Point<S>],
    ) {
        match way {
            Way::Down => {
                self.plan.outer(simd, end, points, values);
                self.plan.rest(simd, points);
            }
            Way::Up => {
                self.plan.rest_back(simd, points);
                self.plan.outer_back(simd, points, end, values);
            }
        }
    }

    /// The lines along an axis but the last.
    #[inline(always)]
    fn turn_lines<S: Simd>(
        &self,
        simd: S,
        way: Way,
        (side, axis): (Side, usize),
        points: &mut [Point<S>],
        line: &mut [Point<S>],
    ) {
        let (plan, stride) = (&self.others[axis].1, self.stride(axis));
        let line = &mut line[..plan.points()];
        for first in self.starts(axis, side) {
            gather::<S>(points, first, stride, line);
            match way {
                Way::Down => plan.plain(simd, line),
                Way::Up => plan.plain_back(simd, line),
            }
            scatter::<S>(line, first, stride, points);
        }
    }

    /// A row of a kernel on the last axis.
    #[inline(always)]
    fn taps<'a, S: Simd>(&'a self, simd: S, lags: &'a mut [S::f32s]) -> Taps<'a, S> {
        Taps {
            reach: &self.last,
            places: 2 * self.plan.points(),
            lags,
            scale: simd.splat_f32s(self.scale()),
        }
    }

    /// Distance between neighbours on an axis but the last, in points.
    fn stride(&self, axis: usize) -> usize {
        self.rows_from(axis + 1) * self.plan.room()
    }

    /// Where lines along an axis but the last begin, as far as the axes before it hold anything: they are transformed last and come back
    /// first.
    fn starts(&self, axis: usize, side: Side) -> impl Iterator<Item = usize> {
        let before = match self.others[..axis].first() {
            None => vec![0],
            Some(first) => {
                let extent = Self::extent(side, &first.0);
                (0..extent).map(|index| Self::place(side, first, index)).collect()
            }
        };
        let (room, rows) = (self.plan.room(), self.rows_from(axis + 1));
        let group = self.others[axis].1.points() * self.stride(axis);
        let starts = before
            .into_iter()
            .flat_map(move |outer| (0..rows).map(move |row| outer * group + row * room));
        starts.flat_map(|start| {
            self.plan
                .outer_blocks()
                .flat_map(move |block| block.map(move |point| start + point))
        })
    }
}

/// A transform over all axes, or its inverse, as a function of its own; vectors as the values of their lanes.
struct Turn<'a> {
    grid: &'a Grid,
    way: Way,
    side: Side,
    values: &'a mut [f32],
    points: &'a mut [f32],
    line: &'a mut [f32],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { grid, way, side, .. } = self;
        let values: &mut [S::f32s] = bytemuck::cast_slice_mut(self.values);
        let points: &mut [Point<S>] = bytemuck::cast_slice_mut(self.points);
        let line: &mut [Point<S>] = bytemuck::cast_slice_mut(self.line);
        // From the last axis to the first, and the other way back up.
        let axes = 0..grid.others.len();
        match way {
            Way::Down => points.fill([simd.splat_f32s(0.0); 2]),
            Way::Up => {
                for axis in axes.clone() {
                    grid.turn_lines(simd, way, (side, axis), points, line);
                }
            }
        }
        grid.turn_rows(simd, way, side, values, points);
        if way == Way::Down {
            for axis in axes.rev() {
                grid.turn_lines(simd, way, (side, axis), points, line);
            }
        }
    }
}

#[inline(always)]
fn gather<S: Simd>(from: &[Point<S>], first: usize, stride: usize, line: &mut [Point<S>]) {
    for (to, from) in line.iter_mut().zip(from[first..].iter().step_by(stride)) {
        *to = *from;
    }
}

#[inline(always)]
fn scatter<S: Simd>(line: &[Point<S>], first: usize, stride: usize, to: &mut [Point<S>]) {
    for (from, to) in line.iter().zip(to[first..].iter_mut().step_by(stride)) {
        *to = *from;
    }
}
