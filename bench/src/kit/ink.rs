//! Colours, dashes and marks: curves are told apart by all three, so that no one of them is needed.
//!
//! Elements of a picture have classes, whose colours [`css`] gives for light and for dark surroundings.

/// Curves that are told apart well; more than these are drawn faint.
pub const MOST: usize = 7;
/// Steps of a heat map's scale.
pub const SHADES: u8 = 16;
/// The first step on which text is written in the colour of the paper.
const DARK_FROM: u8 = 10;

/// Class, colour on light paper, colour on dark paper. The series are Okabe and Ito's colours without yellow, which is lost on white, and
/// with a purple in the place of the second orange; safe for colour-blind readers.
const COLOURS: [(&str, &str, &str); MOST + 5] = [
    ("c0", "#0072b2", "#4aa8e8"),
    ("c1", "#d97c00", "#f2a33a"),
    ("c2", "#009e73", "#2cc79b"),
    ("c3", "#a1317c", "#e27fc0"),
    ("c4", "#56b4e9", "#a6dcff"),
    ("c5", "#785e28", "#c9a66b"),
    ("c6", "#cc79a7", "#f4bcd6"),
    ("ink", "#282828", "#e6e6e6"),
    ("grey", "#828282", "#9a9a9a"),
    ("faint", "#c4c4c4", "#5c5c5c"),
    ("grid", "#e4e4e4", "#333a42"),
    ("paper", "#ffffff", "#14181d"),
];

/// A colour of a picture, by what it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Colour of the n-th series; that of [`Ink::Faint`] from [`MOST`] on.
    Series(usize),
    /// Colour of text.
    Text,
    /// Colour of what serves for comparison only.
    Grey,
    /// Colour of what is only there to be seen as one of many.
    Faint,
    /// A step of the scale of heat maps, below [`SHADES`].
    Shade(u8),
}

impl Ink {
    /// CSS class of elements in this colour.
    pub fn class(self) -> String {
        match self {
            Self::Series(index) if index < MOST => format!("c{index}"),
            Self::Text => "ink".into(),
            Self::Grey => "grey".into(),
            Self::Series(_) | Self::Faint => "faint".into(),
            Self::Shade(step) => format!("h{step}"),
        }
    }

    /// The step of the scale for a share from 0 to 1; the last for what is no number.
    pub fn shade(share: f64) -> Self {
        let steps = f64::from(SHADES);
        match share.is_nan() {
            true => Self::Shade(SHADES - 1),
            false => Self::Shade((share * steps).clamp(0.0, steps - 1.0) as u8),
        }
    }

    /// The colour of text on this one.
    pub fn on(self) -> &'static str {
        match self {
            Self::Shade(step) if step < DARK_FROM => "ink",
            _ => "paper",
        }
    }
}

/// What a point looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// Outlines around (0, 0), and whether they are filled.
const MARKS: [(&str, bool); MOST] = [
    ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", true),
    ("M0-5L5 4H-5z", true),
    ("M-4-4L4 4M-4 4L4-4", false),
    ("M-3.5-3.5H3.5V3.5H-3.5z", true),
    ("M0-5L5 0L0 5L-5 0z", false),
    ("M-5 0H5M0-5V5", false),
    ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", false),
];

impl Mark {
    /// A filled circle, ●.
    pub const DOT: Self = Self(0);
    /// A filled triangle, ▲.
    pub const TRIANGLE: Self = Self(1);

    /// The mark of the n-th series.
    pub const fn nth(index: usize) -> Self {
        Self(index % MOST)
    }

    /// Outline of the mark around (0, 0), as the data of an SVG path.
    pub fn path(self) -> &'static str {
        MARKS[self.0].0
    }

    /// `f` for filled, `l` for outlined.
    pub fn class(self) -> &'static str {
        if MARKS[self.0].1 { "f" } else { "l" }
    }
}

/// Lengths of dash and gap.
const DASHES: [&str; 4] = ["", "7 4", "2 3", "12 3"];

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stroke {
    /// Colour of the curve and its marks.
    pub ink: Ink,
    /// Lengths of dash and gap; empty is solid.
    pub dash: &'static str,
    /// Width of the line, in the coordinates of the drawing.
    pub width: f64,
    /// What some of its points look like.
    pub mark: Option<Mark>,
}

