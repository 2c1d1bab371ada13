//! Pictures: a drawing, its legend, and what both are about; inside a page, or as a file of their own.

use super::format::counted;
use super::ink::{self, Ink, Mark, Stroke};
use maud::{Markup, PreEscaped, html};

/// Width of most drawings.
pub const WIDTH: f64 = 560.0;
/// Characters of a legend's text in a file.
const TEXT: usize = 76;
/// Characters of a legend's text that leaves room for another beside it.
const HALF: usize = 36;
/// Height of a line of a file's legend.
const ROW: f64 = 22.0;

/// What a name in a legend stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A curve, by how it is drawn.
    Line(Stroke),
    /// A point, by its colour and its mark.
    Point(Ink, Mark),
    /// A scale from light to dark with numbers at its ends and in its middle.
    Scale([String; 3]),
}

/// A line of a legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Text of the line: the name of what is drawn.
    pub text: String,
    /// What the text stands beside: a piece of the curve, a point, or the scale.
    pub sample: Sample,
}

/// A drawing as elements of SVG, and its legend.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Width and height of the drawing, in its own coordinates.
    pub size: (f64, f64),
    /// Elements of the drawing.
    pub body: Markup,
    /// What its curves, points and shades stand for; empty if there is nothing to tell apart.
    pub legend: Vec<Entry>,
    /// Whether it is a table of cells with texts in them, which cannot be made as narrow as a telephone.
    pub is_table: bool,
}

/// A drawing with words.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Heading of the picture.
    pub title: String,
    /// What to see in it, and how it was made.
    pub caption: String,
    /// Drawing of the picture.
    pub drawing: Drawing,
}

/// A number in the coordinates of a drawing.
pub fn at(value: f64) -> String {
    let text = format!("{:.1}", value.clamp(-1e5, 1e5));
    text.trim_end_matches(".0").to_string()
}

impl Figure {
    /// A drawing with a heading and a caption.
    pub fn new(title: impl Into<String>, caption: impl Into<String>, drawing: Drawing) -> Self {
        Self {
            title: title.into(),
            caption: caption.into(),
            drawing,
        }
    }

    /// As part of a page.
    pub fn inline(&self) -> Markup {
        let (width, height) = self.drawing.size;
        let table = self.drawing.is_table;
        let limits =
            table.then(|| format!("min-width:{}px;max-width:{}px", at(0.75 * width), at(1.2 * width)));
        html! {
            "\n" figure {
                h3 { (self.title) }
                div.scroll {
                    svg role="img" aria-label=(self.title) viewBox=(format!("0 0 {} {}", at(width), at(height)))
                        class=[table.then_some("cells")] style=[limits] { (self.drawing.body) }
                }
                @if !self.drawing.legend.is_empty() {
                    ul.legend {
                        @for entry in &self.drawing.legend {
                            @let width = entry.sample.width();
                            li {
                                svg width=(at(width)) height="24" viewBox=(format!("0 -9 {} 24", at(width))) aria-hidden="true" {
                                    (entry.sample.draw())
                                }
                                (entry.text)
                            }
                        }
                    }
                }
                figcaption { (self.caption) }
            }
        }
    }

    /// As a file: with its title and legend, and colours for light and dark surroundings.
    pub fn file(&self) -> String {
        let (width, height) = (self.drawing.size.0.max(WIDTH), self.drawing.size.1);
        let legend = &self.drawing.legend;
        let columns = if legend.iter().all(|entry| entry.room() <= HALF) {
            2
        } else {
            1
        };
        let top = 34.0;
        let below = ROW * legend.len().div_ceil(columns) as f64;
        let whole = top + height + below + if legend.is_empty() { 6.0 } else { 16.0 };
        let view = format!("0 0 {} {}", at(width), at(whole));
        let drawn = html! {
            svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox=(view) width=(at(width)) height=(at(whole)) {
                title { (self.title) }
                desc { (self.caption) }
                style { (PreEscaped(ink::css())) }
                rect.f.paper width=(at(width)) height=(at(whole)) {}
                text.ink.name x="12" y="22" style="font-weight:600" { (shortened(&self.title, TEXT)) }
                g transform=(format!("translate(0 {top})")) { (self.drawing.body) }
                @for (index, entry) in legend.iter().enumerate() {
                    @let x = 14.0 + (width - 20.0) / columns as f64 * (index % columns) as f64;
                    @let y = top + height + 12.0 + ROW * (index / columns) as f64;
                    g transform=(format!("translate({} {})", at(x), at(y))) {
                        (entry.sample.draw())
                        text.ink x=(at(entry.sample.width() + 8.0)) y="5" { (shortened(&entry.text, TEXT)) }
                    }
                }
            }
        };
        visible(&drawn.into_string()) + "\n"
    }
}

