//! `report.html` of a recall run.

use super::report::{self, ArmReport, RecallReport, of_facts, percent, points, task_name};
use crate::kit::format::{count, counted, duration, list};
use crate::kit::page::{self, Page, Row, heading, headings};
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use maud::{Markup, html};
use spillway_models::evaluation::recall::prompt::{Order, PromptForm};
use spillway_models::evaluation::recall::summary::{Cell, Third};

/// The page, with the pictures of [`super::figures`].
pub fn page(report: &RecallReport<'_>, figures: &[(String, Figure)], made: &Provenance) -> String {
    let data = [
        (report::JSON, "everything on this page as data"),
        (
            report::CSV,
            "a line for each model, mitigation, task and kind of prompt",
        ),
        (report::ANSWERS, "every answer"),
    ];
    let pictures = figures
        .iter()
        .map(|(name, _)| (name.as_str(), "a map as a file of its own"));
    let files: Vec<(&str, &str)> = data.into_iter().chain(pictures).collect();
    let unfinished = (!report.complete).then(|| "Interrupted: these are the answers so far.".to_string());
    let length = report.length.map_or("whole documents".into(), |length| {
        format!(
            "documents cut to {} tokens around their answer",
            count(length as u64)
        )
    });
    Page {
        title: "Answers from documents, read once and twice".into(),
        facts: format!(
            "{}{}, {}; {length}; answers of at most {}; seed {}",
            counted(report.documents as u64, "document"),
            of_facts(&report.facts),
            report.data,
            counted(report.answer_tokens as u64, "token"),
            report.seed
        ),
        summary: unfinished.into_iter().chain(findings(report)).collect(),
        body: html! {
            (heading("Answers found"))
            (page::figures(figures.iter().map(|(_, figure)| figure)))
            (heading("Every number"))
            (table(report))
            (heading("Models"))
            (arms(report))
            (heading("How this was measured"))
            (method(report))
        },
        files: &files,
        specs: report.arms.iter().map(|arm| arm.mitigation.as_str()).collect(),
        made,
    }
    .render()
}

/// What the numbers say of each arm.
fn findings(report: &RecallReport<'_>) -> Vec<String> {
    let arms = report.arms.iter().enumerate();
    match report.facts.len() {
        0 | 1 => arms
            .flat_map(|(index, arm)| finding(report, index, arm))
            .collect(),
        _ => arms
            .flat_map(|(index, arm)| over_facts(report, index, arm))
            .collect(),
    }
}

/// What is found, and what reading twice gains, number of facts by number.
fn over_facts(report: &RecallReport<'_>, index: usize, arm: &ArmReport) -> Vec<String> {
    let by_facts = |form: PromptForm, value: &dyn Fn(&Cell) -> Option<String>| {
        let cells = report.whole(index).filter(|cell| cell.form == form);
        let said = cells.filter_map(|cell| Some(format!("{} at {}", value(cell)?, cell.facts?)));
        list(&said.collect::<Vec<_>>())
    };
    let name = arm.name();
    let once = by_facts(PromptForm::ONCE, &|cell| {
        Some(format!("{} %", percent(cell.contains)))
    });
    let gain = by_facts(PromptForm::TWICE, &|cell| cell.gain.map(|_| points(cell.gain)));
    let beyond = by_facts(PromptForm::TWICE, &|cell| {
        cell.beyond_attention.map(|_| points(cell.beyond_attention))
    });
    let mut sentences = Vec::new();
    if !once.is_empty() {
        sentences.push(format!(
            "{name}, at one reading, by facts in a document: found {once}."
        ));
    }
    if !gain.is_empty() {
        sentences.push(format!(
            "Gained, in points, when it comes first and the document twice: {gain}."
        ));
    }
    if let (false, Some(attention)) = (beyond.is_empty(), &report.attention) {
        sentences.push(format!("Of that, beyond the gain of {attention}: {beyond}."));
    }
    let over_alone = by_facts(PromptForm::ONCE, &|cell| {
        cell.over_alone.map(|_| points(cell.over_alone))
    });
    if !over_alone.is_empty() {
        sentences.push(format!(
            "Than without {}, in points: {over_alone}.",
            arm.mitigation
        ));
    }
    sentences
}

fn finding(report: &RecallReport<'_>, index: usize, arm: &ArmReport) -> Vec<String> {
    let cell = |form: PromptForm| report.whole(index).find(|cell| cell.form == form);
    let Some(once) = cell(PromptForm::ONCE) else {
        return Vec::new();
    };
    let name = arm.name();
    let over_alone = once.over_alone.map(|_| {
        let found = points(once.over_alone);
        format!(
            "Than without {}, at one reading, in points: {found}.",
            arm.mitigation
        )
    });
    let Some(twice) = cell(PromptForm::TWICE) else {
        let found = format!(
            "{name}: {} % are found when the question comes after one reading.",
            percent(once.contains)
        );
        return std::iter::once(found).chain(over_alone).collect();
    };
    let gain = twice
        .gain
        .map_or(String::new(), |_| format!(", in points {}", points(twice.gain)));
    let mut sentences = vec![format!(
        "{name}: {} % are found when the question comes after one reading, {} % when it comes first and the document twice{gain}.",
        percent(once.contains),
        percent(twice.contains)
    )];
    if let Some(first) = cell(PromptForm::new(Order::QuestionFirst, 1)) {
        sentences.push(format!(
            "Of that, {} come from the question in front alone, and {} from the second reading.",
            percent(first.contains - once.contains),
            percent(twice.contains - first.contains)
        ));
    }
    if twice.over_padding.is_some() {
        sentences.push(format!(
            "Over a prompt of the same length with dots in the place of the first reading: {}.",
            points(twice.over_padding)
        ));
    }
    if let (Some(beyond), Some(attention)) = (twice.beyond_attention, &report.attention) {
        let judged = match (beyond.low > 0.0, beyond.high < 0.0) {
            (true, _) => "more than attention gains, which forgets nothing: this much is memory",
            (_, true) => "less than attention gains",
            _ => "no telling apart from what attention gains: memory is not shown to be the reason",
        };
        sentences.push(format!(
            "Beyond the gain of {attention}: {}, {judged}.",
            points(twice.beyond_attention)
        ));
    }
    sentences.extend(over_alone);
    sentences
}

