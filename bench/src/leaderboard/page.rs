//! The leaderboard as a table and as a page.

use super::row::{Leaderboard, PasskeyScore, Row};
use crate::diagnose::report::chart::{GREY, Horizontal, INK, Line, LineChart, Stroke, Vertical};
use crate::diagnose::report::figures::Figure;
use crate::diagnose::report::format::{bytes, count, nats, position};
use crate::diagnose::report::html::{document, escape, push, section, wide};
use crate::error::ProgramError;

const SIZE: (u32, u32) = (760, 400);
/// Beginnings of what is no cure: the model alone, starting again, controls.
const NO_CURES: [&str; 5] = ["none", "reset", "restart", "c-scale", "fitted-noise"];
/// Lengths that the printed table has room for, the longest first.
const LENGTHS_PRINTED: usize = 4;

/// The printed table.
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
            count(row.prefill_tokens_per_second.round() as u64),
            count(row.decode_tokens_per_second.round() as u64),
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

/// The page.
///
/// # Errors
/// [`ProgramError::Picture`].
pub fn page(board: &Leaderboard) -> Result<String, ProgramError> {
    let mut body = String::new();
    head(&mut body, board);
    section(&mut body, "Leaderboard");
    rows(&mut body, board);
    section(&mut body, "Loss at each length");
    wide(&mut body, &losses(board)?);
    if let Some(figure) = over_baseline(board)? {
        wide(&mut body, &figure);
    }
    section(&mut body, "How this was measured");
    method(&mut body, board);
    Ok(document(&format!("Mitigations of {}", board.model.name), &body))
}

fn head(body: &mut String, board: &Leaderboard) {
    let model = &board.model;
    push(
        body,
        format_args!("<h1>Mitigations of {}</h1>", escape(&model.name)),
    );
    push(
        body,
        format_args!(
            "<p class=\"facts\">{}, {} parameters, {} layers; training length T = {} tokens ({}); {} tokens of {}</p>",
            model.architecture,
            count(model.parameters),
            model.layers,
            count(board.settings.train_length),
            escape(&board.train_length_source),
            count(board.settings.length),
            escape(&board.text),
        ),
    );
    body.push_str("<div class=\"summary\">");
    if !board.complete {
        body.push_str("<p>Not finished: these are the rows so far; --resume goes on from here.</p>");
    }
    if let Some(sentence) = finding(board) {
        push(body, format_args!("<p>{}</p>", escape(&sentence)));
    }
    body.push_str("</div>");
}

/// The best row, against the model alone and the baseline.
fn finding(board: &Leaderboard) -> Option<String> {
    let is_cure = |row: &&Row| !NO_CURES.iter().any(|name| row.mitigation.starts_with(name));
    let last = |row: &Row| row.lengths.last().and_then(|at| at.loss);
    let best = board.rows.iter().find(is_cure)?;
    let mut text = format!(
        "At {} tokens the best mitigation is {} with {} nats, at a cost of {} inside the training length",
        count(board.settings.length),
        best.mitigation,
        loss(last(best)),
        nats(best.cost),
    );
    let named = [
        ("none", "the model alone"),
        (board.baseline.as_str(), board.baseline.as_str()),
    ];
    let others: Vec<String> = named
        .iter()
        .filter_map(|(name, words)| Some(format!("{words} has {}", loss(last(board.row(name)?)))))
        .collect();
    if !others.is_empty() {
        text.push_str(&format!("; {}", others.join(", ")));
    }
    Some(text + ".")
}

fn rows(body: &mut String, board: &Leaderboard) {
    let lengths: String = board
        .factors
        .iter()
        .map(|factor| format!("<th>{factor}&nbsp;T</th>"))
        .collect();
    let passkeys = board.rows.first().map_or(&[][..], |row| &row.passkeys);
    let heading = |score: &PasskeyScore| {
        let place = if score.inside { "inside" } else { "beyond" };
        format!(
            "<th>passkeys<br>{place},<br>{}</th>",
            position(score.length as f64)
        )
    };
    let passkeys: String = passkeys.iter().map(heading).collect();
    push(
        body,
        format_args!(
            "<div class=\"scroll\"><table class=\"dense\"><tr><th>mitigation</th>{lengths}<th>inside&nbsp;T</th><th>cost<br>inside</th>{passkeys}\
             <th>prefill<br>tokens/s</th><th>decode<br>tokens/s</th><th>state</th></tr>",
        ),
    );
    for row in &board.rows {
        table_row(body, board, row);
    }
    body.push_str("</table></div>");
    push(
        body,
        format_args!(
            "<p>Mean loss in nats per token over the last T = {} tokens of each length; small figures: over <code>{}</code> at the \
             same tokens. <i>Cost</i>: loss inside T less that of the model alone. <i>State</i>: largest memory of one stream's \
             state, mitigation included.</p>",
            count(board.settings.train_length),
            escape(&board.baseline),
        ),
    );
    for (row, fit) in board.rows.iter().filter_map(|row| Some((row, row.fit.as_ref()?))) {
        push(
            body,
            format_args!(
                "<p><code>{}</code> was fitted: <code>{}</code>, from {} to {} nats on the samples it was fitted on, from {} to {} on \
                 others.</p>",
                escape(&row.mitigation),
                escape(&fit.mitigation),
                loss(Some(fit.calibration[0])),
                loss(Some(fit.calibration[1])),
                loss(Some(fit.test[0])),
                loss(Some(fit.test[1])),
            ),
        );
    }
    for skipped in &board.skipped {
        push(
            body,
            format_args!(
                "<p><code>{}</code> was left out: {}.</p>",
                escape(&skipped.mitigation),
                escape(&skipped.reason)
            ),
        );
    }
}

