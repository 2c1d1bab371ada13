//! The leaderboard as a table and as a page.

use super::row::{Leaderboard, PasskeyScore, Row};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, from_the_top};
use crate::kit::format::{bytes, count, counted, list, nats, position};
use crate::kit::ink::{MOST, Stroke};
use crate::kit::page::{self, Page, heading, headings, spec};
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use crate::trial::NONE;
use maud::{Markup, html};

/// Files beside the page.
const FILES: [(&str, &str); 2] = [
    ("leaderboard.json", "everything on this page as data"),
    ("leaderboard.csv", "the table"),
];
/// Lengths that the printed table has room for, the longest first.
const LENGTHS_PRINTED: usize = 4;

/// The comparison as the table that is printed.
pub fn table(board: &Leaderboard) -> String {
    let width = board.rows.iter().map(|row| row.mitigation.len()).max();
    let width = width.unwrap_or(0).max(10);
    let shown = board.factors.len().saturating_sub(LENGTHS_PRINTED)..;
    let lengths: String = board.factors[shown.clone()]
        .iter()
        .map(|factor| format!("  {:>7}", format!("{factor} T")))
        .collect();
    let mut lines = vec![
        format!(
            "{}: loss in nats per token over the last T = {} tokens of each length; cost inside T",
            board.model.name,
            count(board.settings.train_length)
        ),
        format!(
            "\n{:width$}{lengths}  {:>6}  {:>11}  {:>9}  {:>8}  {:>9}",
            "", "cost", "passkey", "prefill/s", "decode/s", "state"
        ),
    ];
    for row in &board.rows {
        let losses: String = row.lengths[shown.clone()]
            .iter()
            .map(|at| format!("  {:>7}", loss(at.loss)))
            .collect();
        lines.push(format!(
            "{:width$}{losses}  {:>6}  {:>11}  {:>9}  {:>8}  {:>9}",
            row.mitigation,
            nats(row.cost),
            format!("{}, {}", passkeys(row, true), passkeys(row, false)),
            speed(row.prefill_tokens_per_second),
            speed(row.decode_tokens_per_second),
            bytes(row.state_bytes),
        ));
    }
    lines.push(format!(
        "\npasskeys found inside T, and beyond; {} is the baseline",
        board.baseline
    ));
    lines.join("\n")
}

/// Three decimals: mitigations differ in the third.
fn loss(value: Option<f64>) -> String {
    value.map_or("not finite".into(), |value| format!("{value:.3}"))
}

/// Tokens per second, once they are measured.
fn speed(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| count(value.round() as u64))
}

/// Share of the passkeys found inside or beyond the training length.
fn passkeys(row: &Row, inside: bool) -> String {
    let scores = || row.passkeys.iter().filter(|score| score.inside == inside);
    let samples: u64 = scores().map(|score| score.samples).sum();
    let correct: u64 = scores().map(|score| score.correct).sum();
    match samples {
        0 => "–".into(),
        samples => format!("{:.0} %", 100.0 * correct as f64 / samples as f64),
    }
}

/// The comparison as one page of HTML.
pub fn page(board: &Leaderboard, made: &Provenance) -> String {
    let figures: Vec<Figure> = std::iter::once(losses(board))
        .chain(over_baseline(board))
        .collect();
    let model = &board.model;
    let unfinished = "Not finished: these are the rows so far; --resume goes on from here.";
    let unfinished = (!board.complete).then(|| unfinished.to_string());
    let skipped = board.skipped.iter().map(|skipped| skipped.mitigation.as_str());
    Page {
        title: format!("Mitigations of {}", model.name),
        facts: format!(
            "{}, {} parameters, {}; training length T = {} tokens ({}); {} tokens of {}",
            model.architecture,
            count(model.parameters),
            counted(model.layers as u64, "layer"),
            count(board.settings.train_length),
            board.train_length_source,
            count(board.settings.length),
            board.text,
        ),
        summary: unfinished
            .into_iter()
            .chain(finding(board))
            .chain(losing_recall(board))
            .collect(),
        body: html! {
            (heading("Leaderboard"))
            (rows(board))
            (heading("Loss at each length"))
            (page::figures(&figures))
            (heading("How this was measured"))
            (method(board))
        },
        files: &FILES,
        specs: board
            .rows
            .iter()
            .map(|row| row.mitigation.as_str())
            .chain(skipped)
            .collect(),
        made,
    }
    .render()
}

/// Neither a control nor the baseline's kind, which forgets everything.
fn is_cure(row: &Row) -> bool {
    !row.is_control() && !row.mitigation.starts_with("reset")
}

/// What comes first by its loss, if it finds fewer passkeys than the model alone.
fn first_by_loss(board: &Leaderboard) -> Option<String> {
    let first = board.rows.iter().find(|row| is_cure(row))?;
    let (found, asked) = first.passkeys_found();
    let by_alone = board.row(NONE)?.passkeys_found().0;
    (!board.keeps_recall(first)).then(|| {
        format!(
            "By its loss alone {} comes first, with {} nats; of {} it finds {}, the model alone {}.",
            first.mitigation,
            loss(first.last_loss()),
            counted(asked, "passkey"),
            count(found),
            count(by_alone)
        )
    })
}