fn table(report: &RecallReport<'_>) -> Markup {
    let names = [
        "model",
        "facts in\na document",
        "task",
        "prompt",
        "tokens\nof it",
        "found\n(%)",
        "exact\n(%)",
        "F1",
        "none, repeated,\nirrelevant",
        "found by third\nof the document (%)",
        "gain over d-q:1\n(points)",
        "over padding\n(points)",
        "beyond attention\n(points)",
        "over no mitigation\n(points)",
    ];
    let rows: Vec<Row> = report
        .cells
        .iter()
        .map(|cell| {
            let [low, high] = cell.wilson.map(percent);
            let kinds = cell.kinds;
            let lost = match kinds.not_a_number {
                0 => String::new(),
                lost => format!(" (no numbers: {})", count(lost)),
            };
            let numbers = [
                report.arms[cell.arm].name(),
                cell.facts.map_or("–".into(), |facts| count(facts as u64)),
                task_name(cell).into(),
                cell.form.to_string(),
                count(cell.tokens.round() as u64),
                format!("{} ({low} to {high})", percent(cell.contains)),
                percent(cell.exact),
                format!("{:.3}", cell.f1),
                format!(
                    "{}, {}, {}{lost}",
                    count(kinds.none),
                    count(kinds.repeated),
                    count(kinds.irrelevant)
                ),
                cell.thirds.map(third).join(", "),
                points(cell.gain),
                points(cell.over_padding),
                points(cell.beyond_attention),
                points(cell.over_alone),
            ];
            Row {
                is_apart: cell.form == PromptForm::ONCE,
                ..Row::of(numbers)
            }
        })
        .collect();
    page::table(&headings(names), &rows)
}

fn third(third: Third) -> String {
    match third.asked {
        0 => "–".into(),
        asked => percent(third.found as f64 / asked as f64),
    }
}

fn arms(report: &RecallReport<'_>) -> Markup {
    let names = [
        "model",
        "architecture",
        "parameters",
        "state (bytes)",
        "bytes more\nper token",
        "prompt\ntokens",
        "computed",
        "time",
    ];
    let rows: Vec<Row> = report
        .arms
        .iter()
        .map(|arm| {
            let info = report.models[arm.index];
            Row::of([
                arm.name(),
                info.architecture.into(),
                count(info.parameters),
                count(info.state_bytes),
                count(info.cache_bytes_per_token),
                count(arm.prompt_tokens),
                count(arm.computed_tokens),
                duration(arm.seconds),
            ])
        })
        .collect();
    page::table(&headings(names), &rows)
}

fn method(report: &RecallReport<'_>) -> Markup {
    let mut left_out = Vec::new();
    if report.not_scored > 0 {
        left_out.push(format!(
            "{} whose answer is one character",
            counted(report.not_scored as u64, "document")
        ));
    }
    if report.broken > 0 {
        left_out.push(format!(
            "{} of the file that hold none",
            counted(report.broken as u64, "place")
        ));
    }
    html! {
        p {
            "With H the question, D the document and c what the answer follows upon, d-q:1 is D c, q-d:1 is H D c, and c-q the same as d-q \
             for one reading. With N readings, d-q:N is D … D c, q-d:N is H D … D c, and c-q:N is D c … D c. d-q:1 is the default prompt \
             of Just read twice (2407.05483) and q-d:2 its JRT-Prompt, both to the letter. A padded prompt has one reading and, in the place \
             of the earlier ones, as many tokens of dots."
        }
        @if let Some(short) = report.short_prompt {
            p {
                "A model with an encoder reads a prompt that is shorter than the encoder as " code { "--short-prompt " (short) } " says."
            }
        }
        p {
            "Answers are greedy and end with their line. An answer is found if a right one occurs in it, in any case; exact and F1 are \
             those of SQuAD. Answers that are not found say nothing, repeat the question or themselves, or say something else."
        }
        p {
            "Gains are differences on the same documents; their intervals hold 95 % of 10,000 bootstrapped means, with questions about one text \
             drawn together. What is beyond attention is the gain less the gain of the model that has attention alone, document by \
             document. Over no mitigation is what the same model finds more, by the same prompts, with the mitigation than without."
        }
        @if !left_out.is_empty() { p { "Left out: " (list(&left_out)) "." } }
        @if report.data == "generated" {
            p {
                "The documents are generated and share no answer with those that --training-text writes, but for the table of triviaqa and \
                 the counts of drop."
            }
        }
    }
}