impl Entry {
    /// Characters that it takes.
    fn room(&self) -> usize {
        self.text.chars().count() + (self.sample.width() / 7.0) as usize - 4
    }
}

impl Sample {
    fn width(&self) -> f64 {
        match self {
            Self::Scale(_) => 165.0,
            _ => 34.0,
        }
    }

    /// Around a height of 0, from 0 to [`Self::width`].
    fn draw(&self) -> Markup {
        match self {
            Self::Line(stroke) => html! {
                (line("M0 0H34", *stroke))
                @if let Some(mark) = stroke.mark { (point((17.0, 0.0), stroke.ink, mark, None)) }
            },
            Self::Point(ink, mark) => point((17.0, 0.0), *ink, *mark, None),
            Self::Scale([low, middle, high]) => {
                let wide = 90.0 / f64::from(ink::SHADES);
                html! {
                    @for step in 0..ink::SHADES {
                        rect class={ "f " (Ink::Shade(step).class()) } x=(at(30.0 + wide * f64::from(step))) y="-7" width=(at(wide + 0.4))
                            height="9" {}
                    }
                    text.ink text-anchor="end" x="26" y="3" { (low) }
                    text.ink text-anchor="start" x="125" y="3" { (high) }
                    @if !middle.is_empty() { text.grey text-anchor="middle" x="75" y="14" { (middle) } }
                }
            }
        }
    }
}

/// A path in a stroke.
pub fn line(path: &str, stroke: Stroke) -> Markup {
    let dash = (!stroke.dash.is_empty()).then_some(stroke.dash);
    html! { path class={ "l " (stroke.ink.class()) } d=(path) stroke-width=(stroke.width) stroke-dasharray=[dash] {} }
}

/// A mark, with what appears when a pointer is on it.
pub fn point((x, y): (f64, f64), ink: Ink, mark: Mark, hover: Option<&str>) -> Markup {
    html! {
        path class={ (mark.class()) " " (ink.class()) } d=(mark.path()) stroke-width="1.8"
            transform=(format!("translate({} {})", at(x), at(y))) {
            @if let Some(hover) = hover { title { (hover) } }
        }
    }
}

/// The entries of a legend; of those in grey, their number only.
pub fn legend(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let is_faint = |entry: &Entry| entry.sample == Sample::Line(Stroke::FAINT);
    let mut kept: Vec<Entry> = Vec::new();
    let mut faint = 0;
    let mut seen: Vec<String> = Vec::new();
    for entry in entries.filter(|entry| !entry.text.is_empty()) {
        if seen.contains(&entry.text) {
            continue;
        }
        seen.push(entry.text.clone());
        match is_faint(&entry) {
            true => faint += 1,
            false => kept.push(entry),
        }
    }
    if faint > 0 {
        kept.push(Entry {
            text: format!("{}, named under the pointer", counted(faint, "other")),
            sample: Sample::Line(Stroke::FAINT),
        });
    }
    kept
}

/// A text of at most `most` characters: a longer one is cut and ends in `…`.
fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.into(),
    }
}

/// Control characters, which neither XML nor HTML can hold, and those that turn the direction of text, as pictures of themselves.
pub fn visible(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => c,
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
            '\u{fffd}'
        }
        c => c,
    };
    text.chars().map(visible).collect()
}