impl Stroke {
    /// Stroke of the model alone, or of whatever the others are variants of.
    pub const ALONE: Self = Self::plain(Ink::Text, 3.0);
    /// Stroke of what the others are held against.
    pub const BASELINE: Self = Self {
        dash: DASHES[2],
        ..Self::plain(Ink::Grey, 3.0)
    };
    /// Stroke of a curve that is only there to be seen as one of many.
    pub const FAINT: Self = Self::plain(Ink::Faint, 1.2);

    /// A solid line without marks.
    pub const fn plain(ink: Ink, width: f64) -> Self {
        Self {
            ink,
            dash: "",
            width,
            mark: None,
        }
    }

    /// Stroke of the n-th series; [`Self::FAINT`] from [`MOST`] on.
    pub fn nth(index: usize) -> Self {
        if index >= MOST {
            return Self::FAINT;
        }
        Self {
            dash: DASHES[(index + index / DASHES.len()) % DASHES.len()],
            mark: Some(Mark::nth(index)),
            ..Self::plain(Ink::Series(index), 2.0)
        }
    }

    /// Stroke of the n-th curve drawn beside [`Self::ALONE`] and [`Self::BASELINE`]: all three kinds together are told apart.
    pub fn beside(index: usize) -> Self {
        if index + 2 < MOST {
            Self::nth(index)
        } else {
            Self::FAINT
        }
    }

    /// Stroke of the `rank`-th of `of` curves that have an order: from light to dark, and with marks.
    pub fn in_order(rank: usize, of: usize) -> Self {
        let share = 0.3 + 0.69 * (rank + 1) as f64 / of.max(1) as f64;
        Self {
            mark: Some(Mark::nth(rank)),
            ..Self::plain(Ink::shade(share), if rank + 1 == of { 3.0 } else { 2.0 })
        }
    }
}

/// A colour between two or three, by a share from 0 to 1.
fn mixed(share: f64, [light, middle, dark]: [[f64; 3]; 3]) -> String {
    let (from, to, part) = match share < 0.5 {
        true => (light, middle, 2.0 * share),
        false => (middle, dark, 2.0 * share - 1.0),
    };
    let part = |index: usize| (from[index] + part * (to[index] - from[index])).round() as u8;
    format!("#{:02x}{:02x}{:02x}", part(0), part(1), part(2))
}

/// Rules for every class, with `paper` as the name of the colour that pictures lie on.
pub fn css() -> String {
    let rules = |dark: bool| -> String {
        let of_class = COLOURS.iter().map(|(class, on_light, on_dark)| {
            let colour = if dark { on_dark } else { on_light };
            format!(".{class}{{color:{colour}}}")
        });
        let scale = match dark {
            false => [[244.0, 247.0, 251.0], [107.0, 174.0, 214.0], [8.0, 48.0, 107.0]],
            true => [[30.0, 37.0, 47.0], [33.0, 102.0, 172.0], [210.0, 229.0, 247.0]],
        };
        let of_step = (0..SHADES).map(|step| {
            let share = f64::from(step) / f64::from(SHADES - 1);
            format!(".h{step}{{color:{}}}", mixed(share, scale))
        });
        of_class.chain(of_step).collect()
    };
    format!(
        ".l{{fill:none;stroke:currentColor}}.f{{fill:currentColor}}.t{{fill:none;pointer-events:all}}\
         svg text{{fill:currentColor;font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}}\
         svg .name{{font-size:14px}}{}@media screen and (prefers-color-scheme:dark){{{}}}",
        rules(false),
        rules(true)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_series_differ_in_colour_and_mark_and_the_eighth_is_faint() {
        for (a, b) in (0..MOST).flat_map(|a| (0..a).map(move |b| (Stroke::nth(a), Stroke::nth(b)))) {
            let look = |stroke: Stroke| stroke.mark.map(|mark| (mark.path(), mark.class()));
            assert!(a.ink != b.ink && look(a) != look(b), "{a:?} {b:?}");
        }
        assert_eq!(Stroke::nth(MOST), Stroke::FAINT);
        assert_eq!(
            (Stroke::beside(4).ink, Stroke::beside(5)),
            (Ink::Series(4), Stroke::FAINT)
        );
    }

    #[test]
    fn scales_end_at_their_ends() {
        assert_eq!(
            [-1.0, 0.0, 0.5, 1.0, 7.0].map(Ink::shade),
            [0, 0, 8, 15, 15].map(Ink::Shade)
        );
        assert_eq!(Ink::shade(f64::NAN), Ink::Shade(15));
        let css = css();
        assert!(
            css.contains(".h0{color:#f4f7fb}") && css.contains(".h15{color:#08306b}"),
            "{css}"
        );
    }
}