/// What is said of rows that are no cures, whatever their loss: they find fewer passkeys than the model alone.
pub fn losing_recall(board: &Leaderboard) -> impl Iterator<Item = String> {
    first_by_loss(board).into_iter().chain(no_cures(board))
}

fn no_cures(board: &Leaderboard) -> Option<String> {
    let alone = board.row(NONE)?;
    let (found, asked) = alone.passkeys_found();
    let losing = board
        .rows
        .iter()
        .filter(|row| is_cure(row) && board.loses_recall(row));
    let losing: Vec<String> = losing
        .map(|row| format!("{} ({})", row.mitigation, row.passkeys_found().0))
        .collect();
    let are = match losing.len() {
        0 => return None,
        1 => "is no cure, as it loses",
        _ => "are no cures, as they lose",
    };
    Some(format!(
        "{} {are} what the model recalls: alone it finds {} of {}.",
        list(&losing),
        count(found),
        counted(asked, "passkey")
    ))
}

/// The best row that gains, and finds as many passkeys as the model alone, against that and the baseline.
fn finding(board: &Leaderboard) -> Option<String> {
    board.rows.iter().find(|row| is_cure(row))?;
    let keeps = |row: &&Row| is_cure(row) && board.gains(row) && board.keeps_recall(row);
    let length = count(board.settings.length);
    let mut text = match board.rows.iter().find(keeps) {
        Some(best) => format!(
            "At {length} tokens the best mitigation is {} with {} nats, at a cost of {} inside the training length",
            best.mitigation,
            loss(best.last_loss()),
            nats(best.cost),
        ),
        None => format!(
            "At {length} tokens no mitigation does better than the model alone and keeps what it recalls"
        ),
    };
    let named = [
        (NONE, "the model alone"),
        (board.baseline.as_str(), board.baseline.as_str()),
    ];
    let others: Vec<String> = named
        .iter()
        .filter_map(|(name, words)| Some(format!("{words} has {}", loss(board.row(name)?.last_loss()))))
        .collect();
    if !others.is_empty() {
        text.push_str(&format!("; {}", others.join(", ")));
    }
    Some(text + ".")
}

fn rows(board: &Leaderboard) -> Markup {
    let passkeys = board.rows.first().map_or(&[][..], |row| &row.passkeys);
    let heading = |score: &PasskeyScore| {
        let place = if score.inside { "inside" } else { "beyond" };
        format!("passkeys\n{place},\n{}", position(score.length as f64))
    };
    let mut names = vec!["mitigation".to_string()];
    names.extend(board.factors.iter().map(|factor| format!("{factor}\u{a0}T")));
    names.extend(["inside\u{a0}T", "cost\ninside"].map(String::from));
    names.extend(passkeys.iter().map(heading));
    names.extend(["prefill\ntokens/s", "decode\ntokens/s", "state"].map(String::from));
    let rows: Vec<page::Row> = board.rows.iter().map(|row| table_row(board, row)).collect();
    html! {
        (page::table(&headings(names), &rows))
        p {
            "Mean loss in nats per token over the last T = " (count(board.settings.train_length))
            " tokens of each length; small figures: over " code { (board.baseline) } " at the same tokens. " i { "Cost" }
            ": loss inside T less that of the model alone. " i { "State" } ": largest memory of one stream's state, mitigation included."
        }
        @for (row, fit) in board.rows.iter().filter_map(|row| Some((row, row.fit.as_ref()?))) {
            p {
                code { (row.mitigation) } " was fitted: " code { (fit.mitigation) } (format!(
                    ", from {} to {} nats on the samples it was fitted on, from {} to {} on others.",
                    loss(Some(fit.calibration[0])),
                    loss(Some(fit.calibration[1])),
                    loss(Some(fit.test[0])),
                    loss(Some(fit.test[1])),
                ))
            }
        }
        @for skipped in &board.skipped { p { code { (skipped.mitigation) } " was left out: " (skipped.reason) "." } }
    }
}

fn table_row(board: &Leaderboard, row: &Row) -> page::Row {
    let is_baseline = row.mitigation == board.baseline;
    let name = html! { (spec(&row.mitigation)) @if is_baseline { " (baseline)" } };
    let lengths = row
        .lengths
        .iter()
        .map(|at| html! { (loss(at.loss)) br; small { (signed(at.over_baseline)) } });
    let losses = [loss(row.inside), signed(row.cost)];
    let passkeys = row
        .passkeys
        .iter()
        .map(|score| format!("{}/{}", score.correct, score.samples));
    let costs = [
        speed(row.prefill_tokens_per_second),
        speed(row.decode_tokens_per_second),
        bytes(row.state_bytes),
    ];
    let others = page::Row::of(losses.into_iter().chain(passkeys).chain(costs));
    page::Row {
        cells: std::iter::once(name).chain(lengths).chain(others.cells).collect(),
        is_apart: is_baseline || row.mitigation == "none",
    }
}

