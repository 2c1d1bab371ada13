//! What must be true of every picture and page, whatever is in it.

use super::axis::{Axis, Scale};
use super::chart::{Chart, Layer, from_the_top};
use super::grid::{Cell, Grid};
use super::ink::{Ink, MOST, Mark, Stroke};
use super::page::{Page, Row, heading, headings, table};
use super::picture::{Entry, Figure, Sample, visible};
use super::provenance::{Provenance, command_line, glossary};
use maud::html;
use proptest::prelude::*;

const HOSTILE: &str = "<script>alert(\"1\")</script>&'\u{1b}[31m\u{0}\u{202e}";

fn chart(scale: Scale, layers: Vec<Layer>) -> Chart {
    Chart {
        x: Axis::positions(),
        y: Axis::new("loss (nats)", scale),
        exponential: Some("perplexity"),
        layers,
    }
}

/// The pictures of a chart, alone and in a page.
fn drawn(chart: &Chart) -> [String; 2] {
    let figure = Figure::new("Title", "Caption", chart.draw());
    [figure.inline().into_string(), figure.file()]
}

/// Every number in attributes is one, and every element is closed: the elements in order.
fn check(svg: &str) {
    let attributes = svg.split('"').skip(1).step_by(2);
    for value in
        attributes.filter(|value| !value.contains(char::is_alphabetic) || value.starts_with(['M', 'N', 'i']))
    {
        assert!(
            !value.contains("NaN") && !value.contains("inf"),
            "{value} in {svg}"
        );
    }
    let mut open: Vec<&str> = Vec::new();
    for tag in svg.split('<').skip(1) {
        let name = tag.split([' ', '>', '/']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), closed.split('>').next(), "{svg}"),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?} left open in {svg}");
}

#[test]
fn nothing_zeros_constants_and_single_points_have_axes_with_ticks() {
    let cases: [&[(f64, f64)]; 6] = [
        &[],
        &[(64.0, f64::NAN), (f64::INFINITY, 1.0)],
        &[(1.0, 0.0), (64.0, 0.0)],
        &[(1.0, 3.5), (64.0, 3.5)],
        &[(64.0, 2.0)],
        &[(-1.0, -1.0), (0.0, 0.0)],
    ];
    for points in cases {
        for scale in [Scale::Linear, Scale::Whole, Scale::Binary, Scale::Decimal] {
            let chart = chart(scale, vec![Layer::line("a", points.to_vec(), Stroke::nth(0))]);
            for svg in drawn(&chart) {
                check(&svg);
                let upwards = svg.matches("text-anchor=\"end\"").count();
                assert!(upwards >= 2, "{points:?} {scale:?}: {upwards} ticks in {svg}");
            }
        }
    }
    let [inline, _] = drawn(&chart(Scale::Linear, Vec::new()));
    assert!(inline.contains("nothing to draw"));
}

#[test]
fn a_point_between_gaps_is_drawn_and_a_gap_is_none() {
    let points = vec![
        (1.0, 1.0),
        (2.0, f64::NAN),
        (4.0, 2.0),
        (8.0, f64::NAN),
        (16.0, 1.0),
        (32.0, 1.0),
    ];
    let [inline, _] = drawn(&chart(
        Scale::Linear,
        vec![Layer::line("a", points, Stroke::plain(Ink::Text, 2.0))],
    ));
    let line = inline
        .split("d=\"")
        .find(|path| path.contains("h.1"))
        .expect("a path with dots");
    let path = line.split('"').next().expect("a path");
    assert_eq!(
        (path.matches('M').count(), path.matches("h.1").count()),
        (3, 2),
        "{path}"
    );
}

#[test]
fn seven_curves_are_named_and_the_others_counted() {
    let line = |index: usize| {
        (
            format!("curve {index}"),
            vec![(1.0, index as f64), (2.0, 1.0)],
            Stroke::nth(index),
        )
    };
    let entries = |lines: usize| {
        chart(
            Scale::Linear,
            from_the_top((0..lines).map(line).collect()).collect(),
        )
        .draw()
        .legend
    };
    assert_eq!(entries(1).len(), 1);
    assert_eq!(entries(MOST).len(), MOST);
    let many = entries(MOST + 1);
    assert_eq!(many.len(), MOST + 1);
    assert_eq!(many[MOST].text, "1 other, named under the pointer");
    assert_eq!(
        entries(40).last().map(|entry| entry.text.as_str()),
        Some("33 others, named under the pointer")
    );
    // Even those in grey say what they are.
    let [inline, _] = drawn(&chart(
        Scale::Linear,
        from_the_top((0..40).map(line).collect()).collect(),
    ));
    assert!(inline.contains("<title>curve 39"));
}