fn table_row(body: &mut String, board: &Leaderboard, row: &Row) {
    let lengths: String = row
        .lengths
        .iter()
        .map(|at| {
            format!(
                "<td>{}<br><small>{}</small></td>",
                loss(at.loss),
                signed(at.over_baseline)
            )
        })
        .collect();
    let passkeys: String = row
        .passkeys
        .iter()
        .map(|score| format!("<td>{}/{}</td>", score.correct, score.samples))
        .collect();
    let (class, name) = match row.mitigation.as_str() {
        "none" => (" class=\"alone\"", "the model alone".into()),
        name if name == board.baseline => (" class=\"alone\"", format!("<code>{name}</code> (baseline)")),
        name => ("", format!("<code>{}</code>", escape(name))),
    };
    push(
        body,
        format_args!(
            "<tr{class}><td>{name}</td>{lengths}<td>{}</td><td>{}</td>{passkeys}<td>{}</td><td>{}</td><td>{}</td></tr>",
            loss(row.inside),
            signed(row.cost),
            count(row.prefill_tokens_per_second.round() as u64),
            count(row.decode_tokens_per_second.round() as u64),
            bytes(row.state_bytes),
        ),
    );
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
fn losses(board: &Leaderboard) -> Result<Figure, ProgramError> {
    let lines = lines(board, |_, loss| loss);
    let caption = "Mean loss over the last training length of each length; the first point is the mean inside the training length \
                   (dashed). The legend lists the curves from top to bottom at the right-hand end.";
    figure(board, ("Loss", caption, "loss (nats per token)", None), lines)
}

/// Loss over the baseline's, once there is one.
fn over_baseline(board: &Leaderboard) -> Result<Option<Figure>, ProgramError> {
    let Some(baseline) = board.row(&board.baseline).cloned() else {
        return Ok(None);
    };
    let of_baseline = |index: usize| match index {
        0 => baseline.inside,
        _ => baseline.lengths.get(index - 1)?.loss,
    };
    let lines = lines(board, |index, loss| Some(loss? - of_baseline(index)?));
    let caption = format!(
        "The same less {} at the same tokens, which takes out how hard the text is there. Below 0 a mitigation does better than \
         starting again.",
        board.baseline
    );
    let texts = (
        "What the text does not explain",
        caption.as_str(),
        "loss over baseline (nats)",
        Some(0.0),
    );
    Ok(Some(figure(board, texts, lines)?))
}

fn lines(board: &Leaderboard, value: impl Fn(usize, Option<f64>) -> Option<f64>) -> Vec<Line> {
    let train_length = board.settings.train_length as f64;
    let mut coloured = 0;
    let mut lines: Vec<Line> = Vec::new();
    for row in &board.rows {
        let losses =
            std::iter::once((1, row.inside)).chain(row.lengths.iter().map(|at| (at.factor, at.loss)));
        let points = losses
            .enumerate()
            .filter_map(|(index, (factor, loss))| Some((train_length * factor as f64, value(index, loss)?)));
        lines.push(Line {
            points: points.collect(),
            stroke: stroke(board, row, &mut coloured),
            name: row.mitigation.replace("none", "the model alone"),
        });
    }
    let last = |line: &Line| line.points.last().map_or(f64::INFINITY, |point| point.1);
    lines.sort_by(|a, b| last(b).total_cmp(&last(a)));
    lines
}

/// As in a diagnosis: the model alone is black, the baseline grey and dashed, the mitigations coloured.
fn stroke(board: &Leaderboard, row: &Row, coloured: &mut usize) -> Stroke {
    match row.mitigation.as_str() {
        "none" => Stroke {
            colour: INK,
            dash: None,
            width: 3,
        },
        name if name == board.baseline => Stroke {
            colour: GREY,
            dash: Some((3, 3)),
            width: 3,
        },
        _ => {
            *coloured += 1;
            Stroke::nth(*coloured - 1)
        }
    }
}

fn figure(
    board: &Leaderboard,
    (title, caption, quantity, level): (&str, &str, &str, Option<f64>),
    lines: Vec<Line>,
) -> Result<Figure, ProgramError> {
    let chart = LineChart {
        size: SIZE,
        quantity,
        vertical: Vertical::Linear,
        horizontal: Horizontal::Positions {
            mark: board.settings.train_length as f64,
        },
        lines: &lines,
        level,
    };
    Ok(Figure {
        title: title.into(),
        caption: caption.into(),
        svg: chart.svg()?,
        legend: lines
            .iter()
            .map(|line| (line.name.clone(), line.stroke))
            .collect(),
    })
}

fn method(body: &mut String, board: &Leaderboard) {
    let settings = &board.settings;
    let long = settings
        .streams
        .iter()
        .filter(|stream| stream.length == settings.length)
        .count();
    push(
        body,
        format_args!(
            "<p><b>Losses.</b> {long} streams of {} tokens and {} shorter ones, the same for every row, each from an empty state at its own \
             place of the text; the state is carried throughout. Weights in {}, {} threads.</p>",
            count(settings.length),
            settings.streams.len() - long,
            escape(&settings.dtype),
            board.threads,
        ),
    );
    push(
        body,
        format_args!(
            "<p><b>Calibration.</b> Mitigations that take numbers from the model were calibrated on the first {} tokens of the text, \
             which are not among the {} evaluated.</p>",
            count(board.calibration_tokens),
            count(board.text_tokens),
        ),
    );
    body.push_str(
        "<p><b>Speed.</b> A prompt of four training lengths, at most 2,048 tokens, with the logits after its last token; then token by \
         token from there. One sequence, all threads, median of the repetitions.</p>\
         <p><b>Files.</b> leaderboard.json holds everything on this page as data, leaderboard.csv the table.</p>",
    );
}