fn signed(difference: Option<f64>) -> String {
    match difference {
        None => "–".into(),
        Some(value) if value.abs() < 0.0005 => "0.000".into(),
        Some(value) if value < 0.0 => format!("\u{2212}{:.3}", -value),
        Some(value) => format!("+{value:.3}"),
    }
}

/// Loss of every row against length.
fn losses(board: &Leaderboard) -> Figure {
    let grey = match board.rows.len() > MOST {
        true => " All but the best mitigations are grey, and in the table above.",
        false => "",
    };
    let caption = format!(
        "Mean loss over the last training length of each length; the first point is the mean inside the training length (dashed). The legend \
         lists the curves from top to bottom at the right-hand end.{grey}"
    );
    let y = Axis::new("loss (nats per token)", Scale::Linear);
    Figure::new(
        "Loss",
        caption,
        chart(y, layers(board, None, |_, loss| loss)).draw(),
    )
}

/// Loss over the baseline's, once there is one.
fn over_baseline(board: &Leaderboard) -> Option<Figure> {
    let baseline = board.row(&board.baseline)?;
    let of_baseline = |index: usize| match index {
        0 => baseline.inside,
        _ => baseline.lengths.get(index - 1)?.loss,
    };
    let level = Layer::Level(0.0, String::new());
    let layers = layers(board, Some(level), |index, loss| {
        Some(loss? - of_baseline(index)?)
    });
    let caption = format!(
        "The same less {} at the same tokens, which takes out how hard the text is there. Below 0 a mitigation does better than \
         starting again.",
        board.baseline
    );
    let y = Axis::new("loss over baseline (nats)", Scale::Linear);
    Some(Figure::new(
        "What the text does not explain",
        caption,
        chart(y, layers).draw(),
    ))
}

fn chart(y: Axis, layers: Vec<Layer>) -> Chart {
    Chart {
        x: Axis::new("length (tokens)", Scale::Binary),
        y,
        exponential: None,
        layers,
    }
}

/// The training length, a level, and a line for each row.
fn layers(
    board: &Leaderboard,
    level: Option<Layer>,
    value: impl Fn(usize, Option<f64>) -> Option<f64>,
) -> Vec<Layer> {
    let train_length = board.settings.train_length as f64;
    let mut coloured = 0;
    let mut lines = Vec::new();
    for row in &board.rows {
        let losses =
            std::iter::once((1, row.inside)).chain(row.lengths.iter().map(|at| (at.factor, at.loss)));
        let points = losses
            .enumerate()
            .filter_map(|(index, (factor, loss))| Some((train_length * factor as f64, value(index, loss)?)));
        let name = match row.mitigation.as_str() {
            "none" => "the model alone".to_string(),
            name => name.to_string(),
        };
        lines.push((name, points.collect(), stroke(board, row, &mut coloured)));
    }
    let mark = Layer::At(train_length, "training length".into());
    std::iter::once(mark)
        .chain(level)
        .chain(from_the_top(lines))
        .collect()
}

/// As in a diagnosis: the model alone is black, the baseline grey and dashed, the best mitigations coloured.
fn stroke(board: &Leaderboard, row: &Row, coloured: &mut usize) -> Stroke {
    match row.mitigation.as_str() {
        "none" => Stroke::ALONE,
        name if name == board.baseline => Stroke::BASELINE,
        _ => {
            *coloured += 1;
            Stroke::beside(*coloured - 1)
        }
    }
}

fn method(board: &Leaderboard) -> Markup {
    let settings = &board.settings;
    let long = settings
        .streams
        .iter()
        .filter(|stream| stream.length == settings.length)
        .count();
    let short = settings.streams.len() - long;
    html! {
        p {
            b { "Losses." } " " (counted(long as u64, "stream")) " of " (count(settings.length)) " tokens"
            @if short > 0 { " and " (counted(short as u64, "shorter one")) }
            ", the same for every row, each from an empty state at its own place of the text; the state is carried throughout. Weights in "
            (settings.dtype) "."
        }
        p {
            b { "Calibration." } " Mitigations that take numbers from the model were calibrated on the first "
            (count(board.calibration_tokens)) " tokens of the text, which are not among the " (count(board.text_tokens)) " evaluated."
        }
        p {
            b { "Speed." } " A prompt of four training lengths, at most 2,048 tokens, with the logits after its last token; then token by token \
            from there. One sequence, median of the repetitions. Speeds are measured last, mitigation after mitigation, by one process on its "
            (counted(board.threads as u64, "thread")) ", while nothing else of this comparison runs on any: other processes that took part wait."
        }
    }
}