#[test]
fn open_intervals_and_values_outside_the_axes_can_be_drawn() {
    let interval = |low, high| Layer::Interval {
        name: "interval".into(),
        x: 32.0,
        low,
        high,
        ink: Ink::Text,
        mark: Mark::DOT,
    };
    let layers = vec![
        Layer::Band {
            points: vec![
                (16.0, -3.0, 20.0),
                (64.0, 40.0, 1e9),
                (128.0, f64::NAN, f64::INFINITY),
            ],
            ink: Ink::Text,
        },
        Layer::line(
            "a",
            vec![(1.0, 1.0), (32.0, 32.0), (128.0, -1.0)],
            Stroke::plain(Ink::Text, 2.0),
        ),
        interval(Some(32.0), Some(64.0)),
        interval(None, Some(64.0)),
        interval(Some(64.0), None),
        Layer::Level(32.0, "level".into()),
        Layer::At(64.0, "at".into()),
    ];
    let axis = |name: &str| Axis::new(name, Scale::Binary).range(16.0, 256.0);
    let chart = Chart {
        x: axis("across"),
        y: axis("upwards"),
        exponential: None,
        layers,
    };
    for svg in drawn(&chart) {
        check(&svg);
        assert!(svg.contains("across") && svg.contains("upwards") && svg.contains(">128<"));
        assert!(
            svg.contains("32 to 64")
                && svg.contains("below what was tried")
                && svg.contains("beyond what was tried")
        );
    }
}

fn grid(columns: usize) -> Grid {
    let cell = |shade: f64| Cell {
        shade,
        text: format!("{shade:.2}"),
        hover: HOSTILE.into(),
        framed: shade > 0.9,
    };
    Grid {
        columns_name: "context length (tokens)".into(),
        rows_name: "depth".into(),
        columns: (0..columns).map(|column| column.to_string()).collect(),
        rows: vec![HOSTILE.into()],
        cells: vec![
            (0..columns)
                .map(|column| (column != 1).then(|| cell(column as f64 / 8.0)))
                .collect(),
        ],
        scale: ("share".into(), ["0", "", "1"].map(String::from)),
        divider: (columns > 2).then(|| (1, "training length".into())),
    }
}

#[test]
fn heat_maps_have_a_scale_with_numbers() {
    for columns in [0, 1, 3, 30] {
        let figure = Figure::new("Map", "", grid(columns).draw());
        assert!(matches!(
            &figure.drawing.legend[..],
            [Entry {
                sample: Sample::Scale(_),
                ..
            }]
        ));
        for svg in [figure.inline().into_string(), figure.file()] {
            check(&svg);
            assert!(svg.matches("class=\"f h").count() >= 16, "no scale in {svg}");
        }
    }
    let cells = Layer::Cells {
        scale: ("growth".into(), ["1", "", "32"].map(String::from)),
        edges: vec![1.0, 2.0, 4.0],
        rows: vec![("a".into(), vec![0.0, 1.0]), ("b".into(), vec![f64::NAN, 0.5])],
    };
    for svg in drawn(&chart(Scale::Whole, vec![cells])) {
        check(&svg);
        assert!(svg.contains(">growth<") && svg.contains("<title>b</title>"));
    }
}

#[test]
fn what_is_written_around_a_narrow_heat_map_is_not_cut_off() {
    for (columns, divided) in [(1, 0), (2, 1), (3, 2), (12, 11)] {
        let narrow = Grid {
            rows: vec!["0–50 %".into()],
            divider: Some((divided, "training length".into())),
            ..grid(columns)
        };
        let drawing = narrow.draw();
        let svg = drawing.body.clone().into_string();
        for (text, anchor) in [("context length (tokens)", "middle"), ("training length", "")] {
            let (before, _) = svg.split_once(&format!(">{text}<")).expect("it is written");
            let tag = before.rsplit("<text").next().expect("its tag");
            let (_, start) = tag.split_once(" x=\"").expect("x");
            let x: f64 = start
                .split('"')
                .next()
                .expect("closed")
                .parse()
                .expect("a number");
            // Letters of this size are some 7 wide.
            let length = 7.0 * text.len() as f64;
            let begin = match (anchor, tag.contains("\"end\"")) {
                ("middle", _) => x - length / 2.0,
                (_, true) => x - length,
                (_, false) => x,
            };
            assert!(
                begin >= 0.0 && begin + length <= drawing.size.0,
                "{columns}: {text} at {x}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_values_can_be_drawn(points in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 0..12), kind in 0usize..4) {
        let scale = [Scale::Linear, Scale::Whole, Scale::Binary, Scale::Decimal][kind];
        let layers = vec![
            Layer::line("a", points.clone(), Stroke::nth(1)),
            Layer::Dots { name: "b".into(), points, ink: Ink::Text, mark: Mark::DOT },
        ];
        drawn(&chart(scale, layers)).iter().for_each(|svg| check(svg));
    }
}

fn page(made: &Provenance) -> String {
    Page {
        title: HOSTILE.into(),
        facts: HOSTILE.into(),
        summary: vec![HOSTILE.into()],
        body: html! {
            (heading("Part"))
            (table(&headings([HOSTILE]), &[Row::of([HOSTILE])]))
            (Figure::new(HOSTILE, HOSTILE, grid(3).draw()).inline())
            (Figure::new(HOSTILE, HOSTILE, chart(Scale::Linear, vec![Layer::line(HOSTILE, vec![(1.0, 1.0)], Stroke::nth(0))]).draw()).inline())
        },
        files: &[("report.json", HOSTILE)],
        specs: vec!["none", "window:64+forget:0.5", HOSTILE, "window:128"],
        made,
    }
    .render()
}

#[test]
fn hostile_names_are_text_in_pages_and_pictures() {
    let made = Provenance {
        model: HOSTILE.into(),
        command: HOSTILE.into(),
        ..Provenance::here(1)
    };
    let file = Figure::new(HOSTILE, HOSTILE, grid(3).draw()).file();
    for text in [page(&made), file] {
        assert!(
            !text.contains("<script") && text.contains("&lt;script&gt;"),
            "{text}"
        );
        let hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(hidden), "a control character in {text}");
        assert!(text.contains('\u{241b}') && text.contains('\u{2400}'));
    }
    assert_eq!(visible("a\tb\nc"), "a\tb\nc");
}

#[test]
fn a_page_needs_nothing_else_and_says_where_it_comes_from() {
    let made = Provenance {
        model: "tiny: mamba2".into(),
        ..Provenance::here(3)
    };
    let page = page(&made);
    for outside in [
        "http:", "https:", "//", "src=", "<link", "<script", "@import", "url(",
    ] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
        assert!(!found, "{outside} in the page");
    }
    let expected = [
        env!("CARGO_PKG_VERSION"),
        &made.date,
        &made.machine,
        "3 threads",
        "tiny: mamba2",
        "href=\"report.json\"",
    ];
    for text in expected {
        assert!(page.contains(text), "no {text} in the page");
    }
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("max-width:600px"));
}

#[test]
fn the_glossary_has_each_form_on_the_page_once() {
    let entries = glossary(
        [
            "none",
            "window:64+forget:0.99",
            "window:128",
            "restart:64",
            "unheard-of:3",
        ]
        .into_iter(),
    );
    let syntax: Vec<&str> = entries.iter().map(|entry| entry.0).collect();
    assert_eq!(syntax.len(), 4, "{syntax:?}");
    assert!(
        syntax[1].starts_with("window:") && syntax[2].starts_with("forget:") && syntax[3] == "restart:N",
        "{syntax:?}"
    );
    assert!(entries.iter().all(|entry| entry.1.len() > 10));
}

#[test]
fn command_lines_can_be_given_to_a_shell_again() {
    let words = ["diagnose", "a b", "it's", "--mitigation", "rri:0.9,0.75", ""].map(Into::into);
    assert_eq!(
        command_line(words.into_iter()),
        r"spillway diagnose 'a b' 'it'\''s' --mitigation rri:0.9,0.75 ''"
    );
}
